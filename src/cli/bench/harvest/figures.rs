//! What came out of the rounds? Sums and ratios, as JSON, as lines and as a report; pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::rounds::{Pair, Round};
use super::{DAY, SPEED};
use crate::cli::bench::machine::Facts;
use crate::cli::bench::report::{Report, Row, Table, Verdict};

/// What a node is to reach.
const HARVEST_RATIO_MIN: f64 = 0.95;
const IDLE_CPU_RATIO_MAX: f64 = 0.003;
const RSS_BYTES_MAX: u64 = 12 * 1024 * 1024;

/// Everything measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Workers, one on each harvest core.
    pub(super) workers: usize,
    /// Rounds, two by two.
    pub(super) pairs: Vec<Pair>,
    /// Resident memory of the agent before its first job, in bytes.
    pub(super) rss_idle: u64,
    /// The same after the last round, with a large batch in hand.
    pub(super) rss_at_work: u64,
    /// Items that the workers finished, warm-up included.
    pub(super) items_done: u64,
    /// Jobs that ended well, warm-up included.
    pub(super) jobs_done: u64,
}

/// Where the time of troughs went that did not become CPU time of the workers, in seconds of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Missed {
    /// The governor was settling.
    settling: f64,
    /// Others had the core while a worker wanted to compute.
    displaced: f64,
    /// The same in the other kind of round.
    displaced_unmanaged: f64,
    /// Inference was allowed, and the worker had nothing in hand, or had not been continued or started yet.
    without_work: f64,
}

impl Figures {
    /// CPU time that the unmanaged processes got in troughs.
    pub(super) fn unmanaged_cpu(&self) -> Duration {
        self.pairs.iter().map(Pair::unmanaged_cpu).sum()
    }

    fn neap(&self, what: impl Fn(&Round) -> Duration) -> f64 {
        self.pairs.iter().map(|pair| what(&pair.neap)).sum::<Duration>().as_secs_f64()
    }

    fn unmanaged(&self, what: impl Fn(&Round) -> Duration) -> f64 {
        self.pairs.iter().map(|pair| what(&pair.unmanaged)).sum::<Duration>().as_secs_f64()
    }

    fn harvest_ratio(&self) -> f64 {
        ratio(self.neap(|round| round.cpu), self.unmanaged_cpu().as_secs_f64())
    }

    /// The harvest ratio of the time in which the cores were to be had: what others took is left out on both sides. On a
    /// machine with other work this is steadier. What the agent took from the cores stays its loss.
    fn undisturbed_ratio(&self) -> f64 {
        let workers = f64::from(u32::try_from(self.workers).unwrap_or(u32::MAX));
        let had = |trough: f64, displaced: f64, cpu: f64| ratio(cpu, (trough * workers - displaced).max(cpu));
        let by_others = |round: &Round| round.displaced.saturating_sub(round.agent_in_troughs);
        ratio(
            had(self.neap(|round| round.trough), self.neap(by_others), self.neap(|round| round.cpu)),
            had(self.unmanaged(|round| round.trough), self.unmanaged(by_others), self.unmanaged(|round| round.cpu)),
        )
    }

    /// CPU time of the agent per second of rounds, with work and without.
    fn agent_ratios(&self) -> [f64; 2] {
        [
            ratio(self.neap(|round| round.agent), self.neap(|round| round.wall)),
            ratio(self.unmanaged(|round| round.agent), self.unmanaged(|round| round.wall)),
        ]
    }

    /// The same of its sentinel alone.
    fn sentinel_ratios(&self) -> [f64; 2] {
        [
            ratio(self.neap(|round| round.sentinel), self.neap(|round| round.wall)),
            ratio(self.unmanaged(|round| round.sentinel), self.unmanaged(|round| round.wall)),
        ]
    }

    fn missed(&self) -> Missed {
        let workers = f64::from(u32::try_from(self.workers).unwrap_or(u32::MAX));
        // What the policy grants is of the day as planned; the trough as played is longer or shorter by a wake-up.
        let settling = self.pairs.iter().map(|Pair { grant, .. }| grant.trough - grant.granted);
        let settling = settling.sum::<Duration>().as_secs_f64() * workers;
        let displaced = self.neap(|round| round.displaced);
        Missed {
            settling,
            displaced,
            displaced_unmanaged: self.unmanaged(|round| round.displaced),
            without_work: self.neap(|round| round.trough) * workers
                - settling
                - displaced
                - self.neap(|round| round.cpu),
        }
    }

