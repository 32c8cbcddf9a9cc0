//! What do many cells do over many days? Synthetic recordings of any length, sample by sample, from a seed.
//!
//! Each cell has a character for good (see [`super::day`]): an hourly profile times a log-normal AR(1) residual that
//! goes on over midnight, plus sudden jumps. With another step than 2 minutes the residual's memory and the jumps keep
//! their lengths in time. Pure: the same settings give the same samples everywhere.

use std::time::Duration;

use super::day::{Character, Random};
use crate::units::Utilization;

/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// The step that the statistics of [`Character`] are about.
pub const STEP: Duration = Duration::from_secs(120);
/// Most cells.
pub const CELLS_MAX: u32 = 10_000;
/// Most days: ten years.
pub const DAYS_MAX: u32 = 3_660;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Days, each beginning at midnight.
    pub days: u32,
    /// Cells, numbered from 1.
    pub cells: u32,
    /// The same seed gives the same days.
    pub seed: u64,
    /// Time between two samples; above zero.
    pub step: Duration,
}

/// Samples of all cells, one step after the other.
#[derive(Clone, Debug)]
pub struct Emission {
    settings: Settings,
    cells: Vec<Curve>,
    index: u32,
}

impl Emission {
    /// Before the first midnight.
    pub fn new(settings: Settings) -> Self {
        let curve = |cell: u32| {
            // A stream of its own for each cell: how many there are does not change what one does.
            let mut seeds = Random::new(settings.seed.wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(cell) << 32));
            let mut random = Random::new(seeds.bits());
            Curve::new(Character::between(random.share()), settings.step, random)
        };
        Self { cells: (0..settings.cells).map(curve).collect(), settings, index: 0 }
    }

    /// Steps of the whole emission.
    pub fn steps(&self) -> u64 {
        let whole = DAY.as_nanos() * u128::from(self.settings.days);
        u64::try_from(whole.div_ceil(self.settings.step.as_nanos().max(1))).unwrap_or(u64::MAX)
    }

    /// What the cells are like, in order.
    pub fn characters(&self) -> impl Iterator<Item = Character> {
        self.cells.iter().map(|cell| cell.character)
    }

    /// The next moment, since the first midnight, and the load of every cell at it; `None` after the last day.
    pub fn step(&mut self, samples: &mut Vec<Utilization>) -> Option<Duration> {
        if u64::from(self.index) >= self.steps() {
            return None;
        }
        let at = self.settings.step * self.index;
        self.index += 1;
        samples.clear();
        samples.extend(self.cells.iter_mut().map(|cell| cell.sample(at)));
        Some(at)
    }
}

/// The load of one cell.
#[derive(Clone, Debug)]
struct Curve {
    character: Character,
    random: Random,
    step_s: f64,
    /// Correlation of the residual with itself one step later, and the spread of what is new.
    correlation: f64,
    fresh_sd: f64,
    /// Logarithm of the residual.
    log: f64,
    /// The load before, jumps aside.
    before: f64,
    /// Seconds that are left of a jump, and how high it is.
    jump_left_s: f64,
    height: f64,
}

impl Curve {
    fn new(character: Character, step: Duration, mut random: Random) -> Self {
        let Character { residual_sd, correlation, .. } = character;
        let correlation = correlation.powf(step.as_secs_f64() / STEP.as_secs_f64());
        Self {
            character,
            step_s: step.as_secs_f64(),
            correlation,
            fresh_sd: residual_sd * (1.0 - correlation * correlation).sqrt(),
            log: residual_sd * random.normal(),
            random,
            before: 1.0,
            jump_left_s: 0.0,
            height: 0.0,
        }
    }

