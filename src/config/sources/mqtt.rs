//! Which keys has a source of kind `mqtt`?

use std::time::Duration;

use crate::config::read::Section;
use crate::load::mqtt::MAX_AGE_DEFAULT;
use crate::load::{FRESHNESS_MAX, Kind};

/// Shortest age at which reports may be taken for stale: they come every minute at best.
const MAX_AGE_MIN: Duration = Duration::from_secs(10);

/// Its kind, and its freshness, which is the greatest age of its reports. It is never required.
pub(super) fn mqtt(section: &mut Section<'_, '_>) -> (Kind, Duration) {
    for (key, why) in [
        ("freshness_ms", "is not for this kind: max_age_s says how old a report may be"),
        (
            "required",
            "is not for this kind: reports of a controller can only make the node busier, so their absence says nothing",
        ),
    ] {
        if section.has(key) {
            section.complain(key, why);
        }
    }
    (Kind::Mqtt, section.seconds("max_age_s", MAX_AGE_DEFAULT, MAX_AGE_MIN..=FRESHNESS_MAX))
}
