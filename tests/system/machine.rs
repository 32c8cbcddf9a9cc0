//! How is a whole machine had for a minute? A kernel of Debian under qemu-system, with everything in its initramfs.
//!
//! Emulated instruction by instruction (TCG): it tells right from wrong, never fast from slow. Its clock counts its own
//! instructions, 4 ns each, and jumps to the next timer when it has nothing to do. So however busy the machine below is,
//! inside everything takes the same time, and waiting takes none.
//!
//! The emulator carries out one core after the other, each until the next timer is due, and before version 8.1 it leaves
//! nothing to the one behind a busy core. So there are three, and the one in the middle is never switched on: cores 0
//! and 2 are fair to one another.

#![allow(unreachable_pub, reason = "parts of one test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::archive::Archive;

/// Only for an emulator that hangs, in seconds: `init` bounds each step by the machine's own clock.
const REAL_S_MAX: u32 = 2700;

/// Most of the machine's memory, in MiB: the initramfs is in it twice for a moment.
const MEMORY_MIB: u32 = 3072;

/// One machine at a time: each uses a core and gigabytes of memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A kernel of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flavour {
    /// What follows `linux-image-` in the package's name.
    pub name: &'static str,
    /// What its programs are built for, as Rust names it.
    pub architecture: &'static str,
    /// Whether it is PREEMPT_RT.
    pub is_realtime: bool,
}

/// The smallest kernel for x86-64.
pub const AMD64: Flavour = Flavour { name: "cloud-amd64", architecture: "x86_64", is_realtime: false };
/// PREEMPT_RT for x86-64.
pub const RT_AMD64: Flavour = Flavour { name: "rt-amd64", architecture: "x86_64", is_realtime: true };
/// The kernel for 64-bit ARM.
pub const ARM64: Flavour = Flavour { name: "arm64", architecture: "aarch64", is_realtime: false };
/// PREEMPT_RT for 64-bit ARM.
pub const RT_ARM64: Flavour = Flavour { name: "rt-arm64", architecture: "aarch64", is_realtime: true };

impl Flavour {
    /// Debian's name of the architecture.
    fn debian(self) -> &'static str {
        if self.architecture == "aarch64" { "arm64" } else { "amd64" }
    }

    /// The emulator, the Debian package that has it, its arguments, and the console as the kernel calls it.
    fn emulator(self) -> (&'static str, &'static str, &'static [&'static str], &'static str) {
        match self.architecture {
            // No SVE: there tract would be 44 times slower.
            "aarch64" => ("qemu-system-aarch64", "qemu-system-arm", &["-M", "virt", "-cpu", "neoverse-n1"], "ttyAMA0"),
            _ => ("qemu-system-x86_64", "qemu-system-x86", &["-cpu", "max"], "ttyS0"),
        }
    }
}

/// One step of a machine's work.
#[derive(Clone, Debug)]
pub struct Step {
    /// Name of its script.
    pub name: String,
    /// How it ended; `None` when the machine ended before.
    pub code: Option<i32>,
    /// What it wrote.
    pub output: String,
}

impl Step {
    /// What it saw under that name, in order: the rest of each line `NEAP-SEE NAME …`.
    pub fn saw(&self, name: &str) -> Vec<&str> {
        let lines = self.output.lines().filter_map(|line| line.strip_prefix("NEAP-SEE "));
        let found = lines.filter_map(|line| line.split_once(' ').filter(|(found, _)| *found == name));
        found.map(|(_, value)| value.trim()).collect()
    }
}

/// What a machine did.
#[derive(Debug)]
pub struct Report {
    /// Release, version and architecture of its kernel, in its own words.
    pub kernel: String,
    /// In the order in which they were carried out.
    pub steps: Vec<Step>,
    /// Everything that it wrote, below `target`.
    console: PathBuf,
}

impl Report {
    /// The step of that name, which must have ended well.
    pub fn step(&self, name: &str) -> &Step {
        let found = self.steps.iter().find(|step| step.name == name);
        let step = found.unwrap_or_else(|| panic!("no step {name}: see {}", self.console.display()));
        let why = format!("step {name} ended with {:?}, see {}:\n{}", step.code, self.console.display(), step.output);
        assert_eq!(step.code, Some(0), "{why}");
        step
    }
}

