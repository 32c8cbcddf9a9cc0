//! Claims about the groups: on kernels that this machine does not have, and on the one it has.

mod fake;
pub(crate) mod real;

use std::fs;

use fake::Fake;

use super::*;

const MIB: u64 = 1024 * 1024;

fn settings(mode: Mode) -> Settings {
    let limits = |core: &str| Limits { cores: Some(core.to_owned()), memory_bytes: 900 * MIB, processes: 16 };
    Settings { mode, path: None, name: "neap-agent-a-00000001".to_owned(), workers: vec![limits("2"), limits("3")] }
}

fn open(fake: Fake, settings: &Settings) -> (Arc<Fake>, Result<Cgroups, Error>) {
    let fake = Arc::new(fake);
    let proc_self = fake.proc_self();
    let tree: Arc<dyn Tree> = Arc::<Fake>::clone(&fake);
    (fake, Cgroups::open_in(settings, tree, &proc_self))
}

fn text<'a>(floor: &'a Floor, name: &str) -> &'a str {
    floor.items().iter().find(|item| item.name == name).map_or("", |item| item.text.as_str())
}

// ---- version 2 ----

#[test]
fn in_a_delegated_unit_the_agent_moves_aside_and_every_worker_gets_all_limits() {
    let fake = Fake::new(&["v2"], "/system.slice/neap.service");
    let (fake, cgroups) = open(fake, &settings(Mode::Required));
    let cgroups = cgroups.unwrap();
    let unit = "v2/system.slice/neap.service";
    let file = |path: &str| fake.text(&format!("{unit}/{path}"));
    let own = std::process::id().to_string();
    assert_eq!(file("neap-agent-a-00000001.ctl/cgroup.procs"), Some(own.clone()));
    assert_eq!(file("cgroup.procs").as_deref(), Some(""));
    assert_eq!(
        file("neap-agent-a-00000001/cpu.idle").as_deref(),
        Some("1"),
        "our folder competes, not the groups in it"
    );
    assert_eq!(file("neap-agent-a-00000001.ctl/cpu.idle").as_deref(), Some("0"), "the agent itself is not idle");
    for (slot, core) in [(0, "2"), (1, "3")] {
        let worker = |name: &str| file(&format!("neap-agent-a-00000001/{slot}/{name}")).unwrap();
        let limits =
            ["cpu.idle", "cpuset.cpus", "memory.high", "memory.max", "memory.swap.max", "memory.oom.group"].map(worker);
        let (high, max) = ((900 * MIB).to_string(), (1000 * MIB).to_string());
        assert_eq!(limits, ["1", core, &high, &max, "0", "1"].map(str::to_owned));
        assert_eq!(worker("pids.max"), "16");
    }
    let all = ["cgroup", "cpu.idle", "cpuset.cpus", "memory.max", "memory.high", "memory.swap.max", "memory.oom.group"];
    for item in all.into_iter().chain(["pids.max", "cgroup.freeze", "cgroup.kill"]) {
        assert_eq!(cgroups.floor().had(item), Had::Yes, "{:?}", cgroups.floor().sentences());
    }
    let signs = cgroups.memory_signs(1);
    let worker = fake.path(unit).join("neap-agent-a-00000001/1");
    assert_eq!(
        (signs.pressure, signs.events),
        (Some(worker.join("memory.pressure")), Some(worker.join("memory.events")))
    );
    assert_eq!(signs.failcnt, None);

    cgroups.close();
    assert!(!fake.path(unit).join("neap-agent-a-00000001").exists());
    assert!(!fake.path(unit).join("neap-agent-a-00000001.ctl").exists());
    assert_eq!(file("cgroup.procs"), Some(own), "the agent is back where it was started");
}

#[test]
fn a_leaf_that_the_unit_made_for_the_agent_is_used_as_it_is() {
    let fake = Fake::new(&["v2"], "/neap.service/ctl");
    let (fake, cgroups) = open(fake, &settings(Mode::Required));
    let cgroups = cgroups.unwrap();
    assert_eq!(fake.text("v2/neap.service/ctl/cgroup.procs"), Some(std::process::id().to_string()));
    assert_eq!(fake.text("v2/neap.service/neap-agent-a-00000001/0/cpu.idle").as_deref(), Some("1"));
    assert!(!fake.writes().iter().any(|write| write.contains("cgroup.procs")), "{:?}", fake.writes());
    cgroups.close();
}

