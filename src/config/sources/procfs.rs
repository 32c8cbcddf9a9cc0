//! Which keys has a `procfs` source?

use std::path::PathBuf;
use std::time::Duration;

use crate::config::read::Section;
use crate::load::Kind;
use crate::load::procfs::{CORES_MAX, Group, PERIOD_DEFAULT, Pressure, Select, Settings, What};

/// Keys that say whose CPU time is load; only one of them may be given.
const WHOSE: [&str; 4] = ["cgroup", "unit", "process", "pids"];

pub(super) fn procfs(section: &mut Section<'_, '_>) -> Option<Kind> {
    let default_ms = u64::try_from(PERIOD_DEFAULT.as_millis()).unwrap_or(100);
    let period: Duration = section.millis("period_ms", default_ms, 1..=60_000);
    let pressure = pressure(section);
    let what = what(section)?;
    Some(Kind::Procfs(Settings { root: PathBuf::from("/"), what, pressure, period }))
}

fn what(section: &mut Section<'_, '_>) -> Option<What> {
    let cores = section.integers("cores", CORES_MAX, 0..=CORES_MAX as u64 - 1);
    let cgroup = section.path("cgroup");
    let unit = section.text("unit", 255);
    let process = section.text("process", 64);
    let pids = section.integers("pids", 64, 1..=4_194_304);
    let hottest = section.flag("hottest", false);
    let given: Vec<&str> = WHOSE.into_iter().filter(|key| section.has(key)).collect();
    if let [_, second, ..] = given[..] {
        section.complain(second, "only one of cgroup, unit, process and pids may say whose CPU time is load");
    }
    if hottest && !["process", "pids"].iter().any(|key| section.has(key)) {
        section.complain("hottest", "needs process or pids: of a cgroup or of cores no single thread is known");
    }
    let found = (!cores.is_empty()).then_some(cores);
    let cores: Vec<usize> = section
        .require("cores", found, "[0, 1] (the RAN's cores: all of them in use is 100 %)")?
        .into_iter()
        .filter_map(|core| usize::try_from(core).ok())
        .collect();
    let count = cores.len();
    let group = cgroup.map(Group::Folder).or(unit.map(Group::Unit));
    let pids: Vec<i32> = pids.into_iter().filter_map(|pid| i32::try_from(pid).ok()).collect();
    let select = process.map(Select::Name).or((!pids.is_empty()).then_some(Select::Pids(pids)));
    Some(match (group, select) {
        (Some(group), _) => What::Cgroup { group, cores: count },
        (None, Some(select)) => What::Threads { select, cores: count, hottest },
        (None, None) => What::Cores(cores),
    })
}

fn pressure(section: &mut Section<'_, '_>) -> Pressure {
    match section.text("pressure", 4096).as_deref() {
        None | Some("cgroup") => Pressure::Own,
        Some("host") => Pressure::Host,
        Some("off") => Pressure::Off,
        Some(path) => Pressure::Folder(PathBuf::from(path)),
    }
}
