//! Did the kernel kill a worker because memory ran out? The worker's cgroup counts that; the exit alone does not tell it
//! from an operator's `kill -9`.

use std::fs;

use super::cgroup::MemorySigns;

/// The count of one worker's cgroup, from the start of a process on.
pub(super) struct Watch {
    signs: MemorySigns,
    before: Option<u64>,
}

impl Watch {
    /// A process begins.
    pub(super) fn start(signs: MemorySigns) -> Self {
        let before = kills(&signs);
        Self { signs, before }
    }

    /// Whether the kernel has killed in the group since.
    pub(super) fn has_killed(&self) -> bool {
        self.before.zip(kills(&self.signs)).is_some_and(|(before, now)| now > before)
    }
}

/// How often processes of a group have been killed for memory so far; `None` where the kernel does not count it.
fn kills(signs: &MemorySigns) -> Option<u64> {
    // Version 1 counts beside the limit's own counter.
    let path = signs.events.clone().or_else(|| Some(signs.failcnt.as_ref()?.with_file_name("memory.oom_control")))?;
    let text = fs::read_to_string(path).ok()?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("memory.events"), "low 0\nhigh 7\nmax 5\noom 3\noom_kill 2\noom_group_kill 1\n").unwrap();
        fs::write(path("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n").unwrap();
        let version_2 = MemorySigns { events: Some(path("memory.events")), ..MemorySigns::default() };
        let version_1 = MemorySigns { failcnt: Some(path("memory.failcnt")), ..MemorySigns::default() };
        assert_eq!((kills(&version_2), kills(&version_1)), (Some(2), Some(4)));
        assert_eq!(kills(&MemorySigns::default()), None);
        fs::write(path("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\n").unwrap();
        assert_eq!(kills(&version_1), None, "kernels before 4.13 do not count");
    }

    #[test]
    fn only_a_rise_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.events");
        fs::write(&path, "oom_kill 2\n").unwrap();
        let watch = Watch::start(MemorySigns { events: Some(path.clone()), ..MemorySigns::default() });
        assert!(!watch.has_killed());
        fs::write(&path, "oom_kill 3\n").unwrap();
        assert!(watch.has_killed());
        assert!(!Watch::start(MemorySigns::default()).has_killed());
    }
}