    fn sample(&mut self, at: Duration) -> Utilization {
        let Character { residual_sd, jumps, .. } = self.character;
        self.log = self.correlation * self.log + self.fresh_sd * self.random.normal();
        let quiet = self.character.mean_at(at) * (self.log - residual_sd * residual_sd / 2.0).exp();
        let chance = jumps * self.step_s / DAY.as_secs_f64();
        if self.jump_left_s <= 0.0 && self.before < 0.3 && self.random.share() < chance {
            // 4 to 30 minutes.
            self.jump_left_s = 240.0 + 1_560.0 * self.random.share();
            self.height = 0.5 + 0.45 * self.random.share();
        }
        self.before = quiet;
        if self.jump_left_s <= 0.0 {
            return super::day::percent(quiet);
        }
        self.jump_left_s -= self.step_s;
        super::day::percent(quiet.max(self.height * (0.92 + 0.16 * self.random.share())).max(0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many days of cells, in permille, one row a cell.
    fn emitted(days: u32, cells: u32, seed: u64, step: Duration) -> (Vec<Character>, Vec<Vec<i32>>) {
        let mut emission = Emission::new(Settings { days, cells, seed, step });
        let characters = emission.characters().collect();
        let mut rows = vec![Vec::new(); usize::try_from(cells).unwrap()];
        let mut samples = Vec::new();
        while emission.step(&mut samples).is_some() {
            rows.iter_mut().zip(&samples).for_each(|(row, sample)| row.push(i32::from(sample.permille())));
        }
        (characters, rows)
    }

    fn count(number: usize) -> f64 {
        f64::from(u32::try_from(number).unwrap())
    }

    #[test]
    fn cells_cover_the_range_and_keep_their_character() {
        let (characters, rows) = emitted(4, 40, 7, STEP);
        let spread = |value: fn(&Character) -> f64| {
            let values: Vec<f64> = characters.iter().map(value).collect();
            (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max))
        };
        let (sd_min, sd_max) = spread(|character| character.residual_sd);
        assert!(sd_min < 0.42 && sd_max > 0.84 && sd_min >= 0.37 && sd_max <= 0.89, "{sd_min} to {sd_max}");
        let (low, high) = spread(|character| character.correlation);
        assert!(low >= 0.81 && high <= 0.93, "{low} to {high}");
        // A day of a cell is more like its own next day than like the same day of another kind of cell.
        for (character, row) in characters.iter().zip(&rows) {
            let evenings = row.chunks(720).map(|day| f64::from(day[570..660].iter().sum::<i32>()) / 90.0);
            let mean = evenings.sum::<f64>() / 4.0;
            assert!((mean / 1000.0 / character.peak - 1.0).abs() < 0.45, "{mean} permille for {character:?}");
        }
    }

    #[test]
    fn the_residual_goes_on_over_midnight_with_the_spread_and_memory_of_its_character() {
        for t in [0.0, 0.5, 1.0] {
            let character = Character::between(t);
            let mut curve = Curve::new(character, STEP, Random::new(3));
            let logs: Vec<f64> = (0..60 * 720_u32)
                .map(|index| {
                    curve.sample(STEP * index);
                    curve.log
                })
                .collect();
            let product = |lag: usize, from: &dyn Fn(usize) -> bool| {
                let pairs = (0..logs.len() - lag).filter(|index| from(*index));
                let (sum, n) = pairs.fold((0.0, 0), |(sum, n), i| (sum + logs[i] * logs[i + lag], n + 1));
                sum / count(n)
            };
            let (variance, near) = (product(0, &|_| true), product(1, &|_| true));
            assert!((variance.sqrt() / character.residual_sd - 1.0).abs() < 0.1, "sd at {t}");
            assert!((near / variance - character.correlation).abs() < 0.03, "lag 1 at {t}");
            let midnight = product(1, &|index| index % 720 == 719);
            assert!(midnight / variance > 0.5, "lag 1 over midnight {} at {t}", midnight / variance);
        }
    }

    #[test]
    fn jumps_and_rises_are_as_frequent_as_in_real_cells() {
        for t in [0.0, 0.3, 0.6, 1.0] {
            let days = 120_u32;
            let mut curve = Curve::new(Character::between(t), STEP, Random::new(11));
            let loads: Vec<i32> =
                (0..days * 720).map(|index| i32::from(curve.sample(STEP * index).permille())).collect();
            let jumps = loads.windows(2).filter(|pair| pair[0] < 300 && pair[1] >= 500).count();
            let a_day = count(jumps) / f64::from(days);
            assert!((0.5..=2.7).contains(&a_day), "{a_day} jumps a day at {t}");
            let mut rises: Vec<i32> = loads.windows(2).map(|pair| pair[1] - pair[0]).collect();
            rises.sort_unstable();
            let (p99, p999) = (rises[rises.len() * 99 / 100], rises[rises.len() * 999 / 1000]);
            assert!((120..=280).contains(&p99), "p99 {p99} permille at {t}");
            assert!((300..=620).contains(&p999), "p99.9 {p999} permille at {t}");
        }
    }

    #[test]
    fn a_finer_step_keeps_the_memory_and_the_jumps_in_time() {
        let step = Duration::from_secs(30);
        let mut curve = Curve::new(Character::between(0.5), step, Random::new(5));
        let mut jumping = 0;
        let logs: Vec<f64> = (0..60 * 2_880_u32)
            .map(|index| {
                let load = curve.sample(step * index);
                jumping += usize::from(curve.jump_left_s > 0.0 && load.permille() >= 460);
                curve.log
            })
            .collect();
        let product =
            |lag: usize| logs.iter().zip(&logs[lag..]).map(|(a, b)| a * b).sum::<f64>() / count(logs.len() - lag);
        let after_two_minutes = product(4) / product(0);
        assert!((after_two_minutes - curve.character.correlation).abs() < 0.03, "{after_two_minutes}");
        // About a jump a day of about a quarter of an hour.
        let minutes_a_day = count(jumping) / 2.0 / 60.0;
        assert!((4.0..40.0).contains(&minutes_a_day), "{minutes_a_day}");
    }

    #[test]
    fn the_same_seed_gives_the_same_days_whatever_the_number_of_cells() {
        let (_, three) = emitted(1, 3, 9, STEP);
        let (_, five) = emitted(1, 5, 9, STEP);
        assert_eq!(three, five[..3]);
        assert_ne!(three, emitted(1, 3, 10, STEP).1);
        assert_eq!(three[0].len(), 720);
        assert_eq!(emitted(1, 1, 1, Duration::from_secs(7)).1[0].len(), 12_343);
    }
}
