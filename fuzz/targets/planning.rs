//! What is planned with: a controller's load reports, and the measurement files of a base station.

use neap::link::messages::LoadPlan;
use neap::load::pm::{self, LEVELS_MAX, OBJECTS_MAX};
use neap::units::{CELLS_MAX, Utilization};

use super::{bounded, is_plain, is_plain_fault};

/// Memory that a body may take while it is read, for each of its bytes: `{}` in a list may be a struct of many fields.
const HELD_PER_BYTE: u64 = 64;
/// Longest sentence about a file.
const SENTENCE_BYTES_MAX: usize = 1024;

/// A report of `down/load`.
pub fn load_mqtt(bytes: &[u8]) {
    match bounded(bytes.len(), HELD_PER_BYTE, || LoadPlan::parse(bytes)) {
        Ok(plan) => {
            assert!((1..=CELLS_MAX).contains(&plan.cells.len()), "{} cells", plan.cells.len());
            assert_eq!(LoadPlan::parse(&plan.render()), Ok(plan));
        }
        Err(fault) => is_plain_fault(&fault),
    }
}

/// A PM file of either form.
pub fn load_pm(bytes: &[u8]) {
    match bounded(bytes.len(), HELD_PER_BYTE, || pm::parse(bytes)) {
        Ok(counted) => {
            assert!(counted.levels.len() <= LEVELS_MAX && counted.objects.len() <= OBJECTS_MAX);
            for level in &counted.levels {
                assert!(level.level <= Utilization::FULL && level.object < counted.objects.len(), "{level:?}");
                assert!(!level.span.is_zero() && level.span.as_secs() <= 86_400, "{level:?}");
            }
            counted.objects.iter().filter(|name| !name.is_empty()).for_each(|name| is_plain(name, SENTENCE_BYTES_MAX));
            let mut last = None;
            for (from, span, _) in counted.highest(None) {
                assert!(last < Some((from, span)), "times ascend, each once");
                last = Some((from, span));
            }
        }
        Err(error) => is_plain(&error.to_string(), SENTENCE_BYTES_MAX),
    }
}
