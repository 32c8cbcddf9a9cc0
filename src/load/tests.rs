use std::time::Duration;

use super::*;

fn settings(kind: Kind) -> SourceSettings {
    SourceSettings { name: "radio".to_owned(), freshness: Duration::from_secs(1), required: true, kind, record: None }
}

fn open_one(kind: Kind) -> Result<Box<dyn Source>, OpenError> {
    open(&settings(kind), SourceId(0), Instant::default(), Arc::new(|_| 0))
}

#[test]
fn every_kind_opens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("day.csv");
    std::fs::write(&file, "seconds,percent\n0,1\n").unwrap();
    let kinds = [
        Kind::Push { socket: folder.path().join("load.sock"), mode: push::SOCKET_MODE_DEFAULT },
        Kind::PushUdp { listen: "127.0.0.1:0".parse().unwrap() },
        Kind::Shm { path: folder.path().join("load.shm"), mode: shm::MODE_DEFAULT },
        Kind::Procfs(procfs::Settings {
            root: "/".into(),
            what: procfs::What::Cgroup { group: procfs::Group::Folder("/sys/fs/cgroup/nothing".into()), cores: 1 },
            pressure: procfs::Pressure::Own,
            period: procfs::PERIOD_DEFAULT,
        }),
        Kind::Dpdk(dpdk::Settings {
            socket: folder.path().join("telemetry"),
            process: None,
            lcores: Vec::new(),
            ports: Vec::new(),
            parked_idle: false,
            period: dpdk::PERIOD_DEFAULT,
        }),
        Kind::Trace { file, speed: 1.0, repeat: false },
    ];
    for kind in kinds {
        let source = open_one(kind.clone()).unwrap();
        assert!(source.fd().is_some() != source.next_poll().is_some(), "{kind:?} is driven by one of both");
    }
}

#[test]
fn an_error_names_the_source_the_value_and_the_rule() {
    let refused = open_one(Kind::PushUdp { listen: "0.0.0.0:7100".parse().unwrap() }).err().unwrap().to_string();
    assert!(refused.starts_with("load source \"radio\": listen 0.0.0.0:7100 is not allowed"), "{refused}");
}

#[test]
fn a_freshness_that_makes_no_sense_is_refused() {
    for freshness in [Duration::ZERO, FRESHNESS_MAX + Duration::from_nanos(1)] {
        let kind = Kind::PushUdp { listen: "127.0.0.1:0".parse().unwrap() };
        let refused = SourceSettings { freshness, ..settings(kind) }.check().unwrap_err().to_string();
        assert!(refused.contains("freshness"), "{refused}");
    }
}