#[test]
fn groups_above_that_have_the_weight_of_any_other_are_told_with_the_remedy() {
    let (_fake, cgroups) = open(Fake::new(&["v2"], "/system.slice/neap.service"), &settings(Mode::Auto));
    let cgroups = cgroups.unwrap();
    let told = text(cgroups.floor(), "cpu.idle above");
    assert_eq!(cgroups.floor().had("cpu.idle above"), Had::No);
    assert!(told.contains("neap.service and ") && told.contains("CPUWeight=idle"), "{told}");

    let fake = Fake::new(&["v2"], "/neap.slice/neap.service");
    fs::write(fake.path("v2/neap.slice/cpu.idle"), "1").unwrap();
    fs::write(fake.path("v2/neap.slice/neap.service/cpu.weight"), "1").unwrap();
    let (_fake, cgroups) = open(fake, &settings(Mode::Auto));
    assert_eq!(cgroups.unwrap().floor().had("cpu.idle above"), Had::Yes);
}

#[test]
fn beside_other_processes_the_agent_stays_and_tells_how_to_be_alone() {
    let fake = Fake::new(&["v2"], "/session.scope");
    fs::write(fake.path("v2/session.scope/cgroup.procs"), format!("1\n{}\n", std::process::id())).unwrap();
    let (fake, cgroups) = open(fake, &settings(Mode::Auto));
    let cgroups = cgroups.unwrap();
    assert!(!fake.writes().iter().any(|write| write.contains("cgroup.procs")), "{:?}", fake.writes());
    assert_eq!(fake.text("v2/session.scope/cgroup.type").as_deref(), Some("domain"), "the session's group is changed");
    let told = text(cgroups.floor(), "memory.max");
    assert!(told.contains("has processes besides the agent") && told.contains("Delegate="), "{told}");
    assert_eq!((cgroups.floor().had("cpu.idle"), cgroups.floor().had("cgroup.freeze")), (Had::No, Had::Yes));
    let item = text(cgroups.floor(), "cpuset.cpus");
    assert!(item.contains("affinity"), "{item}");
}

#[test]
fn a_mere_look_from_the_agents_own_group_leaves_it_as_it_is() {
    let fake = Fake::new(&["v2"], "/neap.service");
    let made = make::make(&settings(Mode::Auto), &fake, &fake.proc_self(), Purpose::Look);
    let told = text(&made.floor, "memory.max");
    assert_eq!((made.floor.had("memory.max"), made.floor.had("cpu.idle")), (Had::Nearly, Had::Nearly), "{told}");
    made.remove(&fake);
    let file = |name: &str| fake.text(&format!("v2/neap.service/{name}"));
    assert_eq!(file("cgroup.subtree_control").as_deref(), Some(""));
    assert_eq!(file("cgroup.type").as_deref(), Some("domain"));
    assert_eq!(file("cgroup.procs"), Some(std::process::id().to_string()));
}

#[test]
fn a_controller_that_is_not_delegated_is_named_with_the_line_that_the_unit_needs() {
    let fake = Fake::new(&["v2"], "/neap.service");
    fs::write(fake.path("v2/neap.service/cgroup.controllers"), "cpu pids").unwrap();
    let (_fake, cgroups) = open(fake, &settings(Mode::Required));
    let error = cgroups.unwrap_err().to_string();
    assert!(error.contains("memory.max: no: the memory controller is not given to"), "{error}");
    assert!(error.contains("Delegate=cpu cpuset memory pids"), "{error}");
    assert!(!error.contains("cpu.idle"), "{error}");
}

