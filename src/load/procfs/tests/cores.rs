//! Is the time of cores told right, less that of our own workers?

use super::*;

#[test]
fn busy_ticks_of_the_cores_are_a_share_of_their_time() {
    for (cores, expected) in [(vec![0, 1], 400), (vec![2], 0), (vec![3], 1000), (vec![3, 2, 1, 0], 450)] {
        let host = Host::new();
        host.write("proc/stat", ARM[0]);
        let mut procfs = host.open(&What::Cores(cores.clone()));
        assert_eq!(host.look(&mut procfs, 0), None, "one count is no share");
        host.write("proc/stat", ARM[1]);
        assert_eq!(host.level(&mut procfs, 1000), expected, "cores {cores:?}");
    }
}

#[test]
fn a_captured_x86_host_gives_what_was_captured() {
    for (core, expected) in [(0, 995), (1, 1000)] {
        let host = Host::new();
        host.write("proc/stat", X86[0]);
        let mut procfs = host.open(&What::Cores(vec![core]));
        assert_eq!(host.look(&mut procfs, 0), None);
        host.write("proc/stat", X86[1]);
        host.now.set(host.now.get().after(Duration::from_nanos(2_000_335_581)));
        assert_eq!(permille(level_of(&seen(&mut procfs, &|| host.now.get())).unwrap()), expected);
    }
}

fn level_with_worker(before: impl Fn(&Host), after: impl Fn(&Host)) -> u16 {
    let host = Host::new();
    host.write("proc/stat", ARM[0]);
    before(&host);
    let mut procfs = host.open(&What::Cores(vec![0, 1]));
    host.look(&mut procfs, 0);
    host.write("proc/stat", ARM[1]);
    after(&host);
    host.level(&mut procfs, 1000)
}

#[test]
fn own_workers_on_the_cores_are_subtracted() {
    assert_eq!(level_with_worker(|host| host.worker(77, "1", 5000), |host| host.worker(77, "1", 5300)), 250);
    assert_eq!(level_with_worker(|host| host.worker(77, "0-1", 5000), |host| host.worker(77, "0-1", 5300)), 250);
}

#[test]
fn own_workers_that_may_run_elsewhere_are_not_subtracted() {
    for cores in ["1,3", "0-3", "3", "", "x"] {
        assert_eq!(level_with_worker(|h| h.worker(77, cores, 5000), |h| h.worker(77, cores, 5300)), 400, "{cores:?}");
    }
}

#[test]
fn a_worker_that_has_just_started_is_not_subtracted_yet() {
    assert_eq!(level_with_worker(|_| {}, |host| host.worker(78, "1", 300)), 400);
    assert_eq!(level_with_worker(|host| host.worker(77, "1", 5000), |host| host.worker(78, "1", 5300)), 400);
}

#[test]
fn a_worker_whose_counter_goes_backwards_is_not_subtracted() {
    assert_eq!(level_with_worker(|host| host.worker(77, "1", 5000), |host| host.worker(77, "1", 4000)), 400);
}

#[test]
fn a_worker_that_ran_longer_than_the_ticks_show_makes_no_negative_load() {
    assert_eq!(level_with_worker(|host| host.worker(77, "1", 0), |host| host.worker(77, "1", 60_000)), 0);
}

#[test]
fn a_worker_that_pins_itself_later_is_subtracted_from_then_on() {
    let host = Host::new();
    host.write("proc/stat", ARM[0]);
    host.worker(77, "0-3", 0);
    let mut procfs = host.open(&What::Cores(vec![1]));
    host.worker(77, "1", 0);
    for _ in 0..20 {
        host.look(&mut procfs, 100);
    }
    host.write("proc/stat", ARM[1]);
    host.worker(77, "1", 600);
    assert_eq!(host.level(&mut procfs, 1000), 0, "600 ms of ticks less 600 ms of the worker");
}

#[test]
fn a_core_that_is_not_there_is_refused_at_the_start_and_malformed_later() {
    let host = Host::new();
    host.write("proc/stat", ARM[0]);
    let cores = What::Cores(vec![0, 4]);
    let refused = Procfs::open(A, &settings(host.root.path(), &cores), no_workers()).unwrap_err().to_string();
    assert!(refused.contains("[0, 4]") && refused.contains("online"), "{refused}");
    let mut procfs = host.open(&What::Cores(vec![2]));
    host.write("proc/stat", &ARM[1].replace("cpu2 ", "gpu2 "));
    assert!(host.look(&mut procfs, 100).unwrap().is_err());
}

#[test]
fn ticks_that_make_no_sense_are_malformed_and_the_next_good_ones_start_anew() {
    let bad = [
        "",
        "cpu0 99999 9999 9999 999999 999 999\n",
        "cpu0 a b c d e f g\n",
        "cpu0 1 1 1 1 1 1 1\n",
        "cpu0 -1 0 0 0 0 0 0 0\n",
        "\u{0}\u{0}",
    ];
    for text in bad.into_iter().chain(["cpu0 18446744073709551615 18446744073709551615 0 0 0 0 0 0\n"]) {
        let host = Host::new();
        host.write("proc/stat", ARM[0]);
        let mut procfs = host.open(&What::Cores(vec![0]));
        host.look(&mut procfs, 0);
        host.write("proc/stat", text);
        assert!(host.look(&mut procfs, 100).unwrap().is_err(), "{text:?}");
        host.write("proc/stat", ARM[1]);
        let again = host.look(&mut procfs, 100);
        assert!(again.is_none() || again.unwrap().is_err(), "{text:?}");
    }
}

#[test]
fn a_look_that_was_interrupted_gives_no_reading() {
    let host = Host::new();
    host.write("proc/stat", ARM[0]);
    let mut procfs = host.open(&What::Cores(vec![0]));
    host.look(&mut procfs, 0);
    let slow = || {
        host.now.set(host.now.get().after(Duration::from_millis(100)));
        host.now.get()
    };
    assert_eq!(level_of(&seen(&mut procfs, &slow)), None);
    assert_eq!(host.level(&mut procfs, 100), 0);
}