    /// The keys promised, and more.
    pub(super) fn json(&self, facts: &Facts) -> Value {
        let [agent, agent_idle] = self.agent_ratios();
        let [sentinel, sentinel_idle] = self.sentinel_ratios();
        let missed = self.missed();
        let troughs: u32 = self.pairs.iter().map(|pair| pair.grant.troughs).sum();
        let rounds: Vec<Value> = self.pairs.iter().map(round_json).collect();
        json!({
            "harvest_ratio": rounded(self.harvest_ratio()),
            "agent_cpu_ratio": rounded(agent),
            "sentinel_cpu_ratio": rounded(sentinel),
            "agent_rss_bytes": self.rss_idle,
            "harvest_ratio_undisturbed": rounded(self.undisturbed_ratio()),
            "agent_cpu_ratio_idle": rounded(agent_idle),
            "sentinel_cpu_ratio_idle": rounded(sentinel_idle),
            "agent_rss_bytes_at_work": self.rss_at_work,
            "workers": self.workers,
            "seconds": rounded(self.neap(|round| round.wall) + self.unmanaged(|round| round.wall)),
            "trough_seconds": rounded(self.neap(|round| round.trough)),
            "troughs": troughs,
            "neap_cpu_seconds": rounded(self.neap(|round| round.cpu)),
            "unmanaged_cpu_seconds": rounded(self.unmanaged_cpu().as_secs_f64()),
            "reasons": {
                "settling_seconds": rounded(missed.settling),
                "without_work_seconds": rounded(missed.without_work),
                "displaced_seconds": rounded(missed.displaced),
                "displaced_seconds_unmanaged": rounded(missed.displaced_unmanaged),
            },
            "items_done": self.items_done,
            "jobs_done": self.jobs_done,
            "speed": SPEED,
            "rounds": rounds,
            "machine": facts.json(),
        })
    }

    /// The same for people.
    pub(super) fn text(&self) -> Vec<String> {
        let [agent, agent_idle] = self.agent_ratios();
        let [sentinel, _] = self.sentinel_ratios();
        let missed = self.missed();
        vec![
            format!(
                "harvest    {} of what an unmanaged SCHED_IDLE process gets in the same troughs ({:.1} of {:.1} CPU \
                 seconds, {} workers)",
                percent(self.harvest_ratio()),
                self.neap(|round| round.cpu),
                self.unmanaged_cpu().as_secs_f64(),
                self.workers
            ),
            format!("           {} of the time in which others left it a core", percent(self.undisturbed_ratio())),
            format!(
                "missed     {:.2} s by settling, {:.2} s without work in hand, {:.2} s because others had the core \
                 (the unmanaged process: {:.2} s)",
                missed.settling, missed.without_work, missed.displaced, missed.displaced_unmanaged
            ),
            format!(
                "agent      {} of a core at work, of it the sentinel {}; {} with its workers standing",
                percent(agent),
                percent(sentinel),
                percent(agent_idle)
            ),
            format!(
                "memory     {} resident without a job, {} with a large batch",
                mib(self.rss_idle),
                mib(self.rss_at_work)
            ),
            format!("done       {} items in {} jobs", self.items_done, self.jobs_done),
        ]
    }

