//! Are run-queue delay and pressure what the kernel counted, and does the level never suffer from them?

use super::*;

const GROUP: &str = "sys/fs/cgroup/ran.slice";

/// A cgroup with threads, of which one is in a cgroup below it.
fn with_threads(waited_ms: u64, pressure_us: Option<u64>) -> Host {
    let host = Host::new();
    host.write(&format!("{GROUP}/cpu.stat"), "usage_usec 1000\n");
    host.write(&format!("{GROUP}/cgroup.threads"), "100\n101\n");
    host.write(&format!("{GROUP}/cu/cgroup.threads"), "200\n");
    [(100, 100), (100, 101), (200, 200)].iter().for_each(|(pid, tid)| wait(&host, *pid, *tid, waited_ms));
    pressure_us.into_iter().for_each(|us| press(&host, us));
    host
}

fn wait(host: &Host, pid: i32, tid: i32, waited_ms: u64) {
    host.waiting_thread(pid, tid, "gnb", 10, waited_ms);
}

fn press(host: &Host, us: u64) {
    let text = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={us}\nfull avg10=0.00 total=7\n");
    host.write(&format!("{GROUP}/cpu.pressure"), &text);
}

#[test]
fn delays_of_all_threads_below_a_cgroup_add_up_to_microseconds_a_second() {
    let host = with_threads(50, Some(1_000_000));
    let mut procfs = host.open(&cgroup());
    assert_eq!(host.health(&mut procfs, 0), [None, None], "one total is no share");
    [(100, 100), (100, 101), (200, 200)].iter().for_each(|(pid, tid)| wait(&host, *pid, *tid, 54));
    press(&host, 1_500_000);
    assert_eq!(host.health(&mut procfs, 2000), [Some(6000), Some(250)]);
}

#[test]
fn threads_that_are_named_have_their_delay_as_well() {
    let host = with_threads(50, None);
    let mut procfs = host.open(&by_name("gnb", 2));
    assert_eq!(host.health(&mut procfs, 0), [None, None]);
    wait(&host, 100, 101, 150);
    assert_eq!(host.health(&mut procfs, 1000), [Some(100_000), None], "and no pressure, for no cgroup is named");
}

#[test]
fn health_is_told_once_a_second_however_often_the_level_is() {
    let host = with_threads(50, Some(0));
    let mut procfs = host.open(&cgroup());
    let looks: Vec<_> = (0..50).map(|_| host.health(&mut procfs, 100)).collect();
    let told = looks.iter().filter(|figures| **figures == [Some(0), Some(0)]).count();
    let silent = looks.iter().filter(|figures| **figures == [None, None]).count();
    assert_eq!((told, told + silent), (4, 50), "after the first, at 1, 2, 3 and 4 s");
}

#[test]
fn a_kernel_without_pressure_or_thread_lists_still_gives_the_level_and_what_else_there_is() {
    for (lacks, expected) in
        [("cpu.pressure", [Some(0), None]), ("cgroup.threads", [Some(0), Some(0)]), ("both", [None, None])]
    {
        let host = with_threads(50, Some(0));
        let remove = |name: &str| fs::remove_file(host.root.path().join(GROUP).join(name)).unwrap();
        match lacks {
            "both" => {
                ["cpu.pressure", "cgroup.threads", "cu/cgroup.threads"].into_iter().for_each(remove);
            }
            name => remove(name),
        }
        let mut procfs = host.open(&cgroup());
        host.look(&mut procfs, 0);
        assert_eq!(host.health(&mut procfs, 1000), expected, "without {lacks}");
        assert_eq!(host.level(&mut procfs, 1000), 0, "without {lacks}");
    }
}

#[test]
fn what_makes_no_sense_is_left_out_and_counts_again_from_the_next_good_one() {
    let bad_threads = ["x\n", "-1\n", "0\n", "99999999999999\n", "\u{0}\u{0}", "1 2\n"];
    for bad in bad_threads {
        let host = with_threads(50, None);
        let mut procfs = host.open(&cgroup());
        host.look(&mut procfs, 0);
        host.write(&format!("{GROUP}/cgroup.threads"), bad);
        assert_eq!(host.health(&mut procfs, 1000), [None, None], "{bad:?}");
        host.write(&format!("{GROUP}/cgroup.threads"), "100\n101\n");
        assert_eq!(host.health(&mut procfs, 1000), [None, None], "nothing to compare with yet");
        wait(&host, 100, 100, 60);
        assert_eq!(host.health(&mut procfs, 1000)[0], Some(10_000), "{bad:?}");
    }
    let bad_pressures = ["", "some\n", "some total=x\n", "full total=5\n", "some total=18446744073709551615\n"];
    for bad in bad_pressures {
        let host = with_threads(50, Some(1000));
        let mut procfs = host.open(&cgroup());
        host.look(&mut procfs, 0);
        host.write(&format!("{GROUP}/cpu.pressure"), bad);
        assert_eq!(host.health(&mut procfs, 1000), [Some(0), None], "{bad:?}");
        press(&host, 5_000_000);
        assert_eq!(host.health(&mut procfs, 1000)[1], None);
        press(&host, 5_100_000);
        assert_eq!(host.health(&mut procfs, 1000)[1], Some(100), "{bad:?}");
    }
}

