//! Are the threads that are meant found, and is a wrong count never taken for idleness?

use super::*;

#[test]
fn threads_are_chosen_by_the_name_of_their_process_or_their_own() {
    let host = Host::new();
    let run = |ms: u64| {
        host.thread(100, 100, "gnb", ms);
        host.thread(100, 101, "upper_phy_dl#0", ms);
        host.thread(200, 200, "other", ms);
        host.thread(200, 201, "gnb_helper", ms);
    };
    run(1000);
    let mut levels = Vec::new();
    let mut sources = ["gnb", "*_dl#?", "gnb*", "*"].map(|pattern| host.open(&by_name(pattern, 1)));
    for procfs in &mut sources {
        assert_eq!(host.look(procfs, 0), None);
    }
    run(1010);
    host.now.set(host.now.get().after(Duration::from_millis(100)));
    for procfs in &mut sources {
        levels.push(host.level(procfs, 0));
    }
    assert_eq!(levels, [200, 100, 300, 400]);
}

#[test]
fn threads_of_named_processes_are_all_counted() {
    let host = Host::new();
    host.write("proc/300/task/300/schedstat", X86_SCHEDSTAT);
    host.thread(300, 301, "a", 100);
    let mut procfs = host.open(&What::Threads { select: Select::Pids(vec![300]), cores: 2, hottest: false });
    assert_eq!(host.look(&mut procfs, 0), None);
    host.thread(300, 301, "a", 150);
    assert_eq!(host.level(&mut procfs, 100), 250);
}

#[test]
fn own_workers_are_never_taken_for_the_ran() {
    let host = Host::new();
    host.thread(100, 100, "ran", 10);
    host.thread(77, 77, "ran-like", 10);
    host.worker.store(77, Ordering::Relaxed);
    let mut procfs = host.open(&by_name("ran*", 1));
    host.look(&mut procfs, 0);
    host.thread(77, 77, "ran-like", 110);
    assert_eq!(host.level(&mut procfs, 100), 0);
}

#[test]
fn a_thread_that_ends_is_malformed_and_the_others_go_on() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 10);
    host.thread(100, 101, "gnb", 10);
    let mut procfs = host.open(&by_name("gnb", 1));
    host.look(&mut procfs, 0);
    fs::remove_dir_all(host.root.path().join("proc/100/task/101")).unwrap();
    let found_out = host.look(&mut procfs, 3000).unwrap();
    assert_eq!(found_out, Err(Malformed { source: A, why: "a thread that ended" }));
    assert_eq!(host.look(&mut procfs, 100), None);
    host.thread(100, 100, "gnb", 30);
    assert_eq!(host.level(&mut procfs, 100), 200);
}

#[test]
fn a_thread_that_starts_later_is_found() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 10);
    let mut procfs = host.open(&by_name("gnb", 1));
    host.look(&mut procfs, 0);
    host.thread(100, 102, "late", 10);
    host.look(&mut procfs, 3000);
    host.thread(100, 102, "late", 110);
    assert_eq!(host.level(&mut procfs, 100), 1000);
}

#[test]
fn no_such_thread_is_malformed_until_it_comes() {
    let host = Host::new();
    let mut procfs = host.open(&by_name("gnb", 1));
    for ms in [0, 100] {
        assert!(host.look(&mut procfs, ms).unwrap().is_err());
    }
    host.thread(100, 100, "gnb", 10);
    assert_eq!(host.look(&mut procfs, 3000), None);
    assert_eq!(host.level(&mut procfs, 100), 0);
}

#[test]
fn one_missing_process_of_several_is_malformed() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 10);
    let mut procfs = host.open(&What::Threads { select: Select::Pids(vec![100, 200]), cores: 1, hottest: false });
    assert!(host.look(&mut procfs, 100).unwrap().is_err());
}

#[test]
fn zeros_of_a_kernel_without_scheduler_statistics_are_not_taken_for_idleness() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 0);
    let mut procfs = host.open(&by_name("gnb", 1));
    for _ in 0..3 {
        let why = host.look(&mut procfs, 100).unwrap().unwrap_err().why;
        assert_eq!(why, "threads that have no run time in schedstat");
    }
}

#[test]
fn too_many_threads_are_malformed() {
    let host = Host::new();
    (1..=600).for_each(|tid| host.thread(1, tid, "gnb", 10));
    let mut procfs = host.open(&by_name("gnb", 1));
    assert!(host.look(&mut procfs, 0).unwrap().unwrap_err().why.starts_with("more than 512 threads"));
}

#[test]
fn an_id_that_another_process_has_now_is_not_the_ran() {
    let host = Host::new();
    let born = |ticks: u64| format!("300 (g) n b) S {} {ticks} 0 0\n", "0 ".repeat(18).trim_end());
    host.thread(300, 300, "gnb", 10);
    host.write("proc/300/stat", &born(4711));
    let mut procfs = host.open(&What::Threads { select: Select::Pids(vec![300]), cores: 1, hottest: false });
    host.look(&mut procfs, 0);
    assert_eq!(host.level(&mut procfs, 3000), 0);
    host.write("proc/300/stat", &born(5000));
    for _ in 0..3 {
        let why = host.look(&mut procfs, 3000).unwrap().unwrap_err().why;
        assert_eq!(why, "a process id that another process has now");
    }
}

#[test]
fn a_reused_thread_id_is_malformed_and_then_counts_from_its_own_begin() {
    let host = Host::new();
    host.thread(100, 100, "gnb", 500);
    let mut procfs = host.open(&by_name("gnb", 1));
    host.look(&mut procfs, 0);
    host.thread(100, 100, "gnb", 20);
    assert_eq!(host.look(&mut procfs, 100).unwrap().unwrap_err().why, "a counter that went backwards");
    assert_eq!(host.look(&mut procfs, 100), None);
    host.thread(100, 100, "gnb", 50);
    assert_eq!(host.level(&mut procfs, 100), 300);
}

#[test]
fn the_busiest_thread_is_the_level_where_that_is_wanted() {
    let host = Host::new();
    let run = |hot_ms: u64, cool_ms: u64| {
        host.thread(100, 100, "gnb", hot_ms);
        (101..108).for_each(|tid| host.thread(100, tid, "pool", cool_ms));
    };
    run(1000, 1000);
    let mut sources = [false, true]
        .map(|hottest| host.open(&What::Threads { select: Select::Name("gnb".to_owned()), cores: 8, hottest }));
    sources.iter_mut().for_each(|procfs| assert_eq!(host.look(procfs, 0), None));
    run(1095, 1009);
    host.now.set(host.now.get().after(Duration::from_millis(100)));
    let levels = sources.each_mut().map(|procfs| host.level(procfs, 0));
    assert_eq!(levels, [198, 950], "95 ms and 7 times 9 ms of 100 ms, on 8 cores");
}

#[test]
fn ten_thousand_threads_are_refused_by_name_and_passed_over_when_others_are_meant() {
    let host = Host::new();
    (2..=10_000).for_each(|tid| fs::create_dir_all(host.root.path().join(format!("proc/1/task/{tid}"))).unwrap());
    host.thread(1, 1, "many", 10);
    host.thread(20_000, 20_000, "gnb", 10);
    for (select, is_refused) in
        [(Select::Name("many".into()), true), (Select::Pids(vec![1]), true), (Select::Name("gnb".into()), false)]
    {
        let mut procfs = host.open(&What::Threads { select, cores: 1, hottest: false });
        match host.look(&mut procfs, 0) {
            Some(refused) => assert!(is_refused && refused.unwrap_err().why.starts_with("more than 512 threads")),
            None => assert!(!is_refused),
        }
    }
}