    /// The page for others.
    pub(super) fn report(&self, facts: &Facts) -> Report {
        let mut report = Report::new(
            "Neap: harvest of troughs",
            "How much CPU time do Neap's workers get while the radio is idle, compared with a process of class \
             SCHED_IDLE that nobody manages on the same cores?",
        );
        report.verdicts(&self.verdicts());
        report.heading("Rounds");
        report.table(&self.table());
        report.paragraph(
            "Rounds alternate, and both of a pair play the same part of the day. A trough counts from the moment the \
             load falls below the idle limit, so settling costs harvest. The other process is given the CPU time that \
             the agent used beside it.",
        );
        report.heading("What was missed");
        let missed = self.missed();
        report.verdicts(&[
            (Verdict::Plain, format!("{:.2} s by settling, as configured", missed.settling)),
            (
                Verdict::Plain,
                format!(
                    "{:.2} s without work in hand while inference was allowed: starts, resumes, the way from one item \
                     to the next",
                    missed.without_work
                ),
            ),
            (
                Verdict::Plain,
                format!(
                    "{:.2} s because others had the core; the unmanaged process missed {:.2} s by that",
                    missed.displaced, missed.displaced_unmanaged
                ),
            ),
        ]);
        report.paragraph(&format!(
            "The day passes {SPEED} times as fast, in {} s, and so do the governor's waits, whose proportions are the \
             shipped ones. Starts, stops and resumes take as long as ever and so weigh {SPEED} times what they weigh \
             on a node.",
            DAY.length.as_secs()
        ));
        report.machine(facts);
        report
    }

    fn verdicts(&self) -> Vec<(Verdict, String)> {
        let kept = |kept| if kept { Verdict::Kept } else { Verdict::Missed };
        let (harvest, [agent, agent_idle]) = (self.harvest_ratio(), self.agent_ratios());
        vec![
            (
                kept(harvest >= HARVEST_RATIO_MIN),
                format!("Harvest of troughs {}, to reach {}", percent(harvest), percent(HARVEST_RATIO_MIN)),
            ),
            (
                Verdict::Plain,
                format!(
                    "{} when what other processes took is left out on both sides",
                    percent(self.undisturbed_ratio())
                ),
            ),
            (
                kept(agent_idle <= IDLE_CPU_RATIO_MAX),
                format!(
                    "Agent with its workers standing, load told 25 times a second: {} of a core, to reach {}",
                    percent(agent_idle),
                    percent(IDLE_CPU_RATIO_MAX)
                ),
            ),
            (
                kept(self.rss_idle <= RSS_BYTES_MAX),
                format!(
                    "Resident memory of the agent {} without a job, to reach {}; {} with a batch of the largest size in hand",
                    mib(self.rss_idle),
                    mib(RSS_BYTES_MAX),
                    mib(self.rss_at_work)
                ),
            ),
            (Verdict::Plain, format!("Agent at work: {} of a core", percent(agent))),
        ]
    }

    fn table(&self) -> Table {
        let head = ["part of the day", "troughs", "Neap", "unmanaged", "ratio", "allowed by the policy"];
        let row = |pair: &Pair| {
            let granted = ratio(pair.grant.granted.as_secs_f64(), pair.grant.trough.as_secs_f64());
            let cells = vec![
                format!("{} to {}", time_of_day(pair.part.start), time_of_day(pair.part.end)),
                format!("{:.1} s", pair.neap.trough.as_secs_f64()),
                format!("{:.2} CPU s", pair.neap.cpu.as_secs_f64()),
                format!("{:.2} CPU s", pair.unmanaged_cpu().as_secs_f64()),
                percent(ratio(pair.neap.cpu.as_secs_f64(), pair.unmanaged_cpu().as_secs_f64())),
                percent(granted),
            ];
            Row { cells, ours: false }
        };
        Table { head: head.map(str::to_owned).to_vec(), rows: self.pairs.iter().map(row).collect() }
    }
}

fn round_json(pair: &Pair) -> Value {
    let (neap, unmanaged) = (pair.neap.cpu.as_secs_f64(), pair.unmanaged_cpu().as_secs_f64());
    json!({
        "from": time_of_day(pair.part.start),
        "to": time_of_day(pair.part.end),
        "trough_seconds": rounded(pair.neap.trough.as_secs_f64()),
        "granted_seconds": rounded(pair.grant.granted.as_secs_f64()),
        "neap_cpu_seconds": rounded(neap),
        "unmanaged_cpu_seconds": rounded(unmanaged),
        "ratio": rounded(ratio(neap, unmanaged)),
    })
}

/// 0 when there is nothing to compare with.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// To a hundred thousandth: a core's share of 0.3 % keeps its digits.
fn rounded(value: f64) -> f64 {
    (value * 100_000.0).round() / 100_000.0
}