#[test]
fn counters_that_go_backwards_are_left_out() {
    let host = with_threads(500, Some(5_000_000));
    let mut procfs = host.open(&cgroup());
    host.look(&mut procfs, 0);
    wait(&host, 100, 100, 10);
    press(&host, 4_000_000);
    assert_eq!(host.health(&mut procfs, 1000), [None, None]);
    wait(&host, 100, 100, 30);
    press(&host, 4_000_000);
    assert_eq!(host.health(&mut procfs, 1000)[1], Some(0));
    wait(&host, 100, 100, 40);
    assert_eq!(host.health(&mut procfs, 1000), [Some(10_000), Some(0)]);
}

#[test]
fn threads_that_come_bring_no_delay_of_the_past_and_those_that_go_take_none_away() {
    let host = with_threads(50, None);
    let mut procfs = host.open(&cgroup());
    host.look(&mut procfs, 0);
    wait(&host, 300, 300, 90_000);
    host.write(&format!("{GROUP}/cgroup.threads"), "101\n300\n");
    fs::remove_dir_all(host.root.path().join("proc/100/task/100")).unwrap();
    assert_eq!(host.health(&mut procfs, 1000)[0], Some(0));
    wait(&host, 300, 300, 90_007);
    assert_eq!(host.health(&mut procfs, 1000)[0], Some(7000));
}

#[test]
fn pressure_is_never_above_all_of_the_time() {
    let host = with_threads(0, Some(0));
    let mut procfs = host.open(&cgroup());
    host.look(&mut procfs, 0);
    press(&host, 1_000_000_000);
    assert_eq!(host.health(&mut procfs, 1000)[1], Some(1000));
}

#[test]
fn pressure_is_that_of_the_host_only_when_it_is_asked_for() {
    let cores = What::Cores(vec![0]);
    for (pressure, expected) in [(Pressure::Own, None), (Pressure::Host, Some(300)), (Pressure::Off, None)] {
        let host = Host::new();
        host.write("proc/stat", ARM[0]);
        host.write("proc/pressure/cpu", "some total=100\n");
        let mut procfs = host.open_with(&cores, pressure.clone());
        host.look(&mut procfs, 0);
        host.write("proc/pressure/cpu", "some total=300100\n");
        assert_eq!(host.health(&mut procfs, 1000), [None, expected], "{pressure:?}");
    }
}

#[test]
fn pressure_may_come_from_a_cgroup_that_is_named_for_it() {
    let host = with_threads(0, Some(100));
    let pressure = Pressure::Folder(format!("/{GROUP}").into());
    let mut procfs = host.open_with(&by_name("gnb", 1), pressure);
    host.look(&mut procfs, 0);
    press(&host, 200_100);
    assert_eq!(host.health(&mut procfs, 1000), [Some(0), Some(200)]);
}

#[test]
fn a_thread_that_ends_leaves_no_delay_of_half_the_threads() {
    let host = with_threads(50, None);
    let mut procfs = host.open(&by_name("gnb", 2));
    host.look(&mut procfs, 0);
    [(100, 100), (200, 200)].iter().for_each(|(pid, tid)| wait(&host, *pid, *tid, 90));
    fs::remove_dir_all(host.root.path().join("proc/100/task/101")).unwrap();
    assert_eq!(host.health(&mut procfs, 3000), [None, None], "what the ended one waited is not known");
    assert_eq!(host.health(&mut procfs, 1000), [None, None]);
    assert_eq!(host.health(&mut procfs, 1000), [Some(0), None]);
}

#[test]
fn a_unit_that_starts_anew_elsewhere_has_its_figures_again() {
    let host = Host::new();
    let start = |slice: &str, waited_ms: u64| {
        let folder = format!("sys/fs/cgroup/{slice}/gnb.service");
        host.write(&format!("{folder}/cpu.stat"), "usage_usec 1000\n");
        host.write(&format!("{folder}/cgroup.threads"), "100\n");
        wait(&host, 100, 100, waited_ms);
    };
    let mut procfs = host.open(&What::Cgroup { group: Group::Unit("gnb.service".into()), cores: 1 });
    assert_eq!(host.health(&mut procfs, 1000), [None, None]);
    for (slice, waited_ms) in [("system.slice", 10), ("ran.slice", 500)] {
        start(slice, waited_ms);
        // The search comes now and then, and the first total is no share yet.
        (0..8).for_each(|_| drop(host.all(&mut procfs, 1000)));
        wait(&host, 100, 100, waited_ms + 5);
        assert_eq!(host.health(&mut procfs, 1000)[0], Some(5000), "{slice}");
        fs::remove_dir_all(host.root.path().join("sys/fs/cgroup").join(slice)).unwrap();
        assert_eq!(host.health(&mut procfs, 1000), [None, None], "{slice}");
    }
}
