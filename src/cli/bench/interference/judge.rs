//! What do the figures say? Medians over rounds, comparisons with their noise, and sentences that follow from them.
//!
//! Pure: rounds in, numbers and sentences out. Each round has all methods, so rounds are compared in pairs. A difference
//! counts as clear when rounds that differ by chance only would show it in one run of twenty (Student's t-test).

use super::super::latency::show_us;
use super::super::report::Verdict;

/// Methods that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// No inference.
    None,
    /// The sentinel stops and continues the workers.
    Neap,
    /// The same workers at SCHED_IDLE, never stopped.
    SchedIdle,
    /// The same inference as an ordinary process.
    Nice0,
}

impl Method {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::None, Self::Neap, Self::SchedIdle, Self::Nice0];

    /// Key in JSON.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Neap => "neap",
            Self::SchedIdle => "sched_idle",
            Self::Nice0 => "nice0",
        }
    }

    /// For people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Neap => "Neap",
            Self::SchedIdle => "SCHED_IDLE only",
            Self::Nice0 => "nice 0",
        }
    }
}

/// What one method came to in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Slots that were due.
    pub(super) slots: u64,
    /// Slots that missed their deadline.
    pub(super) missed: u64,
    /// 99th percentile of the slot times, in µs.
    pub(super) p99_us: f64,
    /// 99.9th percentile.
    pub(super) p999_us: f64,
    /// Inferences that were finished.
    pub(super) inferences: u64,
}

/// All rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rounds(Vec<[Sample; 4]>);

/// One figure of a sample.
type Figure = fn(&Sample) -> f64;

/// Slots that missed their deadline.
pub(super) const MISSED: Figure = |sample| float(sample.missed);
/// 99th percentile of the slot times, in µs.
pub(super) const P99: Figure = |sample| sample.p99_us;
/// 99.9th percentile of the slot times, in µs.
pub(super) const P999: Figure = |sample| sample.p999_us;
/// Inferences.
pub(super) const INFERENCES: Figure = |sample| float(sample.inferences);

/// How one method compares with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// Clearly more.
    More,
    /// Clearly less.
    Less,
    /// The difference drowns in the noise.
    Alike,
}

impl Rounds {
    /// Takes a round in; a method that is missing counts as nothing at all.
    pub(super) fn push(&mut self, round: &[(Method, Sample)]) {
        let of = |method| round.iter().find(|(known, _)| *known == method).map(|(_, sample)| *sample);
        self.0.push(Method::ALL.map(|method| of(method).unwrap_or_default()));
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// One method's samples, in the order of the rounds.
    pub(super) fn of(&self, method: Method) -> impl Iterator<Item = &Sample> {
        let index = Method::ALL.iter().position(|known| *known == method);
        self.0.iter().filter_map(move |round| round.get(index?))
    }

    /// Median of a figure over the rounds; zero when there are none.
    pub(super) fn median(&self, method: Method, figure: Figure) -> f64 {
        let mut values: Vec<f64> = self.of(method).map(figure).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
        match (values.get(low), values.get(high)) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            (None, _) | (_, None) => 0.0,
        }
    }

    /// Slots that were due in a round, the fewest of all.
    pub(super) fn slots(&self) -> u64 {
        self.0.iter().flatten().map(|sample| sample.slots).min().unwrap_or(0)
    }

    /// Slots due and missed in all rounds.
    pub(super) fn total(&self, method: Method) -> (u64, u64) {
        self.of(method).fold((0, 0), |(slots, missed), sample| (slots + sample.slots, missed + sample.missed))
    }

    /// Missed slots of a method for each one of another, over all rounds; `None` when the other missed none.
    pub(super) fn ratio(&self, method: Method, to: Method) -> Option<f64> {
        let (missed, base) = (self.total(method).1, self.total(to).1);
        (base > 0).then(|| float(missed) / float(base))
    }