#[test]
fn a_kernel_without_cpu_idle_gives_the_least_weight() {
    let mut fake = Fake::new(&["v2"], "/neap.service");
    fake.absent = &["cpu.idle", "cgroup.kill"];
    let (fake, cgroups) = open(fake, &settings(Mode::Required));
    let cgroups = cgroups.expect("the weight will do");
    let folder = "v2/neap.service/neap-agent-a-00000001";
    for group in [folder.to_owned(), format!("{folder}/0")] {
        assert_eq!(fake.text(&format!("{group}/cpu.weight")).as_deref(), Some("1"), "{group}");
    }
    assert_eq!((cgroups.floor().had("cpu.idle"), cgroups.floor().had("cgroup.kill")), (Had::Nearly, Had::No));
    assert!(text(cgroups.floor(), "cpu.idle").contains("cpu.weight 1 instead"));
}

// ---- version 1 and hybrids ----

#[test]
fn version_1_gives_its_limits_and_on_a_hybrid_version_2_freezes() {
    let (fake, cgroups) = open(Fake::new(&["cpu", "memory", "pids", "cpuset", "v2"], "/a"), &settings(Mode::Required));
    let cgroups = cgroups.unwrap();
    let file = |path: &str| fake.text(path).unwrap();
    let folder = "a/neap-agent-a-00000001";
    assert_eq!(file(&format!("cpu/{folder}/cpu.idle")), "1");
    assert_eq!(file(&format!("cpu/{folder}/1/cpu.idle")), "1");
    assert_eq!(file(&format!("memory/{folder}/1/memory.limit_in_bytes")), (1000 * MIB).to_string());
    assert_eq!(file(&format!("memory/{folder}/1/memory.memsw.limit_in_bytes")), (1000 * MIB).to_string());
    assert_eq!(file(&format!("pids/{folder}/1/pids.max")), "16");
    assert!(!fake.path("cpuset/a/neap-agent-a-00000001").exists(), "nothing may enter it before its cores are set");
    assert_eq!((cgroups.floor().had("cpu.idle"), cgroups.floor().had("cgroup.freeze")), (Had::Yes, Had::Yes));
    assert_eq!(cgroups.memory_signs(0).failcnt, Some(fake.path(&format!("memory/{folder}/0/memory.failcnt"))));
    cgroups.close();
    let left = ["cpu", "memory", "pids", "v2"].map(|mount| fake.path(&format!("{mount}/{folder}")).exists());
    assert_eq!(left, [false; 4]);
}

#[test]
fn version_1_alone_of_an_old_kernel_gives_the_least_shares_and_freezes_nothing() {
    let mut fake = Fake::new(&["cpu", "memory"], "/");
    fake.absent = &["cpu.idle", "memory.memsw.limit_in_bytes"];
    let (fake, cgroups) = open(fake, &settings(Mode::Required));
    let cgroups = cgroups.unwrap();
    let folder = "cpu/neap-agent-a-00000001";
    let shares =
        [folder.to_owned(), format!("{folder}/0")].map(|group| fake.text(&format!("{group}/cpu.shares")).unwrap());
    assert_eq!(shares, ["2", "2"]);
    let floor = cgroups.floor();
    assert_eq!((floor.had("cpu.idle"), floor.had("memory.swap.max")), (Had::Nearly, Had::Nearly));
    assert!(text(floor, "pids.max").contains("no hierarchy that is mounted has the pids controller"));
    assert!(text(floor, "cgroup.freeze").contains("version 2 is not mounted"));
}

// ---- refusals ----

#[test]
fn without_privilege_workers_run_without_groups_and_required_says_what_to_do() {
    let fake = || {
        let mut fake = Fake::new(&["cpu", "memory", "v2"], "/user");
        fake.refused = &[("neap-agent-a-00000001", libc::EACCES)];
        fake
    };
    let (_fake, cgroups) = open(fake(), &settings(Mode::Auto));
    let cgroups = cgroups.unwrap();
    let items = ["cgroup", "cpu.idle", "memory.max", "pids.max", "cgroup.freeze"];
    assert_eq!(items.map(|item| cgroups.floor().had(item)), [Had::No; 5]);
    assert!(text(cgroups.floor(), "memory.max").contains("run as root, or add Delegate="), "{:?}", cgroups.floor());
    cgroups.kill(0);
    cgroups.freeze(0);
    assert!(!cgroups.is_frozen(0));

    let (_fake, refused) = open(fake(), &settings(Mode::Required));
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("\"required\"") && error.contains("Permission denied") && error.contains("\"auto\""),
        "{error}"
    );
}

