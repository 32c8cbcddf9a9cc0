//! What does a base station's day look like? Load curves from a seed, with the statistics of real cells.
//!
//! One [`Cell`] is an hourly profile (quiet night, evening peak) times a log-normal AR(1) residual, plus the sudden
//! jumps that matter most to a node: from below 30 % to 50 % or more within one 2-minute sample. The ranges come from
//! three LTE cells: busy cells are smooth, quiet cells are rough, so one number, the [`Character`], draws all of them.
//! A [`Day`] is a station of several cells; its load is the highest of them.
//!
//! Pure and without a clock: the same seed gives the same day everywhere. A sample is held until the next one, never
//! interpolated, so that each crossing of a limit is one exact moment.

use std::f64::consts::TAU;
use std::time::Duration;

use crate::units::Utilization;

/// Samples of a day: one for every 2 minutes.
pub const SAMPLES: usize = 720;
/// Cells of the station.
pub const CELLS: usize = 3;
/// Days drawn at most before [`Day::lively`] takes the last one.
const DRAWS_MAX: u64 = 2000;

/// Load of the hour between the night's level (0) and the evening's peak (1).
const SHAPE: [f64; 24] = [
    0.30, 0.15, 0.06, 0.01, 0.00, 0.03, 0.12, 0.28, 0.42, 0.50, 0.54, 0.57, 0.62, 0.60, 0.58, 0.60, 0.66, 0.74, 0.84,
    0.94, 1.00, 0.96, 0.78, 0.52,
];

/// What kind of cell it is, from quiet and rough (0) to busy and smooth (1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Character {
    /// Mean load of the quietest hour, as a share of capacity.
    pub night: f64,
    /// Mean load of the busiest hour, as a share of capacity.
    pub peak: f64,
    /// Standard deviation of the logarithm of the residual.
    pub residual_sd: f64,
    /// Correlation of the residual with itself one sample (2 minutes) later.
    pub correlation: f64,
    /// Sudden jumps a day, on average.
    pub jumps: f64,
}

impl Character {
    /// The cell at `t` between quiet and rough (0) and busy and smooth (1).
    pub fn between(t: f64) -> Self {
        let t = t.clamp(0.0, 1.0);
        let mix = |quiet: f64, busy: f64| quiet + (busy - quiet) * t;
        Self {
            night: mix(0.01, 0.14),
            peak: mix(0.16, 0.59),
            residual_sd: mix(0.89, 0.37),
            correlation: mix(0.87, 0.93),
            jumps: mix(0.9, 1.5),
        }
    }

    /// Mean load at sample `index`: the hours joined by straight lines.
    fn mean(&self, index: usize) -> f64 {
        let per_hour = SAMPLES / 24;
        let (hour, part) = (index / per_hour % 24, index % per_hour);
        let share = fraction(part, per_hour);
        let shape = SHAPE[hour] * (1.0 - share) + SHAPE[(hour + 1) % 24] * share;
        self.night + (self.peak - self.night) * shape
    }

    /// Mean load so long after a midnight, as a share of capacity: the hours joined by straight lines.
    pub(super) fn mean_at(&self, since_midnight: Duration) -> f64 {
        let hours = since_midnight.as_secs_f64() / 3600.0 % 24.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 24 by the line above")]
        let hour = hours as usize % 24;
        let share = hours.fract();
        let shape = SHAPE[hour] * (1.0 - share) + SHAPE[(hour + 1) % 24] * share;
        self.night + (self.peak - self.night) * shape
    }
}

/// One cell's day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    samples: Vec<Utilization>,
}

impl Cell {
    /// A day of a cell of this character.
    pub fn new(character: Character, random: &mut Random) -> Self {
        let mut shares = residual(character, random);
        for (index, share) in shares.iter_mut().enumerate() {
            *share *= character.mean(index);
        }
        add_jumps(&mut shares, character, random);
        Self { samples: shares.into_iter().map(percent).collect() }
    }

    /// Load at sample `index`, in whole percent; the day repeats.
    pub fn at(&self, index: usize) -> Utilization {
        self.samples[index % SAMPLES]
    }
}

/// One station's day: several cells, 720 samples each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Day {
    cells: Vec<Cell>,
}

/// What a day must contain to be worth watching: ends of troughs, evenly enough spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lively {
    /// Load at or above this is busy.
    pub busy_above: Utilization,
    /// Load below this is idle.
    pub idle_below: Utilization,
    /// So many idle samples in a row make a trough, which lasts until the station is busy.
    pub trough_samples: usize,
    /// In every run of `window_samples` samples (the day repeats) so many troughs, at least, end in a busy period.
    pub window_yields: usize,
    /// Length of that run.
    pub window_samples: usize,
}