fn percent(share: f64) -> String {
    if share < 0.1 { format!("{:.2} %", share * 100.0) } else { format!("{:.1} %", share * 100.0) }
}

fn mib(bytes: u64) -> String {
    // In tenths, so that no figure of this size loses anything.
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// The time of the played day, as `hh:mm`.
fn time_of_day(position: Duration) -> String {
    let minutes = position.as_secs_f64() * f64::from(SPEED) / 60.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part lies within two days")]
    let minutes = minutes.round() as u32 % (24 * 60);
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::super::grant::Grant;
    use super::*;

    fn figures() -> Figures {
        let s = Duration::from_secs;
        let grant = Grant { trough: s(10), granted: s(9), troughs: 3 };
        let mut pair = Pair::new(s(18)..s(38), grant);
        let round = Round { wall: s(20), trough: s(10), ..Round::default() };
        pair.neap = Round {
            cpu: s(7),
            displaced: Duration::from_millis(700),
            agent: s(1),
            sentinel: Duration::from_millis(100),
            ..round
        };
        pair.unmanaged = Round { cpu: s(7), agent_in_troughs: s(1), agent: Duration::from_millis(40), ..round };
        Figures { workers: 1, pairs: vec![pair], rss_idle: 13 << 20, rss_at_work: 15 << 20, ..Figures::default() }
    }

    #[test]
    fn what_the_agent_takes_from_the_unmanaged_process_counts_for_that_process() {
        assert_eq!(figures().unmanaged_cpu(), Duration::from_secs(8));
        assert!((figures().harvest_ratio() - 7.0 / 8.0).abs() < 1e-9);
    }

    #[test]
    fn what_others_took_is_left_out_of_the_undisturbed_ratio_and_what_the_agent_took_is_not() {
        let mut figures = figures();
        let s = Duration::from_secs;
        // 7 of 10 s, of which others had 2 and the agent 1.
        figures.pairs[0].neap = Round { displaced: s(3), agent_in_troughs: s(1), ..figures.pairs[0].neap };
        figures.pairs[0].unmanaged = Round { displaced: s(3), agent_in_troughs: s(0), ..figures.pairs[0].unmanaged };
        assert!((figures.undisturbed_ratio() - 7.0 / 8.0).abs() < 1e-9, "{}", figures.undisturbed_ratio());
    }

    #[test]
    fn what_was_missed_and_what_was_used_is_all_of_the_trough() {
        let missed = figures().missed();
        assert!((missed.settling - 1.0).abs() < 1e-9, "{missed:?}");
        assert!((missed.without_work - 1.3).abs() < 1e-9, "{missed:?}");
        assert!((missed.settling + missed.displaced + missed.without_work + 7.0 - 10.0).abs() < 1e-9, "{missed:?}");
    }

    #[test]
    fn the_promised_keys_are_there_and_ratios_are_of_one_core_and_a_second() {
        let facts = Facts { rows: vec![("model", "objects".to_owned())] };
        let json = figures().json(&facts);
        assert_eq!(json["harvest_ratio"], 0.875);
        assert_eq!(json["agent_cpu_ratio"], 0.05);
        assert_eq!(json["sentinel_cpu_ratio"], 0.005);
        assert_eq!(json["agent_cpu_ratio_idle"], 0.002);
        assert_eq!(json["agent_rss_bytes"], 13 << 20);
        assert_eq!(json["rounds"][0]["from"], "03:00");
    }

    #[test]
    fn the_report_says_what_was_reached_and_what_was_not() {
        let html = figures().report(&Facts { rows: Vec::new() }).render();
        assert!(html.contains("class=\"missed\">Harvest of troughs 87.5 %"), "{html}");
        assert!(html.contains("class=\"missed\">Resident memory of the agent 13.0 MiB"), "{html}");
        assert!(html.contains("class=\"kept\">Agent with its workers standing"), "{html}");
    }

    #[test]
    fn without_any_trough_nothing_is_divided_by_nothing() {
        let none = Figures::default();
        assert!(none.unmanaged_cpu().is_zero());
        assert_eq!(none.harvest_ratio(), 0.0);
    }
}
