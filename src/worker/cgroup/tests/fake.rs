//! A kernel in a folder: shows the files that a kernel would, keeps its rules, and records every write.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::super::tree::{self, Tree};

/// A hierarchy of version 2 in `v2`, and those of version 1 by the controller's name.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) folder: tempfile::TempDir,
    /// Files that this kernel does not have.
    pub(super) absent: &'static [&'static str],
    /// What is refused, by the end of the path, with the error's number.
    pub(super) refused: &'static [(&'static str, i32)],
    writes: Mutex<Vec<(String, String)>>,
}

impl Fake {
    /// A machine with these mounts (`v2`, or controllers of version 1) on which the agent is in the group `own`.
    pub(super) fn new(mounts: &[&str], own: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Self { folder, absent: &[], refused: &[], writes: Mutex::default() };
        let (mut mountinfo, mut cgroup) = (String::new(), String::new());
        for mount in mounts {
            let path = fake.folder.path().join(mount);
            let (kind, controllers) = if *mount == "v2" { ("cgroup2", "") } else { ("cgroup", *mount) };
            mountinfo += &format!("1 1 0:1 / {} rw - {kind} {kind} rw,{controllers}\n", path.display());
            cgroup += &format!("1:{controllers}:{own}\n");
            fs::create_dir(&path).unwrap();
            fake.show(&path, "cpuset cpu io memory pids", true);
            let mut group = path;
            for part in own.split('/').filter(|part| !part.is_empty()) {
                fs::write(group.join("cgroup.subtree_control"), "cpuset cpu memory pids").unwrap();
                group.push(part);
                fake.make(&group).unwrap();
            }
            fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        }
        fs::create_dir(fake.proc_self()).unwrap();
        fs::write(fake.proc_self().join("mountinfo"), mountinfo).unwrap();
        fs::write(fake.proc_self().join("cgroup"), cgroup).unwrap();
        fake
    }

    pub(super) fn proc_self(&self) -> PathBuf {
        self.folder.path().join("proc")
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The text of a file; `None` when there is none.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    /// What was written, as `path=value`, in order.
    pub(super) fn writes(&self) -> Vec<String> {
        self.writes.lock().unwrap().iter().map(|(path, value)| format!("{path}={value}")).collect()
    }

    fn show(&self, folder: &Path, controllers: &str, top: bool) {
        let mut files = vec![("cgroup.procs", "")];
        if folder.starts_with(self.path("v2")) {
            files.extend([("cgroup.controllers", controllers), ("cgroup.subtree_control", "")]);
            if !top {
                let events = "populated 0\nfrozen 0\n";
                files.extend([("cgroup.freeze", "0"), ("cgroup.kill", ""), ("cgroup.events", events)]);
                files.extend([("memory.pressure", ""), ("cgroup.type", "domain")]);
            }
            let of: &[(&str, &[(&str, &str)])] = &[
                ("cpu", &[("cpu.weight", "100"), ("cpu.idle", "0")]),
                ("cpuset", &[("cpuset.cpus", "")]),
                ("memory", &[("memory.max", "max"), ("memory.high", "max"), ("memory.swap.max", "max")]),
                ("memory", &[("memory.oom.group", "0"), ("memory.events", "")]),
                ("pids", &[("pids.max", "max")]),
            ];
            let has = |name: &str| !top && controllers.split(' ').any(|controller| controller == name);
            files.extend(of.iter().filter(|(name, _)| has(name)).flat_map(|(_, files)| files.iter().copied()));
        } else if folder.starts_with(self.path("cpu")) {
            files.extend([("cpu.shares", "1024"), ("cpu.idle", "0")]);
        } else if folder.starts_with(self.path("memory")) {
            files.extend([("memory.limit_in_bytes", "9"), ("memory.memsw.limit_in_bytes", "9")]);
            files.extend([("memory.swappiness", "60"), ("memory.failcnt", "0")]);
        } else if folder.starts_with(self.path("pids")) {
            files.push(("pids.max", "max"));
        }
        let is_new = |file: &str| file == "cgroup.controllers" || !folder.join(file).exists();
        for (file, text) in files.into_iter().filter(|(file, _)| is_new(file) && !self.absent.contains(file)) {
            fs::write(folder.join(file), text).unwrap();
        }
    }

    fn refuse(&self, path: &Path) -> io::Result<()> {
        let path = path.display().to_string();
        match self.refused.iter().find(|(end, _)| path.ends_with(end)) {
            Some((_, code)) => Err(io::Error::from_raw_os_error(*code)),
            None => Ok(()),
        }
    }
}

fn busy() -> io::Error {
    io::Error::from_raw_os_error(libc::EBUSY)
}

impl Tree for Fake {
    fn make(&self, folder: &Path) -> io::Result<()> {
        self.refuse(folder)?;
        fs::create_dir(folder)?;
        let given = folder.parent().and_then(|parent| tree::read(parent, "cgroup.subtree_control")).unwrap_or_default();
        self.show(folder, &given, false);
        Ok(())
    }

    fn remove(&self, folder: &Path) -> io::Result<()> {
        if !tree::processes(folder).is_empty() || !tree::groups(folder, 1).is_empty() {
            return Err(busy());
        }
        fs::remove_dir_all(folder)
    }

    fn write(&self, file: &Path, value: &str) -> io::Result<()> {
        self.refuse(file)?;
        if !file.exists() {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let folder = file.parent().unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let mut text = value.to_owned();
        if name == "cgroup.subtree_control" {
            let held = tree::read(folder, name).unwrap();
            let (sign, word) = value.split_at(1);
            if sign == "+" && folder.starts_with(self.path("v2")) && folder != self.path("v2") {
                may_give(folder, word)?;
            }
            let kept = held.split_whitespace().filter(|held| *held != word);
            text = kept.chain((sign == "+").then_some(word)).collect::<Vec<_>>().join(" ");
        }
        if name == "cgroup.procs" {
            forget(self.folder.path(), value);
        }
        fs::write(file, &text)?;
        if name == "cgroup.subtree_control" {
            tree::groups(folder, usize::MAX).iter().for_each(|group| self.show(group, &text, false));
        }
        let path = file.strip_prefix(self.folder.path()).unwrap().display().to_string();
        self.writes.lock().unwrap().push((path, value.to_owned()));
        Ok(())
    }
}

/// The kernel's rules of who may give a controller to its groups, the top excepted. With processes in it a group gives
/// controllers that know threads, and is one of threads from then on; what is in it is good for nothing.
fn may_give(folder: &Path, controller: &str) -> io::Result<()> {
    let knows_threads = ["cpu", "cpuset", "pids"].contains(&controller);
    match tree::read(folder, "cgroup.type").as_deref() {
        Some("domain") if tree::processes(folder).is_empty() => Ok(()),
        Some("domain") if !knows_threads => Err(busy()),
        Some("domain" | "domain threaded") if knows_threads => {
            fs::write(folder.join("cgroup.type"), "domain threaded")?;
            for group in tree::groups(folder, usize::MAX) {
                fs::write(group.join("cgroup.type"), "domain invalid")?;
            }
            Ok(())
        }
        _ => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
    }
}

/// A process that enters a group leaves the one that it was in.
fn forget(folder: &Path, pid: &str) {
    for group in tree::groups(folder, usize::MAX) {
        if tree::read(&group, "cgroup.procs").is_some_and(|text| text == pid) {
            fs::write(group.join("cgroup.procs"), "").unwrap();
        }
        forget(&group, pid);
    }
}
