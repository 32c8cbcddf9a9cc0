use super::*;

fn settings() -> Settings {
    Settings {
        cores: vec![sched::cores()[0]],
        slot: Duration::from_millis(1),
        deadline: Duration::from_millis(1),
        peak: Utilization::from_percent(50).unwrap(),
        work: Kind::Mixed,
        cache_bytes: Some(1 << 16),
        stream_bytes: 1 << 20,
        priority: None,
    }
}

fn play(curve: Curve, ms: u64) -> Play {
    Play { curve, lasting: Duration::from_millis(ms), radio: None }
}

#[test]
fn every_slot_of_a_run_is_accounted_for_once_and_a_second_run_uses_the_same_calibration() {
    let mut ran = Ran::prepare(settings()).unwrap();
    let units = ran.unit_ns();
    for ms in [100, 57] {
        let running = ran.start(play(Curve::steady(Utilization::FULL), ms)).unwrap();
        let (again, outcome) = running.finish();
        assert_eq!(outcome.account.slots, ms, "{outcome:?}");
        assert!(outcome.account.missed <= ms && outcome.account.skipped <= outcome.account.missed, "{outcome:?}");
        assert_eq!((again.unit_ns(), again.is_fifo()), (units.clone(), false));
        ran = again;
    }
}

#[test]
fn work_that_no_deadline_allows_is_missed_in_every_slot() {
    let impossible = Settings { deadline: Duration::from_nanos(1), ..settings() };
    let running = Ran::prepare(impossible).unwrap().start(play(Curve::steady(Utilization::FULL), 50)).unwrap();
    let (_, outcome) = running.finish();
    assert_eq!((outcome.account.slots, outcome.account.missed), (50, 50));
}

#[test]
fn a_slot_that_takes_too_long_is_given_up_and_the_thread_still_rests() {
    let mut ran = Ran::prepare(settings()).unwrap();
    // As if the machine had been a million times faster when it was quiet.
    ran.cores[0].unit_ns = 0.000_001;
    ran.settings.slot = Duration::from_millis(1);
    let full = full_units(&ran.settings, ran.cores[0].unit_ns);
    assert_eq!(full, 500_000, "a unit counts as a nanosecond at least");
    let begun = clock::now();
    let cpu_before = clock::own_cpu();
    let (_, outcome) = ran.start(play(Curve::steady(Utilization::FULL), 200)).unwrap().finish();
    assert_eq!(outcome.account.slots, 200, "{outcome:?}");
    assert!(outcome.account.given_up > 0 && outcome.account.skipped > 0, "{outcome:?}");
    assert!(outcome.account.missed >= outcome.account.skipped, "{outcome:?}");
    // Other tests of this process use CPU time as well, so this is told, not judged.
    eprintln!("{:?} of CPU time in {:?}", clock::own_cpu() - cpu_before, clock::now().since(begun));
}

#[test]
fn a_run_ends_when_it_is_told_to() {
    let running = Ran::prepare(settings()).unwrap().start(play(Curve::steady(Utilization::IDLE), 3_600_000)).unwrap();
    running.stop();
    let (_, outcome) = running.finish();
    assert!(outcome.lasted < Duration::from_secs(600), "{outcome:?}");
}

#[test]
fn load_is_work_in_proportion() {
    let level = |percent| Utilization::from_percent(percent).unwrap();
    assert_eq!([0, 1, 50, 100].map(|percent| units(level(percent), 700)), [0, 7, 350, 700]);
    // 50 % of 1 ms in units of 1000 ns.
    assert_eq!(full_units(&settings(), 1000.0), 500);
}

#[test]
fn settings_that_could_harm_the_machine_are_refused_with_the_rule() {
    let cases = [
        (Settings { cores: vec![], ..settings() }, "1 to 64"),
        (Settings { cores: vec![0, 1, 0], ..settings() }, "different"),
        (Settings { slot: Duration::from_micros(249), ..settings() }, "250µs"),
        (Settings { slot: Duration::from_millis(11), ..settings() }, "10ms"),
        (Settings { deadline: Duration::ZERO, ..settings() }, "above 0"),
        (Settings { deadline: Duration::from_millis(11), ..settings() }, "10 slots"),
        (Settings { peak: Utilization::IDLE, ..settings() }, "95 %"),
        (Settings { peak: Utilization::FULL, ..settings() }, "95 %"),
        (Settings { stream_bytes: BYTES_MAX + 1, ..settings() }, "bytes"),
    ];
    for (settings, rule) in cases {
        let sentence = settings.check().unwrap_err().to_string();
        assert!(sentence.contains(rule), "{sentence}");
    }
    settings().check().unwrap();
}

#[test]
fn a_core_that_is_not_there_is_named_with_those_that_are() {
    let sentence =
        Ran::prepare(Settings { cores: vec![sched::cores()[0], 1023], ..settings() }).unwrap_err().to_string();
    assert!(sentence.contains("1023") && sentence.contains(&format!("{:?}", sched::cores())), "{sentence}");
}

#[test]
fn a_load_that_nobody_takes_is_refused_before_the_start() {
    let target = radio::Target::Push("/nowhere/load.sock".into());
    let radio =
        radio::Settings { target, cell: crate::units::CellId(1), repeat: Duration::from_millis(20), tells_late: true };
    let nobody = Play { radio: Some(radio), ..play(Curve::steady(Utilization::IDLE), 10) };
    let sentence = Ran::prepare(settings()).unwrap().start(nobody).unwrap_err().to_string();
    assert!(sentence.contains("/nowhere/load.sock") && sentence.contains("is the agent running"), "{sentence}");
}
