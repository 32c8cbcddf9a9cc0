//! Which measurements count, and which level do they come to?

use crate::units::Utilization;

/// A measurement that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Percent of PRBs used.
    Percent(Direction),
    /// PRBs used.
    Used(Direction),
    /// PRBs that there were.
    Available(Direction),
}

/// Of the radio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Dl,
    Ul,
}

impl Figure {
    /// The measurement of that name, if it is read. Subcounters, as `RRU.PrbTotDl.5`, are not.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RRU.PrbTotDl" => Self::Percent(Direction::Dl),
            "RRU.PrbTotUl" => Self::Percent(Direction::Ul),
            "RRU.PrbUsedDl" => Self::Used(Direction::Dl),
            "RRU.PrbUsedUl" => Self::Used(Direction::Ul),
            "RRU.PrbAvailDl" => Self::Available(Direction::Dl),
            "RRU.PrbAvailUl" => Self::Available(Direction::Ul),
            _ => return None,
        })
    }
}

/// The figures of one object in one time, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    dl: Way,
    ul: Way,
    /// One of them makes no sense: then none of them is believed.
    absurd: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Way {
    percent: Option<u64>,
    used: Option<u64>,
    available: Option<u64>,
}

impl Figures {
    /// Takes in a value as it is written.
    pub(super) fn take(&mut self, figure: Figure, text: &str) {
        let value = thousandths(text.trim());
        let (Figure::Percent(direction) | Figure::Used(direction) | Figure::Available(direction)) = figure;
        let way = match direction {
            Direction::Dl => &mut self.dl,
            Direction::Ul => &mut self.ul,
        };
        let slot = match figure {
            Figure::Percent(_) => &mut way.percent,
            Figure::Used(_) => &mut way.used,
            Figure::Available(_) => &mut way.available,
        };
        // Said twice: either may be meant.
        self.absurd |= value.is_none() || slot.is_some();
        *slot = value;
    }

    /// Whether nothing was said that is read.
    pub(super) fn is_empty(&self) -> bool {
        !self.absurd && self.dl.is_empty() && self.ul.is_empty()
    }

    /// The higher direction, rounded up; `None` when a figure makes no sense, or is half of a pair.
    pub(super) fn level(&self) -> Option<Utilization> {
        if self.absurd {
            return None;
        }
        let ways = [self.dl, self.ul].into_iter().filter(|way| !way.is_empty());
        ways.map(Way::level).try_fold(None, |highest, level| Some(highest.max(Some(level?))))?
    }
}

impl Way {
    fn is_empty(self) -> bool {
        self.percent.is_none() && self.used.is_none() && self.available.is_none()
    }

    fn level(self) -> Option<Utilization> {
        let permille = match (self.percent, self.used, self.available) {
            (Some(percent), _, _) => percent.div_ceil(100),
            (None, Some(used), Some(available)) if available > 0 => used.checked_mul(1000)?.div_ceil(available),
            (None, _, _) => return None,
        };
        u16::try_from(permille).ok().and_then(Utilization::from_permille)
    }
}

/// A decimal number in thousandths, rounded up; `None` for whatever else, the negative and the immense.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 12 || fraction.len() > 18 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let kept: String = fraction.chars().chain("000".chars()).take(3).collect();
    let rest = fraction.bytes().skip(3).any(|digit| digit != b'0');
    Some(whole.parse::<u64>().ok()? * 1000 + kept.parse::<u64>().ok()? + u64::from(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permille(said: &[(&str, &str)]) -> Option<u16> {
        let mut figures = Figures::default();
        said.iter().for_each(|(name, value)| figures.take(Figure::named(name).unwrap(), value));
        figures.level().map(Utilization::permille)
    }

    #[test]
    fn the_higher_direction_counts_and_is_rounded_up() {
        assert_eq!(permille(&[("RRU.PrbTotDl", "6"), ("RRU.PrbTotUl", "12")]), Some(120));
        assert_eq!(permille(&[("RRU.PrbTotDl", "12.34")]), Some(124));
        assert_eq!(permille(&[("RRU.PrbTotUl", " 0.00001 ")]), Some(1));
        assert_eq!(permille(&[("RRU.PrbTotDl", "100"), ("RRU.PrbTotUl", "0")]), Some(1000));
    }

    #[test]
    fn used_and_available_prbs_make_a_level_and_half_a_pair_none() {
        assert_eq!(permille(&[("RRU.PrbUsedDl", "26.5"), ("RRU.PrbAvailDl", "106")]), Some(250));
        assert_eq!(permille(&[("RRU.PrbUsedUl", "1"), ("RRU.PrbAvailUl", "273")]), Some(4));
        assert_eq!(
            permille(&[("RRU.PrbTotDl", "7"), ("RRU.PrbUsedDl", "9")]),
            Some(70),
            "the percentage stands by itself"
        );
        for half in [
            &[("RRU.PrbUsedDl", "26")][..],
            &[("RRU.PrbAvailDl", "26")],
            &[("RRU.PrbUsedDl", "1"), ("RRU.PrbAvailDl", "0")],
        ] {
            assert_eq!(permille(half), None, "{half:?}");
        }
        assert_eq!(
            permille(&[("RRU.PrbTotDl", "3"), ("RRU.PrbUsedUl", "1")]),
            None,
            "the other direction is not known"
        );
    }

    #[test]
    fn what_makes_no_sense_spoils_the_whole_reading() {
        for bad in ["-1", "", "NULL", "NaN", "1e3", "101", "100.1", "9999999999999", "٣", "1.2.3", "+4", "0x10"] {
            assert_eq!(permille(&[("RRU.PrbTotDl", bad), ("RRU.PrbTotUl", "5")]), None, "{bad}");
        }
        assert_eq!(permille(&[("RRU.PrbUsedDl", "107"), ("RRU.PrbAvailDl", "106")]), None);
        assert_eq!(permille(&[("RRU.PrbTotDl", "5"), ("RRU.PrbTotDl", "6")]), None, "said twice");
        assert!(Figure::named("RRU.PrbTotDl.5").is_none() && Figure::named("RRU.PrbTotDlDist.Bin1").is_none());
    }
}
