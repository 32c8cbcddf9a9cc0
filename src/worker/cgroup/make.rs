//! How are the groups made? For each hierarchy: our folder, the groups of the workers in it, their limits; and what was
//! refused, for the floor.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::floor::{Floor, Had};
use super::hierarchy::Hierarchy;
use super::home::{self, Home};
use super::places::{Kind, Place, places};
use super::tree::{self, Tree};
use super::v1::V1;
use super::v2::{CTL, V2};
use super::{DELEGATE, FREEZE_FILE, Held, Limits, Made, Mode, Settings, Slot};
use crate::sys::join::Joins;

/// Items of the floor in the order in which they matter.
const ORDER: [&str; 11] = [
    "cgroup",
    "cpu.idle",
    ABOVE,
    "cpuset.cpus",
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "memory.oom.group",
    "pids.max",
    FREEZE_FILE,
    "cgroup.kill",
];
/// Whether what lies above our folder keeps what `cpu.idle` promises.
const ABOVE: &str = "cpu.idle above";
/// Greatest weight and shares that count as next to nothing, by the file that has them.
const WEIGHTS: [(&str, u64); 2] = [("cpu.weight", 1), ("cpu.shares", 2)];

/// What groups are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To hold workers.
    Hold,
    /// To see what could be had: no process is moved or killed.
    Look,
}

/// Makes everything that can be made.
pub(super) fn make(settings: &Settings, tree: &dyn Tree, proc_self: &Path, purpose: Purpose) -> Made {
    let mut made = Made::default();
    if settings.mode == Mode::Off {
        made.floor.tell("cgroup", Had::No, "cgroup.mode is \"off\": SCHED_IDLE and signals alone hold the workers");
        return made;
    }
    let read = |file| tree::read(proc_self, file).unwrap_or_default();
    let places = places(&read("mountinfo"), &read("cgroup"));
    let mut refused = Vec::new();
    for place in &places {
        match hold(settings, tree, place, purpose) {
            Ok(Some(held)) => {
                if place_has_cpu(place, &held.home.folder) {
                    tell_above(place, &held.home.folder, &mut made.floor);
                }
                made.held.push(held);
            }
            Ok(None) => {}
            Err(why) => refused.push((place, why)),
        }
    }
    make_slots(settings, tree, &mut made);
    tell_groups(&mut made, &refused);
    tell_missing(settings, &places, &refused, &mut made);
    made.floor.sort(&ORDER);
    made
}

/// Our folder in one hierarchy, ready for groups; `None` for a hierarchy that is of no use.
fn hold(settings: &Settings, tree: &dyn Tree, place: &Place, purpose: Purpose) -> Result<Option<Held>, String> {
    let base = base(settings, place)?;
    let own_pid = i32::try_from(std::process::id()).unwrap_or_default();
    let hierarchy: Box<dyn Hierarchy> = match &place.kind {
        Kind::Unified => Box::new(V2::new(base.clone(), own_pid, purpose == Purpose::Hold)),
        Kind::Legacy(controllers) if V1::is_of_use(controllers) => Box::new(V1::new(place.name(), controllers.clone())),
        Kind::Legacy(_) => return Ok(None),
    };
    let folder = base.join(&settings.name);
    if place.own.as_ref().is_some_and(|own| own.starts_with(&folder)) {
        return Err(format!("the agent was started inside of {}, which is for its workers", folder.display()));
    }
    let taken = Home::take(tree, hierarchy.as_ref(), &base, &settings.name);
    let (home, mut killed) = taken.map_err(|error| refusal(&base, &error))?;
    if purpose == Purpose::Hold {
        killed += home::sweep(tree, hierarchy.as_ref(), &base, &settings.name);
    }
    if killed > 0 {
        tracing::warn!(processes = killed, base = %base.display(), "killed what a dead agent had left in its cgroups");
    }
    hierarchy.prepare(tree, &home.folder);
    Ok(Some(Held { hierarchy, home }))
}

/// The group to make our folder in.
fn base(settings: &Settings, place: &Place) -> Result<PathBuf, String> {
    let base = match &settings.path {
        Some(path) => place.folder(path).filter(|folder| folder.is_dir()).ok_or_else(|| {
            format!(
                "there is no group {} below {}; make it, or change [cgroup] path",
                path.display(),
                place.mount.display()
            )
        })?,
        None => place.own.clone().ok_or_else(|| {
            format!("the agent's own group lies outside of {}; name one inside in [cgroup] path", place.mount.display())
        })?,
    };
    // A unit may have the agent put into a leaf at once; then the group above is the one that was handed over.
    let is_leaf =
        settings.path.is_none() && place.kind == Kind::Unified && base.file_name().is_some_and(|name| name == CTL);
    Ok(base.parent().filter(|_| is_leaf).map_or(base.clone(), Path::to_owned))
}

fn refusal(base: &Path, error: &io::Error) -> String {
    format!(
        "no group can be made in {}: {error}; run as root, or {DELEGATE} and ProtectControlGroups=no",
        base.display()
    )
}

/// The groups of the workers, limited, and open to be entered.
fn make_slots(settings: &Settings, tree: &dyn Tree, made: &mut Made) {
    for (slot, limits) in settings.workers.iter().enumerate() {
        let (mut groups, mut files) = (Vec::new(), Vec::new());
        for held in &made.held {
            match make_group(tree, held, slot, limits, &mut made.floor) {
                Ok((group, file)) => {
                    groups.push(group);
                    files.push(file);
                }
                Err(why) => made.floor.tell("cgroup", Had::No, why),
            }
        }
        match Joins::new(files) {
            Ok(joins) => made.slots.push(Slot { groups, joins: Arc::new(joins) }),
            Err(error) => {
                made.floor.tell("cgroup", Had::No, format!("a worker cannot enter its groups: {error}"));
                return;
            }
        }
    }
}