    fn compare(&self, method: Method, with: Method, figure: Figure) -> Compared {
        let pairs = self.of(method).zip(self.of(with));
        compare(&pairs.map(|(one, other)| figure(one) - figure(other)).collect::<Vec<_>>())
    }
}

/// How many standard errors a mean may lie off zero by chance, in 19 of 20 cases, for 2, 3, … differences.
const T_95: [f64; 12] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18];

/// Whether differences have a clear direction: their mean against its standard error.
fn compare(differences: &[f64]) -> Compared {
    let Some(freedom) = differences.len().checked_sub(2) else { return Compared::Alike };
    let count = float(differences.len() as u64);
    let mean = differences.iter().sum::<f64>() / count;
    let square = differences.iter().map(|difference| (difference - mean).powi(2)).sum::<f64>();
    let error = (square / (count - 1.0) / count).sqrt();
    // The last serves for more: a little too strict.
    let limit = T_95[freedom.min(T_95.len() - 1)];
    if mean.abs() <= limit * error || mean == 0.0 {
        Compared::Alike
    } else if mean > 0.0 {
        Compared::More
    } else {
        Compared::Less
    }
}

/// The most missed slots with Neap for each with nothing that the noise is not asked about.
const RATIO_MAX: f64 = 1.05;

/// What the figures say.
pub(super) fn sentences(rounds: &Rounds) -> Vec<(Verdict, String)> {
    vec![neap_against_nothing(rounds), nice_0_against_nothing(rounds), worth_of_stopping(rounds), price(rounds)]
}

fn neap_against_nothing(rounds: &Rounds) -> (Verdict, String) {
    let [(slots, base), (_, missed)] = [Method::None, Method::Neap].map(|method| rounds.total(method));
    let times = times(rounds.ratio(Method::Neap, Method::None));
    let facts = format!("{missed} of {slots} slots missed their deadline beside Neap, {base} with nothing{times}");
    let within = float(missed) <= float(base) * RATIO_MAX;
    match rounds.compare(Method::Neap, Method::None, MISSED) {
        _ if within => (Verdict::Kept, format!("Neap costs the RAN no deadline: {facts}.")),
        Compared::Alike | Compared::Less => (
            Verdict::Plain,
            format!("What Neap costs the RAN, if anything, drowns in the noise between rounds: {facts}."),
        ),
        Compared::More => (Verdict::Missed, format!("Neap costs the RAN deadlines, beyond the noise: {facts}.")),
    }
}

fn nice_0_against_nothing(rounds: &Rounds) -> (Verdict, String) {
    let [(slots, base), (_, missed)] = [Method::None, Method::Nice0].map(|method| rounds.total(method));
    let times = times(rounds.ratio(Method::Nice0, Method::None));
    let facts = format!("{missed} of {slots} slots, with nothing {base}{times}");
    let sentence = match rounds.compare(Method::Nice0, Method::None, MISSED) {
        Compared::More => format!("Inference as an ordinary process clearly harms the RAN: it misses {facts}."),
        Compared::Alike => {
            format!("Inference as an ordinary process makes no clear difference here: it misses {facts}.")
        }
        Compared::Less => format!("Beside inference as an ordinary process fewer slots were missed: {facts}."),
    };
    (Verdict::Plain, sentence)
}

