//! A disk that refuses: real file systems that are full or read-only, and the answers of the kernel changed by strace.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::node::Node;
use super::wait_for;

/// A file system in memory of its own; unmounted when dropped.
pub struct Tmpfs {
    at: PathBuf,
}

impl Tmpfs {
    /// Mounts one with these options; `None`, and loudly so, where that is not permitted.
    pub fn mount(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("a folder can be made");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Some(Self { at: at.to_owned() }),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                eprintln!("\n!!! SKIPPED: a file system cannot be mounted here: {why} !!!\n");
                None
            }
            Err(error) => {
                eprintln!("\n!!! SKIPPED: there is no mount: {error} !!!\n");
                None
            }
        }
    }

    /// Makes it read-only, or writable again.
    pub fn set_read_only(&self, read_only: bool) {
        let option = if read_only { "remount,ro" } else { "remount,rw" };
        let status = Command::new("mount").args(["-o", option]).arg(&self.at).status().expect("mount was there before");
        assert!(status.success(), "mount -o {option}");
    }

    /// Writes a file until nothing more fits.
    pub fn fill(&self) {
        let mut ballast = fs::File::create(self.at.join("ballast")).expect("a file can be made");
        for size in [64 * 1024, 4096, 1] {
            while ballast.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// Makes files until no more can be made.
    pub fn use_up_inodes(&self) {
        let made = (0..10_000).take_while(|n| fs::File::create(self.at.join(format!("inode-{n}"))).is_ok()).count();
        assert!(made < 10_000, "the inodes are limited");
    }

    /// Takes away what filled it.
    pub fn free(&self) {
        for entry in fs::read_dir(&self.at).expect("the folder is there").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "ballast" || name.starts_with("inode-") {
                fs::remove_file(entry.path()).expect("a file can be removed");
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: an agent of a test that failed may still use it.
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

/// Whether strace is here and may trace; says loudly when not. With `CI=true` it must be.
pub fn can_trace() -> bool {
    let works = Command::new("strace")
        .args(["-o", "/dev/null", "-e", "inject=getpid:error=EIO", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        assert!(std::env::var_os("CI").is_none(), "strace must work in CI");
        eprintln!("\n!!! SKIPPED: strace is missing or may not trace here !!!\n");
    }
    works
}

/// System calls that write the store.
pub const WRITES: &str = "pwrite64,fdatasync,fsync,ftruncate,rename,linkat,openat";

/// strace on the one thread of the agent that writes the store; gone when dropped.
pub struct Tracer(Child);

impl Tracer {
    /// From now on these rules hold, such as `inject=fdatasync:error=EIO`. What is traced is written to `log`.
    pub fn attach(node: &Node, calls: &str, rules: &[&str], log: Option<&Path>) -> Self {
        let thread = store_thread(node);
        let mut command = Command::new("strace");
        command.args(["-qq", "-p", &thread.to_string(), "-e", &format!("trace={calls}")]);
        for rule in rules {
            command.args(["-e", rule]);
        }
        command.arg("-o").arg(log.unwrap_or(Path::new("/dev/null")));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace can be started");
        let traced = || {
            let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")).then_some(())
        };
        wait_for("strace at the store's thread", || node.log(), traced);
        Self(child)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets the thread go when it is told to end; a killed one does, too, but its log may lack lines.
        if let Some(pid) = Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(0)) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Thread id of the thread that writes the store.
pub fn store_thread(node: &Node) -> i32 {
    let tasks = format!("/proc/{}/task", node.agent_pid());
    wait_for(
        "the store's thread",
        || node.log(),
        || {
            let tasks = fs::read_dir(&tasks).ok()?.flatten();
            let of_store = |task: &fs::DirEntry| {
                fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "neap-store")
            };
            tasks.filter(of_store).find_map(|task| task.file_name().to_str()?.parse().ok())
        },
    )
}
