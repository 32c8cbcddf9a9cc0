//! What must be senseless, what must not break, and what holds for any input.

use proptest::prelude::*;

use super::*;

#[test]
fn what_no_radio_can_say_is_senseless() {
    let executor = |rest: &str| format!(r#"{{"executor_metrics":{{"name":"a",{rest}}}}}"#);
    let cell = |rest: &str| format!(r#"{{"cells":[{{"cell_metrics":{{"pci":1,{rest}}}}}]}}"#);
    let user = |rest: &str| format!(r#"{{"cells":[{{"cell_metrics":{{"pci":1}},"ue_list":[{{{rest}}}]}}]}}"#);
    for line in [
        executor(r#""cpu_load":-0.1"#),
        executor(r#""cpu_load":1e9"#),
        executor(r#""cpu_load":1e400"#),
        executor(r#""cpu_load":NaN"#),
        executor(r#""cpu_load":"3""#),
        executor(r#""cpu_load":3,"cpu_load":4"#),
        executor(r#""cpu_load":3,"enqueue_max":-1"#),
        executor(r#""cpu_load":3,"enqueue_max":1e12"#),
        r#"{"executor_metrics":{"cpu_load":3}}"#.to_owned(),
        r#"{"executor_metrics":7}"#.to_owned(),
        cell(r#""error_indication_count":-1"#),
        cell(r#""error_indication_count":1e30"#),
        cell(r#""max_latency":-5"#),
        cell(r#""pdsch_prbs_used_per_tdd_slot_idx":[52]"#),
        cell(r#""pdsch_prbs_used_per_tdd_slot_idx":[-1]"#),
        cell(r#""pusch_prbs_used_per_tdd_slot_idx":5"#),
        r#"{"cells":[{"cell_metrics":{"pci":1008}}]}"#.to_owned(),
        r#"{"cells":{}}"#.to_owned(),
        user(r#""dl_brate":-1,"ul_brate":0"#),
        user(r#""dl_brate":1e15,"ul_brate":0"#),
        r#"{"ru":{"ofh":{"cells":[{"late_dl_slots":-1}]}}}"#.to_owned(),
        "{".to_owned(),
        "hello".to_owned(),
        "[1,2]".to_owned(),
        "\u{0}".to_owned(),
    ] {
        assert!(is_senseless(&hear(&mut reports(scale(1)), 0, &line)), "{line}");
    }
    assert!(is_senseless(&{
        let mut heard = Vec::new();
        reports(scale(1)).on_message(at(0), b"{\"cells\":\"\xff\"}", &mut |observation| heard.push(observation));
        heard
    }));
}

#[test]
fn what_is_partial_or_unknown_is_not_senseless() {
    for line in [
        "{}",
        "",
        r#"{"cmd":"metrics_subscribe","timestamp":"2026-11-22T08:24:06.435"}"#,
        r#"{"cells":null,"timestamp":null}"#,
        r#"{"cells":[]}"#,
        r#"{"cells":[{}]}"#,
        r#"{"cells":[{"cell_metrics":{"pci":1,"latency_histogram":[{"latency_bin":{"latency_bin_count":3}}]}}]}"#,
        r#"{"cells":[{"cell_metrics":{"pci":1,"max_latency":null},"ue_list":[{"rnti":1}]}]}"#,
        r#"{"buffer_pool":{"central_cache_size":1048416},"timestamp":5}"#,
        r#"{"du":{"du_high":{"mac":{"dl":[{"cpu_usage_percent":-4}]}}}}"#,
        r#"{"executor_metrics":{"name":"a"},"timestamp":"yesterday"}"#,
    ] {
        assert_eq!(hear(&mut reports(scale(1)), 0, line).iter().find(|heard| heard.is_err()), None, "{line}");
    }
}

#[test]
fn a_refused_subscription_is_told() {
    let refusal = r#"{"error":"Unknown command type: metrics_subscribe","cmd":"metrics_subscribe"}"#;
    let said = reports(scale(1)).on_message(at(0), refusal.as_bytes(), &mut |heard| panic!("{heard:?}"));
    assert_eq!(said.as_deref(), Some("\"Unknown command type: metrics_subscribe\""));
}

#[test]
fn too_much_is_senseless() {
    let cells = |count: usize| format!(r#"{{"cells":[{}]}}"#, vec!["{}"; count].join(","));
    let users = |count: usize| format!(r#"{{"cells":[{{"ue_list":[{}]}}]}}"#, vec!["{}"; count].join(","));
    let slots = |count: usize| {
        let slots = vec!["1"; count].join(",");
        format!(r#"{{"cells":[{{"cell_metrics":{{"pci":1,"pdsch_prbs_used_per_tdd_slot_idx":[{slots}]}}}}]}}"#)
    };
    let name = |length: usize| executor(&"x".repeat(length), 1.0);
    let size = |length: usize| format!("{{}}{}", " ".repeat(length - 2));
    for (most, more) in [
        (cells(64), cells(65)),
        (users(4096), users(4097)),
        (slots(320), slots(321)),
        (name(64), name(65)),
        (size(1024 * 1024), size(1024 * 1024 + 1)),
    ] {
        assert!(!is_senseless(&hear(&mut reports(scale(1)), 0, &most)), "{most:.60}");
        assert!(is_senseless(&hear(&mut reports(scale(1)), 0, &more)), "{more:.60}");
    }

    let mut crowd = reports(scale(1));
    let senseless = (0..600).filter(|n| is_senseless(&hear(&mut crowd, 0, &executor(&format!("e{n}"), 1.0))));
    assert_eq!(senseless.count(), 600 - executors::EXECUTORS_MAX);
    let mut fleet = reports(scale(1));
    let cell = |pci: u64| format!(r#"{{"cells":[{{"cell_metrics":{{"pci":{pci}}}}}]}}"#);
    // Each is away before it is gone, so it still has its place.
    let senseless = (1..=80).any(|pci| is_senseless(&hear(&mut fleet, 0, &cell(pci))));
    assert!(!senseless, "no more than eleven are remembered at a time");
}

#[test]
fn what_is_nested_deeply_is_survived_on_the_small_stack_of_the_thread() {
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
    let lines = [
        deep("[", "]"),
        deep(r#"{"ru":"#, "}"),
        format!(r#"{{"ru":{}}}"#, deep("[", "]")),
        format!(r#"{{"ru":{}}}"#, deep(r#"{"a":"#, "}")),
    ];
    // What is skipped may be as deep as it likes.
    let skipped = format!(r#"{{"cells":[{{"ue_list":[{}]}}]}}"#, deep(r#"{"ue_container":"#, "}"));
    let hears = move || {
        for line in lines {
            assert!(is_senseless(&hear(&mut reports(scale(1)), 0, &line)), "{line:.40}");
        }
        assert_eq!(hear(&mut reports(scale(1)), 0, &skipped), []);
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(hears).unwrap().join().unwrap();
}

#[test]
fn many_bits_for_no_work_are_a_contradiction() {
    let bits = |mbps: f64| cells(&[(1, mbps * 1e6)]);
    let mut liar = learned(scale(1), &[("a", 0.1)]);
    hear(&mut liar, 2000, &bits(90.0));
    assert!(is_senseless(&report(&mut liar, 2500, &[("a", 0.1)])));
    // A report from long ago contradicts nothing, and a real DU does not contradict itself.
    assert_eq!(cpu(&report(&mut liar, 6000, &[("a", 0.1)])), [1]);
    hear(&mut liar, 6500, &bits(90.0));
    assert_eq!(cpu(&report(&mut liar, 7000, &[("a", 28.0)])), [280]);
    hear(&mut liar, 7500, &bits(10.0));
    assert_eq!(cpu(&report(&mut liar, 8000, &[("a", 0.0)])), [0], "a little may pass unseen");
}

// ---- any input ----

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for form in [Form::Stream, Form::Datagrams] {
            let scale = Scale { peak_bits: Some(1e8), ..scale(1) };
            Reports::new(ID, form, scale).on_message(at(0), &bytes, &mut |_| {});
        }
    }

    #[test]
    fn a_recording_with_a_changed_byte_breaks_nothing(line in 0_usize..90, place in any::<prop::sample::Index>(), byte: u8) {
        let lines = recording("tdd20");
        let mut changed = lines[line].1.clone().into_bytes();
        let place = place.index(changed.len());
        changed[place] = byte;
        let mut reports = reports(Scale { peak_bits: Some(1e8), ..scale(1) });
        reports.on_message(at(0), &changed, &mut |_| {});
    }

    #[test]
    fn the_level_is_never_lower_than_the_executors_say(
        loads in prop::collection::vec(0.0..100.0_f64, 1..30),
        cores in 1_u32..8,
        dropped in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let names: Vec<String> = (0..loads.len()).map(|n| format!("e{n}")).collect();
        let all: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(loads.iter().copied()).collect();
        let said = (loads.iter().sum::<f64>() * 10.0 / f64::from(cores)).min(1000.0);
        let mut known = learned(scale(cores), &all);
        // Reports that lack any executor are between the whole ones.
        for (second, lacks) in (2..).zip(dropped.iter().map(|index| Some(index.index(all.len()))).chain([None])) {
            let told: Vec<(&str, f64)> =
                all.iter().enumerate().filter(|(n, _)| Some(*n) != lacks).map(|(_, it)| *it).collect();
            let heard = cpu(&report(&mut known, second * 1000, &told));
            prop_assert!(heard.iter().all(|level| f64::from(*level) >= said - 1e-6), "{heard:?} below {said}");
            prop_assert_eq!(heard.len(), usize::from(lacks.is_none()));
        }
    }
}