/// Whether stopping is better than only being scheduled last.
fn worth_of_stopping(rounds: &Rounds) -> (Verdict, String) {
    let figures: [(&str, Figure); 3] = [("missed slots", MISSED), ("p99", P99), ("p99.9", P999)];
    let compared = figures.map(|(name, figure)| {
        let [idle, neap] = [Method::SchedIdle, Method::Neap].map(|method| rounds.median(method, figure));
        let text = if name == "missed slots" {
            format!("{name} {idle} a round against {neap} with Neap")
        } else {
            format!("{name} {} against {} with Neap", show_us(idle), show_us(neap))
        };
        (rounds.compare(Method::SchedIdle, Method::Neap, figure), text)
    });
    let facts = |wanted: Compared| {
        let texts = compared.iter().filter(|(found, _)| *found == wanted).map(|(_, text)| text.as_str());
        texts.collect::<Vec<_>>().join(", ")
    };
    let (worse, better) = (facts(Compared::More), facts(Compared::Less));
    let all = compared.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ");
    match (worse.is_empty(), better.is_empty()) {
        (false, true) => {
            (Verdict::Kept, format!("Stopping shows its worth: SCHED_IDLE alone is clearly worse ({worse})."))
        }
        (true, true) => {
            let text = "Stopping does not show its worth here: SCHED_IDLE alone is no worse than the noise";
            (Verdict::Plain, format!("{text} ({all})."))
        }
        (true, false) => {
            let text = "Stopping does not show its worth here: SCHED_IDLE alone is clearly better";
            (Verdict::Missed, format!("{text} ({better})."))
        }
        (false, false) => {
            let text = "Stopping cuts both ways here: SCHED_IDLE alone is clearly worse in";
            (Verdict::Plain, format!("{text} {worse}, but better in {better}."))
        }
    }
}

/// What stopping costs.
fn price(rounds: &Rounds) -> (Verdict, String) {
    let of = |method| rounds.of(method).map(|sample| sample.inferences).sum::<u64>();
    let (neap, idle) = (of(Method::Neap), of(Method::SchedIdle));
    let share = if idle > 0 { format!(" ({:.0} %)", 100.0 * float(neap) / float(idle)) } else { String::new() };
    let sentence = format!(
        "Neap did {neap} inferences where SCHED_IDLE alone did {idle}{share}: it runs in troughs only, \
         and a missed deadline ends one."
    );
    (Verdict::Plain, sentence)
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.2} times as many)"))
}