/// Boots a machine that carries out these steps (name, shell script), one after the other. `name` is what its files below
/// `target` are called.
pub fn run(flavour: Flavour, name: &str, archive: &Archive, steps: &[(&str, String)]) -> Report {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("system");
    fs::create_dir_all(&folder).expect("a folder can be made below target");
    let (console, initramfs) = (folder.join(format!("{name}.console")), folder.join(format!("{name}.initramfs")));

    let mut archive = archive.clone();
    archive.program("init", include_bytes!("init"));
    for (step, script) in steps {
        archive.file(Path::new("steps").join(step), script.as_str());
    }
    // Archives behind one another are unpacked in turn, and what comes later counts.
    let userlands = archive.also.iter().copied().chain([flavour.debian()]);
    let packed = |name| fs::read(prepared("initramfs", name)).expect("what was prepared can be read");
    let mut bytes: Vec<u8> = userlands.flat_map(packed).collect();
    bytes.extend(archive.bytes());
    fs::write(&initramfs, bytes).expect("an initramfs can be written");
    let _ = fs::remove_file(&console);

    let ended = boot(flavour, &console, &initramfs);
    let _ = fs::remove_file(&initramfs);
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).replace('\r', "");
    eprintln!("{name}: {}", summary(&text));
    assert!(ended, "{name}: not done after {REAL_S_MAX} s, or no emulator; its console:\n{text}");
    let mut lines = text.lines();
    let kernel = lines.find_map(|line| line.strip_prefix("NEAP-MACHINE ")).unwrap_or_default().to_owned();
    assert!(text.contains("\nNEAP-END"), "{name} did not come to its end; its console:\n{text}");
    Report { kernel, steps: read(&text), console }
}

/// Whether the machine ended by itself.
fn boot(flavour: Flavour, console: &Path, initramfs: &Path) -> bool {
    let (program, package, arguments, tty) = flavour.emulator();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &REAL_S_MAX.to_string(), program]).args(arguments);
    command.args(["-accel", "tcg,thread=single", "-icount", "shift=2,sleep=off"]);
    command.args(["-smp", "3", "-m", &MEMORY_MIB.to_string(), "-no-reboot"]);
    command.args(["-display", "none", "-monitor", "none", "-nic", "none"]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.arg("-kernel").arg(prepared("kernel", flavour.name)).arg("-initrd").arg(initramfs);
    command.arg("-append").arg(format!("console={tty} quiet loglevel=3 panic=-1 maxcpus=1 rdinit=/init"));
    let status = command.stdin(Stdio::null()).status().expect("timeout of coreutils can be run");
    assert_ne!(status.code(), Some(127), "{program} is missing: apt-get install --no-install-recommends {package}");
    status.success()
}

/// What the script `tests/arm/NAME` puts below the cache for that argument.
fn prepared(script: &str, argument: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/arm").join(script);
    let output = Command::new(&path).arg(argument).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(output.status.success(), "{} {argument} failed, see above", path.display());
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// The steps on a console.
fn read(console: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_open = false;
    for line in console.lines() {
        if let Some(name) = line.strip_prefix("NEAP-BEGIN ") {
            steps.push(Step { name: name.trim().to_owned(), code: None, output: String::new() });
            is_open = true;
        } else if let (Some(ended), true) = (line.strip_prefix("NEAP-STEP "), is_open) {
            is_open = false;
            let step = steps.last_mut().expect("one is open");
            step.code = ended.split(' ').nth(1).and_then(|code| code.parse().ok());
        } else if let (Some(step), true) = (steps.last_mut(), is_open) {
            step.output.push_str(line);
            step.output.push('\n');
        }
    }
    steps
}

/// One line for people: the kernel, and how each step ended.
fn summary(console: &str) -> String {
    let told =
        console.lines().filter_map(|line| line.strip_prefix("NEAP-MACHINE ").or(line.strip_prefix("NEAP-STEP ")));
    told.collect::<Vec<_>>().join("; ")
}
