//! Does the path from a datagram to the fused load touch the heap? One test in a process of its own, so that nothing
//! else allocates meanwhile.

use std::time::Duration;

use neap::load::fusion::{FusedLoad, Fusion, Trust};
use neap::load::push::{Push, encode};
use neap::load::trace::Trace;
use neap::load::{Observation, Source};
use neap::sys::alloc;
use neap::units::{CELLS_MAX, CellId, Instant, SourceId};

const GARBAGE: &[&[u8]] = &[
    b"",
    b"nonsense",
    b"{\"RRU.PrbTotDl\":101}",
    b"{\"RRU.PrbTotDl\":\"6\"}",
    b"{\"\\u0052RU.PrbTotDl\":6}",
    b"{\"note\":\"a \\\"b\\\" \\u00e9\",\"x\":[[[{\"y\":[1,2.5e3]}]]],\"RRU.PrbTotDl\":6,\"cell\":99999}",
    b"{\"RRU.PrbTotDl\":6,\"RRU.PrbTotDl\":7}",
    b"\xff\xfe",
];

#[test]
fn the_path_from_a_datagram_to_the_fused_load_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("day.csv");
    std::fs::write(&recording, "seconds,percent\n0,1\n1,2\n").unwrap();
    let now = Instant::from_nanos(1_000_000_000);
    let later = now.after(Duration::from_secs(1));
    let mut push = Push::udp(SourceId(0), "127.0.0.1:0".parse().unwrap()).unwrap();
    let mut trace = Trace::open(SourceId(1), &recording, 1.0, false, now).unwrap();
    let trust = Trust { freshness: Duration::from_secs(5), required: true, planning: false };
    let mut fusion = Fusion::new(&[trust, trust]);

    let feeder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = push.udp_address().unwrap();
    let cells = (0..=CELLS_MAX as u64).map(CellId);
    let good: Vec<String> = cells.map(|cell| encode(cell, Some(7), Some(3), Some(0), None, false)).collect();
    let datagrams = GARBAGE.iter().copied().chain(good.iter().map(String::as_bytes));
    datagrams.for_each(|bytes| assert_eq!(feeder.send_to(bytes, to).unwrap(), bytes.len()));

    let (mut good, mut bad) = (0, 0);
    let mut sink = |observation: Observation| {
        if observation.is_ok() {
            good += 1
        } else {
            bad += 1
        }
        fusion.on_observation(now, observation);
    };
    alloc::reset_peak();
    let before = (alloc::used(), alloc::peak());
    for _ in 0..10 {
        push.read(now, &mut sink);
    }
    trace.read(later, &mut sink);
    let fused = fusion.current(later);
    let after = (alloc::used(), alloc::peak());

    assert_eq!(after, before, "bytes in use and most in use");
    assert_eq!((good, bad), (CELLS_MAX + 1 + 1 + 2, GARBAGE.len() - 1), "all of it arrived");
    assert!(matches!(fused.load, FusedLoad::Malformed(SourceId(0))));
}
