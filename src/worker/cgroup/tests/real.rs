//! The kernel of this machine, as far as it lets us.

use std::process::{Child, Command, Stdio};

use super::*;
use crate::sys::process::{Exit, reap};
use crate::sys::{join, process};

/// Groups of this machine; `None`, loudly, where none can be made.
pub(crate) fn real(name: &str) -> Option<Cgroups> {
    let limits = Limits { cores: None, memory_bytes: 90 * MIB, processes: 4 };
    let name = format!("neap-agent-test-{name}-{}", std::process::id());
    let cgroups = Cgroups::open(&Settings { mode: Mode::Auto, path: None, name, workers: vec![limits] }).unwrap();
    if cgroups.floor().had("cgroup") == Had::No {
        eprintln!("SKIPPED: no cgroup can be made here: {:?}", cgroups.floor().sentences());
        return None;
    }
    Some(cgroups)
}

/// A process in the groups of slot 0 from before its first instruction.
pub(crate) fn start(cgroups: &Cgroups, command: &mut Command) -> Child {
    process::tie_to_parent(command);
    join::join_before_exec(command, Arc::clone(&cgroups.made.slots[0].joins));
    let child = command.spawn().unwrap();
    assert_eq!(cgroups.after_start(0, true), Vec::<String>::new());
    child
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

fn wait_for(what: &str, wanted: impl Fn() -> bool) {
    let end = clock::now().after(Duration::from_secs(60));
    while !wanted() {
        assert!(clock::now() < end, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_child_is_in_every_group_from_its_first_instruction_on() {
    let Some(cgroups) = real("enter") else { return };
    let mut command = Command::new("cat");
    let child = start(&cgroups, command.arg("/proc/self/cgroup").stdout(Stdio::piped()));
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let inside = text.lines().filter(|line| line.ends_with(&format!("neap-agent-test-enter-{}/0", std::process::id())));
    assert_eq!(inside.count(), cgroups.made.held.len(), "{text}");
}

#[test]
fn a_frozen_process_executes_nothing_whoever_continues_it_and_goes_on_when_thawed() {
    let Some(cgroups) = real("freeze") else { return };
    if cgroups.floor().had(FREEZE_FILE) != Had::Yes {
        eprintln!("SKIPPED: {:?}", cgroups.floor().sentences());
        return;
    }
    let mut child = start(&cgroups, Command::new("sh").args(["-c", "while :; do :; done"]));
    let cpu = || clock::process_cpu(pid(&child)).unwrap();
    wait_for("it computes", || cpu() > Duration::from_millis(5));
    cgroups.freeze(0);
    wait_for("it is frozen", || cgroups.is_frozen(0));
    let before = cpu();
    for _ in 0..100 {
        crate::sys::signal::continue_process(pid(&child)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    // The kernel says frozen a moment before it takes the process off the core.
    assert!(cpu() < before + Duration::from_millis(1));
    cgroups.thaw(0);
    wait_for("it goes on", || cpu() > before + Duration::from_millis(5));
    cgroups.freeze(0);
    wait_for("it is frozen", || cgroups.is_frozen(0));
    cgroups.kill(0);
    assert_eq!(reap(pid(&child)).unwrap(), Exit::Signal(9), "frozen, it can be killed");
    let _reaped = child.try_wait();
}

#[test]
fn what_a_dead_agent_left_running_dies_at_the_next_start_of_its_name() {
    let Some(cgroups) = real("left") else { return };
    let mut child = start(&cgroups, Command::new("sleep").arg("1000"));
    // As after SIGKILL: neither closed nor dropped, only its locks are gone.
    let folders: Vec<PathBuf> = cgroups.made.held.iter().map(|held| held.home.folder.clone()).collect();
    cgroups.closed.store(true, SeqCst);
    drop(cgroups);
    assert!(child.try_wait().unwrap().is_none() && folders.iter().all(|folder| folder.is_dir()));

    let next = real("left").unwrap();
    assert_eq!(reap(pid(&child)).unwrap(), Exit::Signal(9));
    drop(next);
    assert!(!folders.iter().any(|folder| folder.exists()), "{folders:?}");
}

#[test]
fn a_fork_bomb_meets_its_limit_and_dies_with_the_group() {
    let Some(cgroups) = real("forks") else { return };
    if cgroups.floor().had("pids.max") != Had::Yes {
        eprintln!("SKIPPED: {:?}", cgroups.floor().sentences());
        return;
    }
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; exit 7";
    let mut child = start(&cgroups, Command::new("sh").args(["-c", script]).stderr(Stdio::null()));
    assert_ne!(child.wait().unwrap().code(), Some(7), "the shell gives up when it cannot fork");
    let inside = || tree::processes(&cgroups.made.slots[0].groups[0]).len();
    assert_eq!(inside(), 3, "the limit is 4 with the shell");
    cgroups.kill(0);
    wait_for("all die", || inside() == 0);
}

#[test]
fn memory_beyond_the_limit_is_not_had() {
    let Some(cgroups) = real("memory") else { return };
    if cgroups.floor().had("memory.max") != Had::Yes {
        eprintln!("SKIPPED: {:?}", cgroups.floor().sentences());
        return;
    }
    // Without a line break `tail` keeps all of it: 200 MB, and the limit is 100 MiB.
    let mut child =
        start(&cgroups, Command::new("sh").args(["-c", "head -c 200000000 /dev/zero | tail >/dev/null && exit 7"]));
    assert_ne!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_look_leaves_nothing_behind_and_tells_the_same_items() {
    let Some(cgroups) = real("look") else { return };
    let limits = Limits { cores: None, memory_bytes: 90 * MIB, processes: 4 };
    let settings =
        Settings { mode: Mode::Auto, path: None, name: "neap-agent-test-none".to_owned(), workers: vec![limits] };
    let names = |floor: &Floor| floor.items().iter().map(|item| (item.name, item.had)).collect::<Vec<_>>();
    let looked = Cgroups::look(&settings);
    assert_eq!(names(&looked), names(cgroups.floor()));
    let base = cgroups.made.held[0].home.folder.parent().unwrap();
    assert!(!base.join(format!("neap-probe-{}", std::process::id())).exists());
    assert!(!base.join("neap-agent-test-none").exists());
}