impl Day {
    /// Any day of that seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let cells = (0..CELLS).map(|_| Cell::new(Character::between(random.share() * 0.6), &mut random)).collect();
        Self { cells }
    }

    /// The first day in the sequence of that seed that has its yields in every window.
    pub fn lively(seed: u64, wanted: &Lively) -> Self {
        let mut seeds = Random::new(seed);
        let mut day = Self::new(seeds.bits());
        for _ in 1..DRAWS_MAX {
            if day.is_lively(wanted) {
                break;
            }
            day = Self::new(seeds.bits());
        }
        day
    }

    /// Whether every window of the day contains the yields wanted.
    pub fn is_lively(&self, wanted: &Lively) -> bool {
        // Twice round, so that windows across midnight count too.
        let mut moments = vec![0];
        moments.extend(self.yields(wanted, 2 * SAMPLES));
        moments.push(2 * SAMPLES);
        let spacing = wanted.window_yields + 1;
        moments.len() > spacing
            && moments.windows(spacing + 1).all(|edges| edges[spacing] - edges[0] <= wanted.window_samples)
    }

    /// The samples, among the first `count`, at which a trough ends because the station gets busy.
    pub fn yields(&self, wanted: &Lively, count: usize) -> Vec<usize> {
        let mut moments = Vec::new();
        let (mut idle, mut trough) = (0, false);
        for index in 0..count {
            let load = self.load(index);
            idle = if load < wanted.idle_below { idle + 1 } else { 0 };
            trough |= idle >= wanted.trough_samples;
            if load >= wanted.busy_above && trough {
                moments.push(index);
                trough = false;
            }
        }
        moments
    }

    /// The cells.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// The station's load at sample `index`: its highest cell's.
    pub fn load(&self, index: usize) -> Utilization {
        self.cells.iter().map(|cell| cell.at(index)).max().unwrap_or(Utilization::FULL)
    }
}

/// A day played in less time than a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// How long the day takes.
    pub length: Duration,
}

impl Compressed {
    /// Which sample is in force `elapsed` after midnight; the last one after the end of the day.
    pub fn index(&self, elapsed: Duration) -> usize {
        let length = self.length.as_nanos().max(1);
        let index = elapsed.as_nanos() * SAMPLES as u128 / length;
        usize::try_from(index).unwrap_or(usize::MAX).min(SAMPLES - 1)
    }

    /// Which sample is in force `elapsed` after the first midnight, counted on through the days that follow.
    pub fn count(&self, elapsed: Duration) -> usize {
        let length = self.length.as_nanos().max(1);
        usize::try_from(elapsed.as_nanos() * SAMPLES as u128 / length).unwrap_or(usize::MAX)
    }

