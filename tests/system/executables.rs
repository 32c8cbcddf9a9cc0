//! Which of this crate's test executables go into a machine, and what paths do they expect there?
//!
//! A test executable has paths compiled in, to the binary and to the source tree; cargo writes them down beside it. In
//! the machine these paths are made to exist.

#![allow(unreachable_pub, reason = "parts of one test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::archive::Archive;

/// Most of a machine's own time that one executable takes, in seconds: so that the end of what hangs can be shown, shorter
/// than what `init` gives a step.
const TESTS_S_MAX: u32 = 1700;

/// A test executable as cargo made it.
#[derive(Debug)]
pub struct Executable {
    file: PathBuf,
    /// The source tree that it was made from.
    pub tree: PathBuf,
    /// The binary that it starts; `None` for unit tests.
    binary: Option<PathBuf>,
}

impl Executable {
    /// The newest one in the target folder `debug` of a test file such as `tests/cgroups.rs`, or of the library's unit
    /// tests (`src/lib.rs`). It must not be older than what it was made from.
    pub fn find(debug: &Path, source: &str) -> Self {
        let stem =
            if source == "src/lib.rs" { "neap" } else { source.trim_start_matches("tests/").trim_end_matches(".rs") };
        let remedy =
            format!("make it with: cargo test --no-run, for that target, so that it is in {}", debug.display());
        let entries = fs::read_dir(debug.join("deps")).unwrap_or_else(|error| panic!("{error}; {remedy}"));
        let lists = entries.flatten().map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_suffix(".d").and_then(|name| name.rsplit_once('-')).is_some_and(|(name, _)| name == stem)
        });
        let found = lists.filter_map(|list| Self::read(&list, source));
        let newest = found.max_by_key(|found| modified(&found.file));
        newest.unwrap_or_else(|| panic!("no test executable of {source} that is newer than its sources; {remedy}"))
    }

    /// What cargo's list of dependencies says, if the executable beside it is there, was made from that file, and is
    /// newer than all that it was made from.
    fn read(list: &Path, source: &str) -> Option<Self> {
        let file = list.with_extension("");
        let text = fs::read_to_string(list).ok()?;
        let rule = text.lines().find_map(|line| line.strip_prefix(&format!("{}: ", file.display())))?;
        let said = |name: &str| text.lines().find_map(|line| line.strip_prefix(&format!("# env-dep:{name}=")));
        let (tree, binary) = (said("CARGO_MANIFEST_DIR").map(PathBuf::from), said("CARGO_BIN_EXE_neap"));
        let tree = tree.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let made = modified(&file)?;
        let is_current =
            rule.split(' ').all(|source| modified(&tree.join(source)).is_none_or(|changed| changed <= made));
        let is_it = rule.split(' ').next() == Some(source);
        (is_it && is_current).then(|| Self { file, tree, binary: binary.map(PathBuf::from) })
    }

    /// Puts it into the machine at `/tests/NAME`, and what it expects at the paths that it knows: the binary (a link to
    /// `/usr/bin/neap`) and, of the source tree, the models and the test data.
    pub fn put(&self, name: &str, archive: &mut Archive) {
        archive.program(Path::new("tests").join(name), stripped(&self.file));
        if let Some(binary) = &self.binary {
            archive.link(binary, "/usr/bin/neap");
        }
        archive.link(self.tree.join("models"), "/models");
        for folder in ["config", "tests/data"] {
            archive.folder(self.tree.join(folder), &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        }
    }

    /// A script that runs its tests, those whose names contain one of `filters`, and shows what was skipped, the sums,
    /// and everything when one failed.
    pub fn script(&self, name: &str, filters: &[&str]) -> String {
        let (tree, filters) = (self.tree.display(), filters.join(" "));
        format!(
            "cd {tree} || exit 1\n\
             CI=true NEAP_SYSTEM_MACHINE=1 timeout {TESTS_S_MAX} /tests/{name} {filters} --nocapture >/tmp/{name} 2>&1\n\
             code=$?\n\
             grep -h 'SKIPPED\\|^test result\\|FAILED$' /tmp/{name}\n\
             [ $code -eq 0 ] || tail -n 400 /tmp/{name}\n\
             exit $code\n"
        )
    }
}

fn modified(file: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(file).and_then(|meta| meta.modified()).ok()
}

/// A program without what only debuggers need, where a strip for its architecture is at hand: tests are large.
pub fn stripped(file: &Path) -> Vec<u8> {
    // Tests of this file run side by side.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let name = format!("stripped-{}-{}", std::process::id(), CALLS.fetch_add(1, Relaxed));
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let tools = ["strip", "aarch64-linux-gnu-strip", "arm-linux-gnueabihf-strip"];
    let strip = |tool: &&str| {
        let mut command = Command::new(tool);
        command.arg("--strip-debug").arg("-o").arg(&to).arg(file);
        command.output().is_ok_and(|output| output.status.success())
    };
    let is_stripped = tools.iter().any(strip);
    let bytes = fs::read(if is_stripped { &to } else { file });
    let _ = fs::remove_file(&to);
    bytes.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
