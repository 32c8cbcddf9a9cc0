//! Recordings of a real DU, and what a broken, lying or hostile one could say.

mod absurd;
mod fused;

use std::time::Duration;

use super::report::{ABSENT_REPORTS_MAX, CELL_OF_PCI_0, CELL_UNNAMED, WINDOW};
use super::*;
use crate::load::{Metric, Observed, Reading, Source as _, SourceSettings};
use crate::sys::clock;
use crate::units::{CellId, Health};

/// No level was told.
const NOTHING: [u16; 0] = [];
const ID: SourceId = SourceId(2);

fn scale(cores: u32) -> Scale {
    Scale { cores, prbs: BTreeMap::from([(1, 51)]), peak_bits: None }
}

fn reports(scale: Scale) -> Reports {
    Reports::new(ID, Form::Stream, scale)
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

fn hear(reports: &mut Reports, ms: u64, message: &str) -> Vec<Observation> {
    let mut heard = Vec::new();
    reports.on_message(at(ms), message.as_bytes(), &mut |observation| heard.push(observation));
    heard
}

/// Lines of a recording with the milliseconds since its begin, by the gNB's own stamps.
fn recording(name: &str) -> Vec<(u64, String)> {
    let path = format!("{}/tests/data/ocudu/{name}.ndjson", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let stamp = |line: &str| {
        let mut clock = None;
        document::read_all(line.as_bytes(), |document| clock = document.clock_ms).unwrap();
        clock.unwrap()
    };
    let began = stamp(text.lines().next().unwrap());
    text.lines().map(|line| (stamp(line) - began, line.to_owned())).collect()
}

fn play(reports: &mut Reports, name: &str) -> Vec<Reading> {
    let lines = recording(name);
    lines.iter().flat_map(|(ms, line)| hear(reports, *ms, line)).map(|observation| observation.unwrap()).collect()
}

/// Metric and permille of each level of a cell.
fn levels(readings: &[Reading], of: CellId) -> Vec<(Metric, u16)> {
    let level = |reading: &Reading| match reading.observed {
        Observed::Level { metric, level, late: None } if reading.cell == of => Some((metric, level.permille())),
        Observed::Level { .. } | Observed::Late { .. } | Observed::Health { .. } | Observed::Gone => None,
    };
    readings.iter().filter_map(level).collect()
}

fn lates(readings: &[Reading], of: CellId) -> Vec<u64> {
    let late = |reading: &Reading| match reading.observed {
        Observed::Late { count } if reading.cell == of => Some(count),
        Observed::Level { .. } | Observed::Late { .. } | Observed::Health { .. } | Observed::Gone => None,
    };
    readings.iter().filter_map(late).collect()
}

fn healths(readings: &[Reading], of: Health) -> Vec<u32> {
    let value = |reading: &Reading| match reading.observed {
        Observed::Health { figure, value } if figure == of => Some(value),
        Observed::Level { .. } | Observed::Late { .. } | Observed::Health { .. } | Observed::Gone => None,
    };
    readings.iter().filter_map(value).collect()
}

fn executor(name: &str, cpu_load: f64) -> String {
    format!(r#"{{"executor_metrics":{{"name":"{name}","cpu_load":{cpu_load},"enqueue_max":7}}}}"#)
}

/// One report of these executors; gives what came of it.
fn report(reports: &mut Reports, ms: u64, executors: &[(&str, f64)]) -> Vec<Observation> {
    executors.iter().flat_map(|(name, load)| hear(reports, ms, &executor(name, *load))).collect()
}

fn cpu(observations: &[Observation]) -> Vec<u16> {
    let readings: Vec<Reading> = observations.iter().filter_map(|observation| observation.ok()).collect();
    levels(&readings, CellId(0)).into_iter().map(|(_, permille)| permille).collect()
}

fn is_senseless(observations: &[Observation]) -> bool {
    observations.iter().any(Result::is_err)
}

/// Reports that know these executors.
fn learned(scale: Scale, executors: &[(&str, f64)]) -> Reports {
    let mut reports = reports(scale);
    (0..2).for_each(|second| drop(report(&mut reports, second * 1000, executors)));
    reports
}

// ---- recordings ----

#[test]
fn the_level_of_the_host_is_the_sum_of_the_executors() {
    // Sums of the third and fourth report: the first two teach which executors there are.
    for (name, cores, expected) in [
        ("fdd10idle", 1, [28, 31]),
        ("fdd10", 1, [289, 275]),
        ("fdd20", 1, [578, 583]),
        ("tdd20", 1, [269, 266]),
        ("fdd20", 2, [289, 292]),
    ] {
        let heard = levels(&play(&mut reports(scale(cores)), name), CellId(0));
        assert_eq!(heard, expected.map(|permille| (Metric::Cpu, permille)), "{name} on {cores} cores");
    }
}

#[test]
fn a_tdd_cell_has_the_level_of_its_prbs_and_an_fdd_cell_none() {
    let heard = levels(&play(&mut reports(scale(2)), "tdd20"), CellId(1));
    assert!(heard.len() >= 4, "{heard:?}");
    // 41 + 6 × 51 of seven slots with 51.
    assert!(heard.iter().all(|level| *level == (Metric::PrbTotDl, 972)), "{heard:?}");

    assert_eq!(levels(&play(&mut reports(scale(2)), "fdd20"), CellId(1)), []);
}

#[test]
fn with_a_peak_the_bit_rate_is_a_level_of_the_cell() {
    let peak = Scale { peak_bits: Some(200e6), ..scale(2) };
    let heard = levels(&play(&mut reports(peak.clone()), "fdd20"), CellId(1));
    assert_eq!(heard[0], (Metric::BitRate, 977), "94.9 + 100.3 Mbit/s of 200");
    assert!(heard.iter().all(|(metric, level)| *metric == Metric::BitRate && *level > 970), "{heard:?}");
    let idle = levels(&play(&mut reports(peak), "fdd10idle"), CellId(1));
    assert!(!idle.is_empty() && idle.iter().all(|level| *level == (Metric::BitRate, 0)), "{idle:?}");
}

#[test]
fn errors_of_each_period_add_up_to_a_running_count() {
    let busy = lates(&play(&mut reports(scale(2)), "fdd20"), CellId(1));
    assert_eq!(busy, [0, 0, 1, 1, 1], "one in the second report");
    let idle = lates(&play(&mut reports(scale(2)), "fdd10idle"), CellId(1));
    assert_eq!(idle, [0, 0, 0, 0, 0, 20], "20 in the last one");
}

#[test]
fn health_is_told_in_microseconds() {
    let readings = play(&mut reports(scale(2)), "fdd20");
    assert_eq!(healths(&readings, Health::EnqueueDelay), [630, 411, 421, 539]);
    assert_eq!(healths(&readings, Health::SlotLatency), [135, 139, 81, 126]);
}

#[test]
fn what_a_stream_lacks_is_told_with_what_is_lost() {
    let mut whole = reports(scale(2));
    play(&mut whole, "fdd10");
    assert_eq!(whole.missing(), "");

    let mut poor = reports(scale(2));
    hear(&mut poor, 0, r#"{"cells":[{"cell_metrics":{"pci":1,"max_latency":5}}],"new_in_2027":[{}]}"#);
    let missing = poor.missing();
    for part in ["executor_metrics with cpu_load", "enable_executor", "error_indication_count (no miss counter)"] {
        assert!(missing.contains(part), "{missing}");
    }
    assert!(!missing.contains("max_latency"), "{missing}");
}

// ---- reports of executors ----

#[test]
fn a_report_that_lacks_an_executor_tells_nothing() {
    let all = [("a", 10.0), ("b", 20.0), ("c", 30.0)];
    let mut known = learned(scale(1), &all);
    assert_eq!(cpu(&report(&mut known, 2000, &all)), [600]);
    assert_eq!(cpu(&report(&mut known, 3000, &all[..2])), NOTHING);
    assert_eq!(cpu(&report(&mut known, 4000, &all[1..])), NOTHING);
    assert_eq!(cpu(&report(&mut known, 5000, &all)), [600]);
}

#[test]
fn a_subscription_in_the_middle_of_a_report_never_gives_a_part_of_the_sum() {
    let all = [("a", 10.0), ("b", 20.0), ("c", 30.0)];
    let mut late = reports(scale(1));
    assert_eq!(cpu(&report(&mut late, 0, &all[2..])), NOTHING);
    assert_eq!(cpu(&report(&mut late, 1000, &all)), NOTHING);
    assert_eq!(cpu(&report(&mut late, 2000, &all)), [600]);
}

#[test]
fn executors_that_stay_away_are_forgotten_after_ten_reports() {
    let mut known = learned(scale(1), &[("a", 10.0), ("b", 20.0)]);
    for second in 2..2 + u64::from(executors::SHORT_REPORTS_MAX) {
        assert_eq!(cpu(&report(&mut known, second * 1000, &[("a", 10.0)])), NOTHING, "after {second} s");
    }
    assert_eq!(cpu(&report(&mut known, 60_000, &[("a", 10.0)])), [100]);
}

#[test]
fn executors_that_join_raise_the_level_at_once() {
    let mut known = learned(scale(1), &[("a", 10.0), ("b", 20.0)]);
    assert_eq!(cpu(&report(&mut known, 2000, &[("a", 10.0), ("b", 20.0), ("c", 30.0)])), [300, 600]);
    assert_eq!(cpu(&report(&mut known, 3000, &[("a", 10.0), ("b", 20.0)])), NOTHING);
    assert_eq!(cpu(&report(&mut known, 4000, &[("a", 10.0), ("c", 30.0), ("b", 20.0)])), [600]);
}

#[test]
fn an_executor_without_a_load_makes_its_report_tell_nothing() {
    let mut known = learned(scale(1), &[("a", 10.0), ("b", 20.0)]);
    for silent in [r#"{"executor_metrics":{"name":"a"}}"#, r#"{"executor_metrics":{"name":"a","cpu_load":null}}"#] {
        assert_eq!(hear(&mut known, 2000, silent), []);
        assert_eq!(cpu(&report(&mut known, 2000, &[("b", 20.0)])), NOTHING, "{silent}");
    }
    assert_eq!(cpu(&report(&mut known, 3000, &[("a", 10.0), ("b", 20.0)])), [300]);
}

#[test]
fn a_load_above_all_cores_is_full() {
    let mut known = learned(scale(2), &[("a", 150.0), ("b", 149.0)]);
    assert_eq!(cpu(&report(&mut known, 2000, &[("a", 150.0), ("b", 149.0)])), [1000]);
}

#[test]
fn reports_are_told_apart_by_the_gnbs_clock_when_they_come_in_a_heap() {
    let mut heap = reports(scale(1));
    let line = |name: &str, second: u32| {
        let stamp = format!("2026-11-22T08:59:{second:02}.563");
        format!(r#"{{"executor_metrics":{{"name":"{name}","cpu_load":10}},"timestamp":"{stamp}"}}"#)
    };
    let mut heard = Vec::new();
    for second in 0..4 {
        heard.extend(["a", "b"].iter().flat_map(|name| hear(&mut heap, 0, &line(name, second))));
    }
    assert_eq!(cpu(&heard), [200, 200]);
}

// ---- cells ----

fn cells(list: &[(u64, f64)]) -> String {
    let cell = |(pci, bits): &(u64, f64)| {
        format!(r#"{{"cell_metrics":{{"pci":{pci}}},"ue_list":[{{"dl_brate":{bits},"ul_brate":0}}]}}"#)
    };
    format!(r#"{{"cells":[{}]}}"#, list.iter().map(cell).collect::<Vec<_>>().join(","))
}

#[test]
fn a_cell_that_stays_away_is_gone_after_ten_reports_and_stale_before() {
    let mut two = reports(Scale { peak_bits: Some(1e6), ..scale(1) });
    hear(&mut two, 0, &cells(&[(1, 1e5), (7, 2e5)]));
    let gone = Ok(Reading { source: ID, cell: CellId(7), stamped: None, observed: Observed::Gone });
    for absent in 1..=ABSENT_REPORTS_MAX {
        let heard = hear(&mut two, u64::from(absent) * 1000, &cells(&[(1, 1e5)]));
        assert_eq!(heard.contains(&gone), absent == ABSENT_REPORTS_MAX, "report {absent}");
    }
}

#[test]
fn no_cell_hides_another() {
    let mut many = reports(Scale { peak_bits: Some(1e6), ..scale(1) });
    let readings: Vec<Reading> =
        hear(&mut many, 0, &cells(&[(0, 1e5), (5, 9e5), (5, 0.0)])).into_iter().map(|heard| heard.unwrap()).collect();
    assert_eq!(levels(&readings, CELL_OF_PCI_0), [(Metric::BitRate, 100)], "0 is the host");
    assert_eq!(levels(&readings, CellId(5)), [(Metric::BitRate, 900)]);
    assert_eq!(levels(&readings, CellId(CELL_UNNAMED.0 + 2)), [(Metric::BitRate, 0)]);
}

#[test]
fn slots_count_as_capacity_once_they_were_used() {
    let mut cell = reports(scale(1));
    let slots = |used: [u16; 4]| {
        format!(r#"{{"cells":[{{"cell_metrics":{{"pci":1,"pdsch_prbs_used_per_tdd_slot_idx":{used:?}}}}}]}}"#)
    };
    let mut level = |used| {
        let heard: Vec<Reading> = hear(&mut cell, 0, &slots(used)).into_iter().map(|heard| heard.unwrap()).collect();
        levels(&heard, CellId(1))[0].1
    };
    assert_eq!(level([0, 0, 0, 0]), 0);
    assert_eq!(level([51, 0, 0, 0]), 1000, "of the one slot that is known");
    assert_eq!(level([51, 51, 51, 0]), 1000);
    assert_eq!(level([51, 0, 0, 0]), 334, "a third, rounded up");
}

#[test]
fn late_work_of_the_fronthaul_counts_in_every_layout() {
    let new = r#"{"ru":{"ofh":{"cells":[{"pci":1,"dl":{"transmitter_stats":{"late_dl_slots":2}},
        "ul":{"rx_window_stats":{"nof_missed_uplink_symbols":3}}}],"timing_stats":{"nof_skipped_symbols":9}}}}"#;
    let flat = r#"{"ru":{"ofh":{"cells":[{"late_dl_slots":1,"rx_window_stats":{"nof_missed_uplink_symbols":0}}]}}}"#;
    let old = r#"{"ru":{"ofh":[{"cell":{"pci":1,"dl":{"transmitter_stats":{"late_dl_grids":4}}}}]}}"#;
    let mut reports = reports(scale(1));
    let mut late = |line| {
        let heard: Vec<Reading> = hear(&mut reports, 0, line).into_iter().map(|heard| heard.unwrap()).collect();
        lates(&heard, CellId(0))
    };
    assert_eq!(
        [late(new), late(flat), late(old), late(r#"{"ru":{"dummy":1}}"#)],
        [vec![0, 5], vec![5, 6], vec![6, 10], vec![]]
    );
}

// ---- up to release 25.04 ----

fn old(bits: f64, blocks: u64) -> String {
    format!(
        r#"{{"log_entry": "JSON Scheduler Metrics", "timestamp": 1751527467.125,
          "cell_metrics": {{"error_indication_count": 0, "average_latency": 9, "max_latency": 44,
            "latency_histogram": [990, 10, 0]}},
          "ue_list": [{{"ue_container": {{"pci": 1, "rnti": 17921, "dl_brate": {bits}, "ul_brate": 0.0,
            "dl_nof_ok": {blocks}, "dl_nof_nok": 0, "ul_nof_ok": 0, "ul_nof_nok": 0}}}}], "event_list": []}}"#
    )
}

fn old_levels(reports: &mut Reports, ms: u64, message: &str) -> Vec<u16> {
    cpu(&hear(reports, ms, message))
}

#[test]
fn the_older_form_gives_the_higher_share_of_bits_and_of_slots() {
    let scale = Scale { peak_bits: Some(100e6), ..scale(1) };
    let mut datagrams = Reports::new(ID, Form::Datagrams, scale);
    assert_eq!(old_levels(&mut datagrams, 0, &old(30e6, 100)), [300]);
    // Users far from the mast: every slot is used, and few bits come through.
    assert_eq!(old_levels(&mut datagrams, 5000, &old(3e6, 800)), [800]);
    let idle = r#"{"cell_metrics": {"error_indication_count": 1, "latency_histogram": [1000]}, "ue_list": []}"#;
    assert_eq!(old_levels(&mut datagrams, 10_000, idle), [0]);
    let heard = hear(&mut datagrams, 11_000, idle);
    assert!(heard.iter().any(|heard| heard.is_ok_and(|it| it.observed == Observed::Late { count: 2 })), "{heard:?}");
}

#[test]
fn in_the_older_form_an_idle_cell_does_not_hide_a_busy_one() {
    let scale = Scale { peak_bits: Some(100e6), ..scale(1) };
    let mut datagrams = Reports::new(ID, Form::Datagrams, scale);
    let window_ms = u64::try_from(WINDOW.as_millis()).unwrap();
    for second in 0..5 {
        assert_eq!(old_levels(&mut datagrams, second * window_ms, &old(90e6, 1)), [900]);
        assert_eq!(old_levels(&mut datagrams, second * window_ms + 1, &old(0.0, 0)), [900]);
    }
    assert_eq!(old_levels(&mut datagrams, 10 * window_ms, &old(0.0, 0)), [0]);
}

#[test]
fn a_datagram_may_hold_several_objects() {
    let scale = Scale { peak_bits: Some(100e6), ..scale(1) };
    let mut datagrams = Reports::new(ID, Form::Datagrams, scale);
    let both = format!("{}\n{}", old(10e6, 0), old(20e6, 0));
    assert_eq!(old_levels(&mut datagrams, 0, &both), [100, 200]);
}

#[test]
fn the_datagrams_of_a_gnb_are_heard() {
    let scale = Scale { peak_bits: Some(100e6), ..scale(1) };
    let settings = Settings { form: Form::Datagrams, address: "127.0.0.1:0".parse().unwrap(), scale };
    let (mut mailbox, address) = listen(ID, &settings).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut heard = Vec::new();
    let until = clock::now().after(Duration::from_secs(20));
    while cpu(&heard).is_empty() && clock::now() < until {
        sender.send_to(old(42e6, 0).as_bytes(), address).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        mailbox.read(clock::now(), &mut |observation| heard.push(observation));
    }
    assert_eq!(cpu(&heard).first(), Some(&420));
}

// ---- settings ----

#[test]
fn settings_out_of_range_are_refused_with_the_limit() {
    let good = Settings { form: Form::Stream, address: ADDRESS_DEFAULT.parse().unwrap(), scale: scale(2) };
    let refused = |settings: Settings| {
        let kind = crate::load::Kind::Ocudu(settings);
        let freshness = Duration::from_secs(3);
        let source = SourceSettings { name: "gnb".to_owned(), freshness, required: true, kind, record: None };
        source.check().map_err(|error| error.to_string())
    };
    assert_eq!(refused(good.clone()), Ok(()));
    for (change, parts) in [
        (Settings { address: "192.0.2.1:8001".parse().unwrap(), ..good.clone() }, ["192.0.2.1", "loopback"]),
        (Settings { address: "127.0.0.1:0".parse().unwrap(), ..good.clone() }, ["127.0.0.1:0", "loopback"]),
        (Settings { scale: scale(0), ..good.clone() }, ["cores 0", "1 to 1024"]),
        (
            Settings { scale: Scale { prbs: BTreeMap::from([(1, 276)]), ..scale(1) }, ..good.clone() },
            ["prbs 276", "1 to 275"],
        ),
        (
            Settings { scale: Scale { peak_bits: Some(f64::NAN), ..scale(1) }, ..good.clone() },
            ["peak_mbps NaN", "above 0"],
        ),
        (Settings { form: Form::Datagrams, ..good.clone() }, ["peak_mbps", "no other figure"]),
        (
            Settings { form: Form::Datagrams, address: "0.0.0.0:55555".parse().unwrap(), scale: scale(1) },
            ["0.0.0.0:55555", "loopback"],
        ),
    ] {
        let said = refused(change).unwrap_err();
        assert!(parts.iter().all(|part| said.contains(part)), "{said} lacks one of {parts:?}");
    }
}
