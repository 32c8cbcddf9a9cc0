//! Which folder is the RAN's cgroup, and which threads are in it?
//!
//! Both versions of cgroups, and the mixture that systemd calls *hybrid*: there CPU time is told in a hierarchy of
//! version 1, pressure by the folder of the same name below `/sys/fs/cgroup/unified`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::files::{below, read};
use super::threads::THREADS_MAX;
use crate::load::Problem;

/// Where the hierarchies are mounted, as every distribution has it.
const MOUNT: &str = "/sys/fs/cgroup";
/// Names that the hierarchy with CPU time has in version 1.
const V1_NAMES: [&str; 3] = ["cpuacct", "cpu,cpuacct", "cpuacct,cpu"];
/// Name of version 2 beside version 1.
const HYBRID_NAME: &str = "unified";
/// Most folders that are looked at for a unit, or for threads.
const FOLDERS_MAX: usize = 1024;
/// Deepest folder that is looked at for a unit, or for threads, counted from where the search begins.
const DEPTH_MAX: usize = 6;
/// Longest name of a unit, which is systemd's limit.
const UNIT_BYTES_MAX: usize = 255;
/// Calls of a [`Finder`] for each walk that finds nothing.
const CALLS_PER_WALK: u32 = 4;
/// Longest list of threads of one folder, in bytes.
const LIST_BYTES_MAX: usize = 16 * 1024;

pub(super) const NO_UNIT: &str = "a systemd unit that has no cgroup with CPU time";

/// A cgroup, by its folder or by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// Its folder, such as `/sys/fs/cgroup/ran.slice` (version 2) or `/sys/fs/cgroup/cpuacct/ran` (version 1).
    Folder(PathBuf),
    /// A systemd unit, such as `ocudu.service`, wherever below `/sys/fs/cgroup` its folder is.
    Unit(String),
}

impl Group {
    pub(super) fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Folder(path) if !path.is_absolute() => {
                Err(Problem::setting("cgroup", path.display(), "an absolute path below /sys/fs/cgroup"))
            }
            Self::Unit(name) => {
                let is_unit = [".service", ".scope", ".slice"].iter().any(|end| name.ends_with(end));
                if !is_unit || name.contains('/') || name.len() > UNIT_BYTES_MAX {
                    let limit = "the whole name of a systemd unit, such as ocudu.service";
                    return Err(Problem::setting("unit", format_args!("{name:?}"), limit));
                }
                Ok(())
            }
            Self::Folder(_) => Ok(()),
        }
    }

    /// Its folder below `root`. A folder that was named need not be there; a unit is looked for, which takes long.
    pub(super) fn folder(&self, root: &Path) -> Result<PathBuf, &'static str> {
        match self {
            Self::Folder(path) => Ok(below(root, path)),
            Self::Unit(name) => find(root, name).ok_or(NO_UNIT),
        }
    }
}

/// Finds a cgroup's folder over and over, without a walk at every call.
#[derive(Debug)]
pub(super) struct Finder {
    root: PathBuf,
    group: Group,
    found: Option<PathBuf>,
    /// Calls that are answered without a walk.
    rest: u32,
}

impl Finder {
    pub(super) fn new(root: &Path, group: &Group) -> Self {
        Self { root: root.to_owned(), group: group.clone(), found: None, rest: 0 }
    }

    /// The folder, which is there if it is that of a unit.
    pub(super) fn folder(&mut self) -> Result<PathBuf, &'static str> {
        if let Some(found) = self.found.take_if(|found| found.is_dir()) {
            self.found = Some(found.clone());
            return Ok(found);
        }
        self.found = None;
        if self.rest > 0 {
            self.rest -= 1;
            return Err(NO_UNIT);
        }
        let folder = self.group.folder(&self.root);
        match &folder {
            Ok(folder) => self.found = Some(folder.clone()),
            Err(_) => self.rest = CALLS_PER_WALK,
        }
        folder
    }
}

fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let mount = below(root, Path::new(MOUNT));
    let v1 = V1_NAMES.iter().chain(&[HYBRID_NAME]).map(|name| mount.join(name)).filter(|top| top.is_dir());
    let v1: Vec<PathBuf> = v1.collect();
    // Version 2 has this file in every folder, and version 1 in none.
    let is_v2 = v1.is_empty() || mount.join("cgroup.controllers").exists();
    let tops = if is_v2 { vec![mount] } else { v1 };
    let has_name = |folder: &PathBuf| folder.file_name().is_some_and(|found| found == name);
    let has_time = |folder: &PathBuf| ["cpu.stat", "cpuacct.usage"].iter().any(|name| folder.join(name).exists());
    tops.iter().find_map(|top| walk(top).find(|folder| has_name(folder) && has_time(folder)))
}

/// The folder and those below it, the nearest first, as far as the limits allow.
fn walk(top: &Path) -> impl Iterator<Item = PathBuf> {
    let mut waiting = VecDeque::from([(top.to_owned(), 0)]);
    let next = move || {
        let (folder, depth) = waiting.pop_front()?;
        if depth < DEPTH_MAX {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            waiting.extend(folders.map(|entry| (entry.path(), depth + 1)).take(FOLDERS_MAX - waiting.len()));
        }
        Some(folder)
    };
    std::iter::from_fn(next).take(FOLDERS_MAX)
}

/// Thread ids of the cgroup and of all below it, ascending.
pub(super) fn threads(folder: &Path) -> Result<Vec<i32>, &'static str> {
    let mut found = Vec::new();
    let mut buffer = vec![0; LIST_BYTES_MAX];
    for group in walk(folder) {
        // One that ended meanwhile has no threads.
        let Some(list) = ["cgroup.threads", "tasks"].iter().find_map(|name| File::open(group.join(name)).ok()) else {
            continue;
        };
        for line in read(&list, &mut buffer)?.lines() {
            match line.trim().parse::<i32>() {
                Ok(tid @ 1..) => found.push(tid),
                // The kernel's way to say so.
                Ok(0) => return Err("threads outside the agent's PID namespace"),
                Ok(_) | Err(_) => return Err("a list of threads that is not one of numbers"),
            }
            if found.len() > THREADS_MAX {
                return Err("more than 512 threads");
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Where a cgroup's CPU pressure is told, the likeliest place first.
pub(super) fn pressure_files(root: &Path, folder: &Path) -> Vec<PathBuf> {
    let mount = below(root, Path::new(MOUNT));
    let relative = V1_NAMES.iter().find_map(|name| folder.strip_prefix(mount.join(name)).ok());
    let hybrid = relative.map(|relative| mount.join(HYBRID_NAME).join(relative));
    std::iter::once(folder.to_owned()).chain(hybrid).map(|folder| folder.join("cpu.pressure")).collect()
}
