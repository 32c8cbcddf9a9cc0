//! Where are the cgroup hierarchies, and where in them is this process? Read from `/proc/self/{mountinfo,cgroup}`; pure.

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

/// The controllers that are used, as the kernel names them.
pub(super) const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which kind.
    pub(super) kind: Kind,
    /// Its topmost folder that can be seen.
    pub(super) mount: PathBuf,
    /// The folder of the group that this process is in; `None` when it lies outside of what is mounted.
    pub(super) own: Option<PathBuf>,
    /// Path of the mounted part within the hierarchy, `/` for the whole.
    root: PathBuf,
}

/// Kind of a hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Version 2. Which controllers it has depends on the folder.
    Unified,
    /// Version 1, with these of [`CONTROLLERS`].
    Legacy(Vec<&'static str>),
}

impl Place {
    /// The folder of a path such as `/neap.slice`, counted from the top of the hierarchy.
    pub(super) fn folder(&self, path: &Path) -> Option<PathBuf> {
        below(&self.mount, &self.root, path)
    }

    /// How sentences call it.
    pub(super) fn name(&self) -> String {
        match &self.kind {
            Kind::Unified => "cgroup v2".to_owned(),
            Kind::Legacy(controllers) => format!("cgroup v1 {}", controllers.join(",")),
        }
    }
}

/// Every hierarchy with a controller that is used, and version 2 whatever it has: it freezes and kills without any.
pub(super) fn places(mountinfo: &str, cgroup: &str) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for line in mountinfo.lines() {
        let Some((root, mount, kind)) = mounted(line) else { continue };
        // Mounted twice: the first is as good.
        if places.iter().any(|place| place.kind == kind) {
            continue;
        }
        let own = own_path(cgroup, &kind).and_then(|path| below(&mount, &root, &path));
        places.push(Place { kind, mount, own, root });
    }
    places
}

/// Root, mount point and kind of a line of `mountinfo`, if it is a hierarchy of use.
fn mounted(line: &str) -> Option<(PathBuf, PathBuf, Kind)> {
    let (fields, file_system) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let (root, mount) = (unescape(fields.next()?), unescape(fields.next()?));
    let mut file_system = file_system.split(' ');
    let kind = match file_system.next()? {
        "cgroup2" => Kind::Unified,
        "cgroup" => {
            let options = file_system.nth(1)?;
            let has = |name: &&&str| options.split(',').any(|option| option == **name);
            let controllers: Vec<&'static str> = CONTROLLERS.iter().filter(has).copied().collect();
            if controllers.is_empty() {
                return None;
            }
            Kind::Legacy(controllers)
        }
        _ => return None,
    };
    Some((root, mount, kind))
}

/// The path of this process in that hierarchy: a line `4:memory:/path`, or `0::/path`.
fn own_path(cgroup: &str, kind: &Kind) -> Option<PathBuf> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let this = match kind {
            Kind::Unified => controllers.is_empty(),
            Kind::Legacy(own) => own.iter().all(|name| controllers.split(',').any(|listed| listed == *name)),
        };
        this.then(|| PathBuf::from(path))
    })
}

/// The folder below `mount` of a path within the hierarchy; `None` outside of what is mounted.
fn below(mount: &Path, root: &Path, path: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(root).ok()?;
    let climbs = rest.components().any(|part| !matches!(part, Component::Normal(_)));
    (!climbs).then(|| mount.join(rest)).map(|folder| folder.components().collect())
}

/// `\040` and the like, as the kernel writes a space in a path.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let octal =
            bytes.get(at + 1..at + 4).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => (path.push(escaped), at += 4).1,
            None => (path.push(*byte), at += 1).1,
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_machine_has_its_version_1_controllers_and_version_2() {
        let own = "5:devices:/x\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/user.slice\n";
        let found = places(HYBRID, own);
        let shown: Vec<_> = found.iter().map(|place| (place.name(), place.own.clone().unwrap())).collect();
        let expected = [
            ("cgroup v1 cpu", "/sys/fs/cgroup/cpu,cpuacct"),
            ("cgroup v1 memory", "/sys/fs/cgroup/memory/a/b"),
            ("cgroup v2", "/sys/fs/cgroup/unified/user.slice"),
        ];
        assert_eq!(shown, expected.map(|(name, own)| (name.to_owned(), PathBuf::from(own))));
    }

    #[test]
    fn a_modern_machine_has_one_hierarchy() {
        let mounts = "29 23 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let found = places(mounts, "0::/system.slice/neap.service\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].own.as_deref(), Some(Path::new("/sys/fs/cgroup/system.slice/neap.service")));
        assert_eq!(found[0].folder(Path::new("/neap.slice")), Some("/sys/fs/cgroup/neap.slice".into()));
        assert_eq!(found[0].folder(Path::new("/")), Some("/sys/fs/cgroup".into()));
    }

    #[test]
    fn in_a_container_the_mounted_part_is_the_top_and_what_lies_outside_is_not_reached() {
        let mounts = "29 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let own = |path: &str| places(mounts, &format!("0::{path}\n"))[0].own.clone();
        assert_eq!(own("/docker/abc"), Some("/sys/fs/cgroup".into()));
        assert_eq!(own("/docker/abc/x"), Some("/sys/fs/cgroup/x".into()));
        assert_eq!(own("/docker/abcd"), None);
        assert_eq!(own("/docker/abc/../y"), None);
    }

    #[test]
    fn spaces_in_mount_points_and_lines_that_make_no_sense_are_read() {
        let mounts = "nonsense\n1 2 0:3 / /my\\040cgroup rw - cgroup2 cgroup2 rw\n5 6 - cgroup\n";
        let found = places(mounts, "also nonsense\n");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].mount.as_path(), &found[0].own), (Path::new("/my cgroup"), &None));
    }
}