fn make_group(
    tree: &dyn Tree,
    held: &Held,
    slot: usize,
    limits: &Limits,
    floor: &mut Floor,
) -> Result<(PathBuf, std::os::fd::OwnedFd), String> {
    let group = held.home.folder.join(slot.to_string());
    match tree.make(&group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("the group {} cannot be made: {error}", group.display()));
        }
        Ok(()) | Err(_) => {}
    }
    // Taken over from an agent that died with a frozen worker.
    if tree::read(&group, FREEZE_FILE).is_some_and(|frozen| frozen == "1") {
        tree.write(&group.join(FREEZE_FILE), "0")
            .map_err(|error| format!("{} stays frozen: {error}", group.display()))?;
    }
    held.hierarchy.limit(tree, &group, limits, floor);
    let procs = tree::open(&group, "cgroup.procs");
    let procs =
        procs.map_err(|error| format!("no process may be moved into {}: {error}; {DELEGATE}", group.display()))?;
    Ok((group, procs))
}

// ---- what is told ----

fn tell_groups(made: &mut Made, refused: &[(&Place, String)]) {
    let names = |held: &Held| format!("{} in {}", held.hierarchy.name(), held.home.folder.display());
    let mut texts: Vec<String> = made.held.iter().map(names).collect();
    let had = match (texts.is_empty(), refused.is_empty()) {
        (true, _) => Had::No,
        (false, true) => Had::Yes,
        (false, false) => Had::Nearly,
    };
    texts.extend(refused.iter().map(|(place, why)| format!("{}: {why}", place.name())));
    if texts.is_empty() {
        texts.push("no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup".to_owned());
    }
    made.floor.tell("cgroup", had, texts.join("; "));
}

/// Tells what nobody had a word about.
fn tell_missing(settings: &Settings, places: &[Place], refused: &[(&Place, String)], made: &mut Made) {
    let has = |place: &Place, controller: &str| match &place.kind {
        Kind::Unified => false,
        Kind::Legacy(controllers) => controllers.contains(&controller),
    };
    let why = |controller: &str, made: &Made| {
        let legacy = refused.iter().find(|(place, _)| has(place, controller));
        let unified = || refused.iter().find(|(place, _)| place.kind == Kind::Unified);
        let asked = || made.held.iter().find_map(|held| held.hierarchy.why_not(controller));
        let refused = |(_, why): &(&Place, String)| (Had::No, why.clone());
        let found = legacy.map(refused).or_else(asked).or_else(|| unified().map(refused));
        found.unwrap_or_else(|| (Had::No, format!("no hierarchy that is mounted has the {controller} controller")))
    };
    for (controller, item) in [("cpu", "cpu.idle"), ("memory", "memory.max"), ("pids", "pids.max")] {
        if !made.floor.knows(item) && !settings.workers.is_empty() {
            let (had, text) = why(controller, made);
            made.floor.tell(item, had, text);
        }
    }
    if settings.workers.iter().any(|limits| limits.cores.is_some()) && !made.floor.knows("cpuset.cpus") {
        let text = if places.iter().any(|place| has(place, "cpuset")) {
            "version 1 forgets cores that go offline, so its cpuset is not used".to_owned()
        } else {
            why("cpuset", made).1
        };
        made.floor.tell("cpuset.cpus", Had::Nearly, format!("the workers' affinity holds them instead: {text}"));
    }
    for item in [FREEZE_FILE, "cgroup.kill"] {
        if !made.floor.knows(item) {
            let unified = refused.iter().find(|(place, _)| place.kind == Kind::Unified);
            let text = unified.map_or("cgroup version 2 is not mounted", |(_, why)| why);
            made.floor.tell(item, Had::No, format!("{text}; signals only"));
        }
    }
}

/// Whether CPU time is shared out in that hierarchy.
fn place_has_cpu(place: &Place, home: &Path) -> bool {
    match &place.kind {
        Kind::Unified => home.join("cpu.weight").exists(),
        Kind::Legacy(controllers) => controllers.contains(&"cpu"),
    }
}

/// Tells which groups above ours have a normal share of the CPU: against what lies beside them, `cpu.idle` below them is
/// no help.
fn tell_above(place: &Place, home: &Path, floor: &mut Floor) {
    let above = home.ancestors().skip(1).take_while(|folder| *folder != place.mount);
    let normal: Vec<String> =
        above.filter(|folder| has_weight(folder)).map(|folder| folder.display().to_string()).collect();
    if normal.is_empty() {
        floor.tell(ABOVE, Had::Yes, "no group above has a weight against the RAN's");
        return;
    }
    let text = format!(
        "{} has the weight of a normal group, and up to half of a core against what lies beside it until workers are \
         stopped; give the unit CPUWeight=idle (with [sentinel] priority set) or CPUWeight=1, or name an idle group in \
         [cgroup] path",
        normal.join(" and ")
    );
    floor.tell(ABOVE, Had::No, text);
}

fn has_weight(group: &Path) -> bool {
    let is_idle = tree::read(group, "cpu.idle").is_some_and(|idle| idle == "1");
    let weighs = |(file, least): &(&str, u64)| {
        tree::read(group, file).and_then(|weight| weight.parse::<u64>().ok()).is_some_and(|weight| weight > *least)
    };
    !is_idle && WEIGHTS.iter().any(weighs)
}
