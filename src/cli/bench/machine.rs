//! What were the figures taken on? The machine, and what it did besides.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::out::clean;
use crate::sys::{clock, sched};
use crate::units::{Instant, WallTime};

/// Longest fact shown, in characters.
const FACT_CHARS_MAX: usize = 300;
/// Clock ticks a second in `/proc/stat`; Linux shows 100 to user space, whatever it counts in.
const TICKS_PER_SECOND: u64 = 100;

/// What is known before the bench begins.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Machine {
    began: (WallTime, Instant),
    load_before: String,
    stat_before: Ticks,
    /// Cores that the bench may use.
    pub(in crate::cli) cores: Vec<usize>,
}

/// The machine and what happened on it while the bench ran.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Facts {
    /// Name and value, in the order in which they are shown.
    pub(in crate::cli) rows: Vec<(&'static str, String)>,
}

/// Time of all cores since boot, in ticks, from the first line of `/proc/stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    total: u64,
    steal: u64,
}

impl Machine {
    /// Looks at the machine; the time begins.
    pub(in crate::cli) fn begin() -> Self {
        Self {
            began: (clock::wall(), clock::now()),
            load_before: load_average(),
            stat_before: Ticks::read(),
            cores: sched::cores(),
        }
    }

    /// Looks again: the bench is over. `more` is what the bench knows besides.
    pub(in crate::cli) fn end(&self, more: Vec<(&'static str, String)>) -> Facts {
        let took = clock::now().since(self.began.1);
        let stat = Ticks::read();
        let root = Path::new("/");
        let cores = self.cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut rows = vec![
            ("date", self.began.0.to_string()),
            ("took", format!("{:.0} s", took.as_secs_f64())),
            ("version", concat!("neap ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("build", if cfg!(debug_assertions) { "not optimised (debug)" } else { "optimised" }.to_owned()),
            ("command", command_line()),
            ("CPU", cpu_model(root)),
            ("cores allowed", cores),
            ("kernel", kernel(root)),
            ("clock source", first_line(root, CLOCK_SOURCE).unwrap_or_else(|| "not told".to_owned())),
            ("frequency governor", first_line(root, GOVERNOR).unwrap_or_else(|| "not told".to_owned())),
            ("load average before, after", format!("{}, {}", self.load_before, load_average())),
            ("stolen by the host", stolen(self.stat_before, stat)),
        ];
        rows.extend(more);
        for (_, value) in &mut rows {
            *value = clean(value, FACT_CHARS_MAX);
        }
        Facts { rows }
    }
}

const CLOCK_SOURCE: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
const GOVERNOR: &str = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";

impl Facts {
    /// For `--json`.
    pub(in crate::cli) fn json(&self) -> Value {
        let key = |name: &str| name.replace([' ', '-'], "_").replace(',', "").to_lowercase();
        Value::Object(self.rows.iter().map(|(name, value)| (key(name), json!(value))).collect())
    }
}

impl Ticks {
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`; guests are in user and nice already.
    fn parse(stat: &str) -> Self {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        Self { total: ticks.iter().sum(), steal: at(7) }
    }
}

/// Time that the host gave to others while we wanted to run.
fn stolen(before: Ticks, after: Ticks) -> String {
    let steal = after.steal.saturating_sub(before.steal);
    let total = after.total.saturating_sub(before.total).max(1);
    let time = Duration::from_millis(steal * (1000 / TICKS_PER_SECOND));
    format!("{} ms ({}.{:02} % of all cores)", time.as_millis(), steal * 100 / total, steal * 10_000 / total % 100)
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("not told").to_owned()
}

fn kernel(root: &Path) -> String {
    let release = first_line(root, "proc/sys/kernel/osrelease").unwrap_or_else(|| "not told".to_owned());
    let version = first_line(root, "proc/sys/kernel/version").unwrap_or_default();
    format!("Linux {release} {version} {}", std::env::consts::ARCH)
}

/// What the CPU calls itself: on x86 in `/proc/cpuinfo`; ARM boards name themselves in the device tree.
fn cpu_model(root: &Path) -> String {
    let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let board = || first_line(root, "sys/firmware/devicetree/base/model").map(|model| model.replace('\0', ""));
    // No ARM core says so; qemu's board does, whether it is emulated or not.
    let virtual_machine = field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
        || board().is_some_and(|model| model == "linux,dummy-virt");
    let part = || Some(format!("implementer {} part {}", field("CPU implementer")?, field("CPU part")?));
    let model = field("model name").or_else(board).or_else(part).unwrap_or_else(|| "not told".to_owned());
    if virtual_machine { format!("{model} (virtual machine)") } else { model }
}

fn first_line(root: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(root.join(path)).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

fn command_line() -> String {
    let words = std::env::args().skip(1).map(|word| if word.contains(' ') { format!("'{word}'") } else { word });
    std::iter::once("neap".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_the_eighth_figure_of_the_first_line() {
        let before = Ticks::parse("cpu  100 0 50 800 10 1 2 7 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n");
        assert_eq!(before, Ticks { total: 970, steal: 7 });
        let after = Ticks { total: 970 + 400, steal: 7 + 3 };
        assert_eq!(stolen(before, after), "30 ms (0.75 % of all cores)");
        assert_eq!(stolen(after, before), "0 ms (0.00 % of all cores)");
        assert_eq!(Ticks::parse("nonsense"), Ticks::default());
    }

    #[test]
    fn the_cpu_is_named_as_its_platform_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(cpu_model(folder.path()), "not told");
        put("proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n");
        assert_eq!(cpu_model(folder.path()), "implementer 0x41 part 0xd0c");
        put("sys/firmware/devicetree/base/model", "Some Board rev 2\0");
        assert_eq!(cpu_model(folder.path()), "Some Board rev 2");
        put("sys/firmware/devicetree/base/model", "linux,dummy-virt\0");
        assert_eq!(cpu_model(folder.path()), "linux,dummy-virt (virtual machine)");
        put("proc/cpuinfo", "model name\t: Some CPU @ 3 GHz\nflags\t\t: fpu hypervisor sse\n");
        assert_eq!(cpu_model(folder.path()), "Some CPU @ 3 GHz (virtual machine)");
    }

    #[test]
    fn the_facts_of_this_machine_are_told() {
        let facts = Machine::begin().end(vec![("yield class", "fifo 20".to_owned())]);
        let json = facts.json();
        assert!(json["kernel"].as_str().unwrap().starts_with("Linux "), "{json}");
        assert_eq!(json["yield_class"], "fifo 20");
        assert!(facts.rows.iter().all(|(_, value)| !value.is_empty()), "{facts:?}");
    }
}
