//! What a forecast has kept from an earlier run: whatever is in the file, the forecast goes on and stays within its range.

use std::time::Duration;

use neap::governor::Policy;
use neap::governor::forecast::{BadSnapshot, Forecast, SNAPSHOT_BYTES_MAX, Settings, sealed};
use neap::units::{Utilization, WallTime};

use super::{bounded, is_plain};

/// Memory of a restored forecast, for each byte of its state: three copies, each a little larger.
const HELD_PER_BYTE: u64 = 8;
/// 2026-01-05.
const MONDAY: i64 = 1_767_571_200_000;

/// The bytes as a state, and as the body of one with a checksum that is right.
pub fn forecast_state(bytes: &[u8]) {
    restored(bytes);
    restored(&sealed(bytes));
}

fn forecast() -> Forecast {
    let policy = Policy {
        workers: 2,
        busy_above: Utilization::from_percent(40).unwrap(),
        idle_below: Utilization::from_percent(15).unwrap(),
        settle: Duration::from_secs(30),
        settle_max: Duration::from_secs(600),
        flap_window: Duration::from_secs(300),
        raise_every: Duration::from_secs(1),
    };
    Forecast::new(Settings::new(policy)).unwrap()
}

fn restored(bytes: &[u8]) {
    let mut forecast = forecast();
    let before = forecast.snapshot();
    if let Err(error) = bounded(bytes.len(), HELD_PER_BYTE, || forecast.restore(bytes)) {
        is_plain(&error.to_string(), 300);
        assert_eq!(forecast.snapshot(), before, "a refused state changes nothing");
        return;
    }
    let kept = forecast.snapshot();
    assert!(kept.len() <= SNAPSHOT_BYTES_MAX && kept.len() <= bytes.len());
    let again = |kept: &[u8]| -> Result<Vec<u8>, BadSnapshot> {
        let mut other = self::forecast();
        other.restore(kept)?;
        Ok(other.snapshot())
    };
    assert_eq!(again(&kept), Ok(kept.clone()));
    for step in 0..40 {
        let at = WallTime::from_millis(MONDAY + step * 120_000);
        forecast.on_load(at, Utilization::from_percent(u8::try_from(step).unwrap()).unwrap());
        for minutes in [2, 30, 360, 5_000] {
            assert!(forecast.predict(Duration::from_secs(minutes * 60)).is_some());
        }
    }
    let outlook = forecast.outlook(WallTime::from_millis(MONDAY + 40 * 120_000));
    for free in outlook.spans() {
        assert!(free.p10 <= free.p50 && free.p50 <= free.p90 && free.p90 <= 2 * outlook.span(), "{free:?}");
    }
    for score in forecast.scores() {
        assert!(score.error_permille.is_none_or(f64::is_finite), "{score:?}");
        assert!(score.against_persistence.is_none_or(f64::is_finite), "{score:?}");
    }
    assert!(again(&forecast.snapshot()).is_ok(), "what it keeps after that can be read");
}
