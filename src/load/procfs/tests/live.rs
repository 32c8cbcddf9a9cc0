//! Does it work on the host that the tests run on?

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::load::Source;

fn wait_and_read(source: &mut dyn Source) -> Vec<Observation> {
    let fd = source.fd().unwrap();
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)), Ok(1), "the sampler said nothing");
    let mut all = Vec::new();
    source.read(Instant::default(), &mut |observation| all.push(observation));
    all
}

#[test]
fn this_process_has_a_level_until_its_source_is_dropped() {
    let own = i32::try_from(std::process::id()).unwrap();
    let what = What::Threads { select: Select::Pids(vec![own]), cores: 1, hottest: false };
    let mut source =
        open(A, &Settings { period: PERIOD_MIN, ..settings(Path::new("/"), &what) }, no_workers()).unwrap();
    assert!(source.next_poll().is_none());
    // Threads of other tests end at any time, which is malformed: then a level has to follow.
    let level = (0..200).find_map(|_| wait_and_read(&mut source).into_iter().find_map(Result::ok));
    assert!(level.is_some_and(|reading| reading.stamped.is_some_and(|at| at > Instant::default())));
}

#[test]
fn a_process_that_dies_is_malformed() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let what = What::Threads { select: Select::Pids(vec![pid]), cores: 1, hottest: false };
    let mut source =
        open(A, &Settings { period: PERIOD_MIN, ..settings(Path::new("/"), &what) }, no_workers()).unwrap();
    let level = (0..200).find_map(|_| wait_and_read(&mut source).into_iter().find_map(Result::ok));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(level.is_some());
    let malformed = (0..200).find_map(|_| wait_and_read(&mut source).into_iter().find_map(Result::err));
    assert!(malformed.is_some());
}
