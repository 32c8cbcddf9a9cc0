//! Does what was learned survive a restart, and nothing that is not whole?

use super::*;

fn learned() -> Forecast {
    let mut forecast = forecast();
    let day = |index: usize| if (240..600).contains(&(index % 720)) { 500 } else { 50 };
    feed(&mut forecast, 0, &(0..720 * 5).map(day).collect::<Vec<u16>>());
    forecast
}

#[test]
fn a_restored_forecast_says_the_same() {
    let first = learned();
    let mut second = forecast();
    second.restore(&first.snapshot()).unwrap();
    assert_eq!(second.scores(), first.scores());
    assert_eq!(second.days_known(), 5);
    let mut first = first;
    for forecast in [&mut first, &mut second] {
        feed(forecast, 720 * 5, &[50; 4]);
    }
    let hours = 60 * MINUTE * 2;
    assert_eq!(second.predict(hours), first.predict(hours));
    let spans = |forecast: &Forecast| forecast.outlook(at(720 * 5 + 3)).spans().to_vec();
    // The settling of the first minutes is all that differs: the last free share is not kept.
    assert_eq!(spans(&second)[12..], spans(&first)[12..]);
}

#[test]
fn a_snapshot_under_another_policy_is_judged_by_the_policy_of_the_run() {
    let snapshot = learned().snapshot();
    let strict = Policy { idle_below: permille(40), ..policy() };
    let mut forecast = Forecast::new(Settings::new(strict)).unwrap();
    forecast.restore(&snapshot).unwrap();
    assert!(forecast.outlook(at(720 * 5)).spans().iter().all(|free| free.p50.is_zero()));
}

#[test]
fn any_changed_byte_and_any_cut_is_refused_and_changes_nothing() {
    let whole = learned().snapshot();
    let mut forecast = learned();
    for at in (0..whole.len()).step_by(97).chain(0..80) {
        let mut bad = whole.clone();
        bad[at] ^= 0x40;
        assert!(forecast.restore(&bad).is_err(), "byte {at}");
        assert!(forecast.restore(&whole[..at]).is_err(), "cut at {at}");
    }
    let mut long = whole.clone();
    long.extend([0; 64]);
    assert!(matches!(forecast.restore(&long), Err(BadSnapshot::Checksum | BadSnapshot::Length { .. })));
    assert_eq!(forecast.snapshot(), whole);
}

#[test]
fn figures_that_cannot_be_are_refused_though_the_checksum_is_right() {
    let whole = learned().snapshot();
    let sealed = |at: usize, bytes: &[u8]| {
        let mut bad = whole.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        let checksum = crc32fast::hash(&bad[12..]).to_le_bytes();
        bad[8..12].copy_from_slice(&checksum);
        bad
    };
    let scores = 12 + 56;
    let rows = whole.len() - 5 * (8 + 720 * 6);
    for (bad, what) in [
        (sealed(scores, &f64::NAN.to_le_bytes()), "score"),
        (sealed(scores, &f64::INFINITY.to_le_bytes()), "score"),
        (sealed(scores + 8, &(-1.0_f64).to_le_bytes()), "score"),
        (sealed(rows, &i64::MAX.to_le_bytes()), "day"),
        (sealed(rows + 8, &[0xe9, 0x03, 0xe9, 0x03]), "level"),
        (sealed(rows + 8, &[0x20, 0x00, 0x10, 0x00]), "level"),
    ] {
        assert_eq!(forecast().restore(&bad), Err(BadSnapshot::Figure(what)));
    }
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(forecast().restore(&bytes).is_err());
    }
}