    /// When sample `index` begins: the earliest `elapsed` for which [`Self::index`] gives it.
    pub fn start(&self, index: usize) -> Duration {
        let nanos = (self.length.as_nanos().max(1) * index as u128).div_ceil(SAMPLES as u128);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The time of the day of sample `index`, as hours and minutes.
pub fn time_of_day(index: usize) -> (usize, usize) {
    let minutes = index % SAMPLES * 2;
    (minutes / 60, minutes % 60)
}

/// The AR(1) residual of a day, log-normal with mean 1.
fn residual(character: Character, random: &mut Random) -> Vec<f64> {
    let Character { residual_sd, correlation, .. } = character;
    let fresh_sd = residual_sd * (1.0 - correlation * correlation).sqrt();
    let mut log = residual_sd * random.normal();
    (0..SAMPLES)
        .map(|_| {
            log = correlation * log + fresh_sd * random.normal();
            (log - residual_sd * residual_sd / 2.0).exp()
        })
        .collect()
}

/// Adds sudden jumps: from below 30 % to between 50 and 95 % within one sample, for 4 to 30 minutes.
fn add_jumps(shares: &mut [f64], character: Character, random: &mut Random) {
    let chance = character.jumps / fraction(SAMPLES, 1);
    let mut left = 0;
    let mut height = 0.0;
    let mut before = 1.0;
    for share in shares {
        let quiet = *share;
        if left == 0 && before < 0.3 && random.share() < chance {
            left = 2 + random.below(14);
            height = 0.5 + 0.45 * random.share();
        }
        if left > 0 {
            left -= 1;
            *share = share.max(height * (0.92 + 0.16 * random.share())).max(0.5);
        }
        before = quiet;
    }
}

/// A share of capacity as whole percent, as a RAN reports it.
pub(super) fn percent(share: f64) -> Utilization {
    let rounded = (share * 100.0).round().clamp(0.0, 100.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=100 above")]
    let percent = rounded as u8;
    Utilization::from_percent(percent).unwrap_or(Utilization::FULL)
}

/// `part / whole` of two small counts.
fn fraction(part: usize, whole: usize) -> f64 {
    let small = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    small(part) / small(whole)
}

/// A small random number generator (splitmix64): the same numbers from the same seed on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of that seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0 ≤ x < 1.
    pub fn share(&mut self) -> f64 {
        let high = u32::try_from(self.bits() >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    /// Uniform in 0 ≤ x < `limit`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(limit);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// Normal with mean 0 and standard deviation 1 (Box–Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        radius * (TAU * self.share()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Lively = Lively {
        busy_above: Utilization::from_percent(40).unwrap(),
        idle_below: Utilization::from_percent(25).unwrap(),
        trough_samples: 5,
        window_yields: 2,
        window_samples: SAMPLES / 3,
    };

    fn many_cells(t: f64) -> Vec<Cell> {
        (0..200).map(|seed| Cell::new(Character::between(t), &mut Random::new(seed * 7919 + 1))).collect()
    }

    fn mean_permille(cells: &[Cell], hours: std::ops::Range<usize>) -> f64 {
        let loads: Vec<f64> = cells
            .iter()
            .flat_map(|cell| (hours.start * 30..hours.end * 30).map(|index| f64::from(cell.at(index).permille())))
            .collect();
        loads.iter().sum::<f64>() / fraction(loads.len(), 1)
    }

    /// Rises of one sample to the next, in permille, sorted.
    fn rises(cells: &[Cell]) -> Vec<i32> {
        let step = |cell: &Cell, index| i32::from(cell.at(index).permille()) - i32::from(cell.at(index - 1).permille());
        let mut rises: Vec<i32> = cells.iter().flat_map(|cell| (1..SAMPLES).map(|index| step(cell, index))).collect();
        rises.sort_unstable();
        rises
    }

    #[test]
    fn nights_are_quiet_and_evenings_busy_within_the_measured_ranges() {
        for t in [0.0, 0.3, 0.6, 1.0] {
            let cells = many_cells(t);
            let (night, evening) = (mean_permille(&cells, 2..6), mean_permille(&cells, 19..22));
            assert!((8.0..170.0).contains(&night), "night {night} permille at {t}");
            assert!((140.0..620.0).contains(&evening), "evening {evening} permille at {t}");
            assert!(evening > 3.0 * night, "evening {evening}, night {night} permille at {t}");
        }
    }

    #[test]
    fn load_jumps_from_below_30_to_50_percent_as_often_as_in_real_cells() {
        for t in [0.0, 0.3, 0.6, 1.0] {
            let cells = many_cells(t);
            let jumps = cells
                .iter()
                .flat_map(|cell| (1..SAMPLES).map(|index| (cell.at(index - 1).permille(), cell.at(index).permille())))
                .filter(|(before, after)| *before < 300 && *after >= 500)
                .count();
            let a_day = fraction(jumps, cells.len());
            assert!((0.5..=2.7).contains(&a_day), "{a_day} jumps a day at {t}");
        }
    }

    #[test]
    fn rises_of_two_minutes_have_the_tail_of_real_cells() {
        for t in [0.0, 0.3, 0.6, 1.0] {
            let rises = rises(&many_cells(t));
            let (p99, p999) = (rises[rises.len() * 99 / 100], rises[rises.len() * 999 / 1000]);
            assert!((120..=280).contains(&p99), "p99 {p99} permille at {t}");
            assert!((240..=640).contains(&p999), "p99.9 {p999} permille at {t}");
        }
    }

    #[test]
    fn the_residual_has_the_spread_and_memory_it_is_asked_for() {
        for t in [0.0, 0.5, 1.0] {
            let character = Character::between(t);
            let mut random = Random::new(42);
            let logs: Vec<f64> = (0..60).flat_map(|_| residual(character, &mut random)).map(f64::ln).collect();
            let mean = logs.iter().sum::<f64>() / fraction(logs.len(), 1);
            let product = |lag: usize| -> f64 {
                logs.iter().zip(&logs[lag..]).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>()
                    / fraction(logs.len() - lag, 1)
            };
            let (sd, correlation) = (product(0).sqrt(), product(1) / product(0));
            assert!((sd / character.residual_sd - 1.0).abs() < 0.1, "sd {sd} for {character:?}");
            assert!((correlation - character.correlation).abs() < 0.03, "lag 1 {correlation} for {character:?}");
            assert!((0.81..=0.93).contains(&character.correlation));
            assert!((0.37..=0.89).contains(&character.residual_sd));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_day_and_another_another() {
        assert_eq!(Day::lively(1, &WANTED), Day::lively(1, &WANTED));
        assert_ne!(Day::lively(1, &WANTED), Day::lively(2, &WANTED));
    }

    #[test]
    fn a_lively_day_yields_twice_in_every_third_of_it() {
        for seed in 0..8 {
            let day = Day::lively(seed, &WANTED);
            let twice = day.yields(&WANTED, 2 * SAMPLES);
            for start in 0..SAMPLES {
                let inside = twice.iter().filter(|at| (start..start + WANTED.window_samples).contains(at)).count();
                assert!(inside >= 2, "seed {seed}: {inside} yields in the window from sample {start}");
            }
        }
    }

    #[test]
    fn a_sample_is_held_from_its_start_until_the_next_one() {
        let minute = Compressed { length: Duration::from_secs(60) };
        for index in 0..SAMPLES {
            let start = minute.start(index);
            assert_eq!(minute.index(start), index);
            assert_eq!(minute.index(start.saturating_sub(Duration::from_nanos(1))), index.saturating_sub(1));
        }
        assert_eq!(minute.index(Duration::from_secs(999)), SAMPLES - 1);
        assert_eq!(minute.start(SAMPLES), Duration::from_secs(60));
        assert_eq!(minute.count(minute.start(SAMPLES + 3)), SAMPLES + 3);
        assert_eq!(time_of_day(minute.index(Duration::from_secs(45))), (18, 0));
    }
}