#[test]
fn a_path_that_is_not_there_is_named_and_one_that_is_there_is_used() {
    let at = |path: &str| Settings { path: Some(path.into()), ..settings(Mode::Auto) };
    let (_fake, cgroups) = open(Fake::new(&["v2"], "/a/b"), &at("/neap.slice"));
    let cgroups = cgroups.unwrap();
    assert!(text(cgroups.floor(), "cgroup").contains("no group /neap.slice below"), "{:?}", cgroups.floor());
    let (fake, cgroups) = open(Fake::new(&["v2"], "/a/b"), &at("/a"));
    assert_eq!(fake.text("v2/a/neap-agent-a-00000001/0/cpu.idle").as_deref(), Some("1"));
    assert_eq!(cgroups.unwrap().floor().had("cpu.idle"), Had::Yes);
}

#[test]
fn switched_off_nothing_is_made() {
    let (fake, cgroups) = open(Fake::new(&["v2"], "/a"), &settings(Mode::Off));
    let cgroups = cgroups.unwrap();
    assert_eq!(fake.writes(), Vec::<String>::new());
    assert_eq!(cgroups.floor().sentences().len(), 1, "{:?}", cgroups.floor());
    assert!(text(cgroups.floor(), "cgroup").contains("\"off\""));
}

#[test]
fn a_machine_without_any_hierarchy_is_told_to_mount_one() {
    let (_fake, cgroups) = open(Fake::new(&[], "/"), &settings(Mode::Auto));
    let told = cgroups.unwrap();
    assert!(text(told.floor(), "cgroup").contains("mount cgroup2"), "{:?}", told.floor());
}

// ---- what the dead have left ----

#[test]
fn folders_of_dead_agents_are_removed_and_those_of_the_living_and_of_strangers_stay() {
    let fake = Fake::new(&["v2"], "/a");
    let folder = |name: &str| fake.path(&format!("v2/a/{name}"));
    for name in ["neap-agent-dead-00000002", "neap-agent-lives-00000003", "neap.service", "neap-agent-", "other"] {
        fake.make(&folder(name)).unwrap();
        fake.make(&folder(name).join("0")).unwrap();
    }
    fake.make(&folder("neap-agent-dead-00000002.ctl")).unwrap();
    let lives = File::open(folder("neap-agent-lives-00000003")).unwrap();
    rustix::fs::flock(&lives, rustix::fs::FlockOperation::LockExclusive).unwrap();
    // Left frozen by an agent of the same name.
    fake.make(&folder("neap-agent-a-00000001")).unwrap();
    fake.make(&folder("neap-agent-a-00000001/0")).unwrap();
    fs::write(folder("neap-agent-a-00000001/0/cgroup.freeze"), "1").unwrap();

    let (fake, cgroups) = open(fake, &settings(Mode::Auto));
    let there = |name: &str| fake.path(&format!("v2/a/{name}")).exists();
    assert!(!there("neap-agent-dead-00000002") && !there("neap-agent-dead-00000002.ctl"));
    assert!(there("neap-agent-lives-00000003/0") && there("neap.service/0") && there("other/0"));
    assert_eq!(fake.text("v2/a/neap-agent-a-00000001/0/cgroup.freeze").as_deref(), Some("0"));
    drop(cgroups);
    assert!(!there("neap-agent-a-00000001"), "dropped, it is removed");
}

#[test]
fn a_name_says_node_and_state_directory() {
    let [a, b] = ["/var/lib/a", "/var/lib/b"].map(|path| name("cell-17", Path::new(path)));
    assert!(a.starts_with("neap-agent-cell-17-") && a != b, "{a} {b}");
    assert_eq!(a, name("cell-17", Path::new("/var/lib/a")));
}