/// A count; those of a bench are exact.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds with these missed slots, p99 and inferences, by method.
    fn rounds(missed: [&[u64]; 4], p99: [f64; 4], inferences: [u64; 4]) -> Rounds {
        let mut rounds = Rounds::default();
        for (index, _) in missed[0].iter().enumerate() {
            let sample = |m: usize| Sample {
                slots: 1000,
                missed: missed[m][index],
                p99_us: p99[m],
                p999_us: p99[m],
                inferences: inferences[m],
            };
            // The order in which they were played does not matter.
            let round: Vec<_> = (0..4).map(|m| (m + index) % 4).map(|m| (Method::ALL[m], sample(m))).collect();
            rounds.push(&round);
        }
        rounds
    }

    const EVEN: [f64; 4] = [700.0; 4];
    const SOME: [u64; 4] = [0, 60, 100, 400];

    fn said(rounds: &Rounds, index: usize) -> (Verdict, String) {
        sentences(rounds).swap_remove(index)
    }

    #[test]
    fn medians_totals_and_ratios_are_those_of_the_method() {
        let rounds = rounds([&[1, 9, 2], &[0, 4, 2], &[3, 3, 3], &[50, 70, 60]], EVEN, SOME);
        assert_eq!(Method::ALL.map(|method| rounds.median(method, MISSED)), [2.0, 2.0, 3.0, 60.0]);
        assert_eq!((rounds.total(Method::None), rounds.total(Method::Nice0)), ((3000, 12), (3000, 180)));
        assert_eq!((rounds.ratio(Method::Neap, Method::None), rounds.slots()), (Some(0.5), 1000));
        assert_eq!(Rounds::default().median(Method::Neap, P99), 0.0);
    }

    #[test]
    fn an_even_number_of_rounds_has_its_median_in_the_middle() {
        let rounds = rounds([&[1, 2, 5, 100], &[0; 4], &[0; 4], &[0; 4]], EVEN, SOME);
        assert_eq!(rounds.median(Method::None, MISSED), 3.5);
        assert_eq!(rounds.ratio(Method::Nice0, Method::Neap), None);
    }

    #[test]
    fn a_difference_is_clear_only_beyond_what_chance_shows() {
        let cases: [(&[f64], Compared); 9] = [
            // Three and a half standard errors: much for many rounds, not for three.
            (&[6.0, 12.0, 18.0], Compared::Alike),
            (&[6.0, 12.0, 18.0, 6.0, 12.0, 18.0, 12.0], Compared::More),
            (&[5.0, 6.0, 5.5], Compared::More),
            (&[-5.0, -6.0, -5.5], Compared::Less),
            (&[5.0, -4.0, 3.0, -5.0], Compared::Alike),
            (&[1.0, 1.0, 100.0], Compared::Alike),
            (&[0.0, 0.0, 0.0], Compared::Alike),
            (&[9.0], Compared::Alike),
            (&[], Compared::Alike),
        ];
        for (differences, expected) in cases {
            assert_eq!(compare(differences), expected, "{differences:?}");
        }
    }

    #[test]
    fn neap_is_judged_by_the_ratio_and_then_by_the_noise() {
        let with = |none: &[u64], neap: &[u64]| {
            let zero = vec![0; none.len()];
            said(&rounds([none, neap, &zero, &zero], EVEN, SOME), 0)
        };
        let (verdict, sentence) = with(&[100, 100, 100], &[101, 104, 103]);
        assert!(verdict == Verdict::Kept && sentence.contains("no deadline"), "{sentence}");
        let (verdict, sentence) = with(&[0, 30, 2], &[40, 1, 9]);
        assert!(verdict == Verdict::Plain && sentence.contains("drowns in the noise"), "{sentence}");
        let (verdict, sentence) = with(&[10, 11, 10], &[30, 31, 33]);
        assert!(verdict == Verdict::Missed && sentence.contains("3.03 times"), "{sentence}");
        assert_eq!(with(&[0, 0, 0], &[0, 0, 0]).0, Verdict::Kept);
    }

    #[test]
    fn stopping_has_its_worth_only_where_the_figures_show_it() {
        let zero: &[u64] = &[0, 0, 0];
        let with = |idle: &[u64], neap_p99: f64, idle_p99: f64| {
            said(&rounds([zero, zero, idle, zero], [700.0, neap_p99, idle_p99, 900.0], SOME), 2)
        };
        let (verdict, sentence) = with(&[9, 8, 9], 700.0, 850.0);
        assert!(verdict == Verdict::Kept && sentence.contains("p99 850 µs against 700 µs"), "{sentence}");
        assert!(sentence.contains("missed slots 9 a round against 0"), "{sentence}");
        let (verdict, sentence) = with(zero, 700.0, 700.0);
        assert!(verdict == Verdict::Plain && sentence.contains("does not show its worth"), "{sentence}");
        let (verdict, sentence) = with(zero, 850.0, 700.0);
        assert!(verdict == Verdict::Missed && sentence.contains("clearly better"), "{sentence}");
        let (verdict, sentence) = with(&[9, 8, 9], 850.0, 700.0);
        assert!(verdict == Verdict::Plain && sentence.contains("cuts both ways"), "{sentence}");
    }

    #[test]
    fn nice_0_is_said_to_harm_only_when_it_clearly_does() {
        let zero: &[u64] = &[0, 0, 0];
        let with = |nice: &[u64]| said(&rounds([&[2, 3, 2], zero, zero, nice], EVEN, SOME), 1).1;
        assert!(with(&[300, 310, 290]).contains("clearly harms"));
        assert!(with(&[2, 2, 4]).contains("no clear difference"));
    }

    #[test]
    fn the_price_is_told_in_inferences() {
        let zero: &[u64] = &[0, 0, 0];
        let all = |inferences| rounds([zero; 4], EVEN, inferences);
        assert!(said(&all(SOME), 3).1.contains("180 inferences where SCHED_IDLE alone did 300 (60 %)"));
        assert!(!said(&all([0; 4]), 3).1.contains('%'));
    }
}
