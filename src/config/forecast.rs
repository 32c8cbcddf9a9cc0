//! Which keys has `[forecast]`?

use std::path::PathBuf;
use std::time::Duration;

use super::read::Section;

/// `[forecast]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Whether the load is learned and an outlook told.
    pub enabled: bool,
    /// How far the outlook reaches.
    pub horizon: Duration,
    /// Length of each of its spans.
    pub span: Duration,
    /// Folder of the base station's PM files, to learn from.
    pub pm_dir: Option<PathBuf>,
}

pub(super) fn settings(mut section: Section<'_, '_>) -> Forecast {
    let enabled = section.flag("enabled", true);
    let hours = section.integer("horizon_h", 12, 1..=24, "hours");
    let minutes = section.integer("span_min", 15, 5..=60, "minutes");
    let forecast = Forecast {
        enabled,
        horizon: Duration::from_secs(hours * 3600),
        span: Duration::from_secs(minutes * 60),
        pm_dir: section.path("pm_dir"),
    };
    // An outlook has at most 192 spans: a day of spans of seven and a half minutes.
    if hours * 60 / minutes > crate::units::outlook::SPANS_MAX as u64 {
        section.complain("span_min", "is too short for that horizon_h: at most 192 spans, so 8 minutes for 24 hours");
    }
    section.finish();
    forecast
}
