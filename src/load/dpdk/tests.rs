use std::time::Duration;

use super::*;

fn settings() -> Settings {
    Settings {
        socket: SOCKET_DEFAULT.into(),
        process: None,
        lcores: Vec::new(),
        ports: Vec::new(),
        parked_idle: false,
        period: PERIOD_DEFAULT,
    }
}

#[test]
fn settings_out_of_range_are_refused_with_key_and_limit() {
    let enough = PERIOD_DEFAULT * 2;
    assert!(check(&settings(), enough).is_ok());
    let cases = [
        (Settings { socket: "dpdk_telemetry.v2".into(), ..settings() }, "socket dpdk_telemetry.v2"),
        (Settings { socket: format!("/{}", "x".repeat(104)).into(), ..settings() }, "at most 104 bytes"),
        (Settings { process: Some("a name too long".to_owned() + "!"), ..settings() }, "1 to 15 bytes"),
        (Settings { lcores: vec![1, 2, 1], ..settings() }, "different lcores"),
        (Settings { ports: (0..65).collect(), ..settings() }, "at most 64"),
        (Settings { period: Duration::from_millis(19), ..settings() }, "20 ms to 10 s"),
        (Settings { period: enough, ..settings() }, "twice the period"),
    ];
    for (bad, words) in cases {
        let refused = check(&bad, enough).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn the_busiest_lcore_of_those_that_count_is_the_level_rounded_up() {
    let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
    let told = |lcores: [u64; 4]| {
        let [total_1, busy_1, total_2, busy_2] = lcores;
        let text = format!(
            r#"{{"/eal/lcore/usage":{{"lcore_ids":[1,2],"total_cycles":[{total_1},{total_2}],"busy_cycles":[{busy_1},{busy_2}]}}}}"#
        );
        usage(text.as_bytes()).unwrap()
    };
    let (first, second) = (told([1_000, 10, 1_000, 10]), told([4_000, 11, 3_000, 1_010]));
    for (wanted, permille) in [(vec![], 500), (vec![1], 1), (vec![2], 500), (vec![1, 2], 500)] {
        let mut lcores = Lcores::new(&wanted, false);
        assert_eq!(lcores.level(at(0), at(1), &first), Ok(None));
        let level = lcores.level(at(100), at(101), &second).unwrap().unwrap();
        assert_eq!(level.permille(), permille, "{wanted:?}");
    }
    let mut missing = Lcores::new(&[3], false);
    assert!(missing.level(at(0), at(1), &first).unwrap_err().contains("not reported"));
}
