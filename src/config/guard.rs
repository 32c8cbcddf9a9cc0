//! How careful is the harm guard? The keys of `[guard]`.

use std::time::Duration;

use super::read::Section;
use crate::governor::guard::{BadSettings, Settings, WINDOW};
use crate::units::Health;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Largest allowance of one figure, in its unit: ten seconds, and more than the whole of a pressure.
const WORSE_MIN_MAX: u64 = 10_000_000;

/// The key that allows a figure some worsening.
const fn key(figure: Health) -> &'static str {
    match figure {
        Health::EnqueueDelay => "worse_enqueue_us",
        Health::SlotLatency => "worse_slot_us",
        Health::RunQueueDelay => "worse_run_queue_us",
        Health::Pressure => "worse_pressure_permille",
    }
}

/// Reads the section.
pub(super) fn settings(mut section: Section<'_, '_>) -> Settings {
    let standard = Settings::default();
    let span = |least_ms: u64, most: Duration| Duration::from_millis(least_ms)..=most;
    let percent = section.integer("worse_by", 20, 1..=1000, "percent");
    let worse_min = Health::ALL.map(|figure| {
        let allowed = u64::from(standard.worse_min[figure as usize]);
        let allowed = section.integer(key(figure), allowed, 0..=WORSE_MIN_MAX, "in the unit of the figure");
        u32::try_from(allowed).unwrap_or(u32::MAX)
    });
    let settings = Settings {
        enabled: section.flag("enabled", standard.enabled),
        worse_permille: u32::try_from(percent * 10).unwrap_or(standard.worse_permille),
        worse_min,
        window: section.seconds("window_s", standard.window, WINDOW.0..=WINDOW.1),
        control_every: section.seconds("control_every_s", standard.control_every, span(300, HOUR)),
        calm: section.seconds("calm_s", standard.calm, span(300, DAY)),
        pause_max: section.seconds("pause_max_s", standard.pause_max, span(300, DAY)),
    };
    match settings.check() {
        // The ranges of the keys have seen to the first two.
        Ok(()) | Err(BadSettings::Worse(_) | BadSettings::Window(_)) => {}
        Err(BadSettings::ControlTooOften { window, .. }) => {
            let rule = format!(
                "must be at least 6 times window_s ({} s): inference stops for 3 windows each time",
                window.as_secs_f64()
            );
            section.complain(if section.has("control_every_s") { "control_every_s" } else { "window_s" }, &rule);
        }
        Err(BadSettings::CalmTooShort { control_every, .. }) => {
            let rule = format!("must be at least control_every_s ({} s)", control_every.as_secs_f64());
            section.complain(if section.has("calm_s") { "calm_s" } else { "control_every_s" }, &rule);
        }
        Err(BadSettings::PauseCrossed { calm, .. }) => {
            let rule = format!("must be at least calm_s ({} s): it is what the pause grows to", calm.as_secs_f64());
            section.complain(if section.has("pause_max_s") { "pause_max_s" } else { "calm_s" }, &rule);
        }
    }
    section.finish();
    settings
}
