//! Whether a gNB that is silent, flapping or lying can start inference, or keep it running.

use super::*;
use crate::governor::{Governor, Mode, Policy, Reason};
use crate::load::fusion::Fusion;
use crate::load::{Kind, Settings as Sources};
use crate::sentinel::judge::Judge;
use crate::units::Utilization;

const FRESHNESS: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_secs(5);

/// A gNB, and what the node makes of it.
struct Node {
    reports: Reports,
    judge: Judge,
    now_ms: u64,
}

impl Node {
    fn new(scale: Scale) -> Self {
        let address = ADDRESS_DEFAULT.parse().unwrap();
        let kind = Kind::Ocudu(Settings { form: Form::Stream, address, scale: scale.clone() });
        let gnb = SourceSettings { name: "gnb".to_owned(), freshness: FRESHNESS, required: true, kind, record: None };
        let trust = Sources { sources: vec![gnb] }.trust();
        let percent = |percent| Utilization::from_percent(percent).unwrap();
        let policy = Policy {
            workers: 1,
            busy_above: percent(40),
            idle_below: percent(25),
            settle: SETTLE,
            settle_max: SETTLE * 4,
            flap_window: Duration::from_secs(60),
            raise_every: Duration::ZERO,
        };
        let governor = Governor::new(policy).unwrap();
        let judge = Judge::new(at(0), Fusion::new(&trust), governor, Duration::from_secs(1));
        Self { reports: Reports::new(SourceId(0), Form::Stream, scale), judge, now_ms: 0 }
    }

    /// Time passes, in steps of 10 ms.
    fn until(&mut self, ms: u64) {
        while self.now_ms < ms {
            self.now_ms += 10;
            let now = at(self.now_ms);
            if self.judge.load_is_due(now) {
                self.judge.on_load(now);
            }
            self.judge.on_timeout(now);
        }
    }

    fn hear(&mut self, message: &str) {
        let now = at(self.now_ms);
        let judge = &mut self.judge;
        self.reports.on_message(now, message.as_bytes(), &mut |heard| {
            judge.on_observation(now, heard);
        });
    }

    /// A report a second of these executors, and of a cell, for so many seconds; whether it ever ran.
    fn reports(&mut self, seconds: u64, load: f64, mbps: f64) -> bool {
        let mut ran = false;
        for _ in 0..seconds {
            self.hear(&executor("slot_ind_exec#0", load / 2.0));
            self.hear(&executor("pusch_exec", load / 2.0));
            self.until(self.now_ms + 500);
            ran |= self.runs();
            self.hear(&cells(&[(1, mbps * 1e6)]));
            self.until(self.now_ms + 500);
            ran |= self.runs();
        }
        ran
    }

    fn runs(&self) -> bool {
        self.judge.decision().budget > 0
    }
}

fn in_a_trough() -> Node {
    let mut node = Node::new(scale(1));
    assert!(node.reports(10, 3.0, 0.0), "a quiet gNB gives a trough");
    assert_eq!(node.judge.decision().mode, Mode::Trough);
    node
}

#[test]
fn a_busy_report_stops_at_once() {
    let mut node = in_a_trough();
    node.hear(&executor("slot_ind_exec#0", 20.0));
    assert!(node.runs(), "the report is not whole");
    node.hear(&executor("pusch_exec", 25.0));
    let decision = node.judge.decision();
    assert!(!node.runs() && matches!(decision.reason, Reason::Above { level, .. } if level.permille() == 450));
}

#[test]
fn a_stream_that_ends_stops_within_its_freshness() {
    let mut node = in_a_trough();
    // The last report was a second ago, by its executors.
    node.until(node.now_ms + 1990);
    assert!(node.runs());
    node.until(node.now_ms + 20);
    assert!(!node.runs(), "{:?}", node.judge.decision());
}

#[test]
fn a_late_slot_stops_at_once_however_low_the_load() {
    let mut node = in_a_trough();
    node.hear(r#"{"cells":[{"cell_metrics":{"pci":1,"error_indication_count":1}}]}"#);
    assert_eq!((node.runs(), node.judge.decision().reason), (false, Reason::Late(SourceId(0))));
    // The first count that is ever heard from the fronthaul counts as well: it is of a period in which we ran.
    let mut node = in_a_trough();
    node.hear(r#"{"ru":{"ofh":{"cells":[{"dl":{"transmitter_stats":{"late_dl_slots":1}}}]}}}"#);
    assert_eq!((node.runs(), node.judge.decision().reason), (false, Reason::Late(SourceId(0))));
}

#[test]
fn nonsense_stops_at_once() {
    for nonsense in ["{}", "{", r#"{"executor_metrics":{"name":"a","cpu_load":1e9}}"#, r#"{"cells":7}"#] {
        let mut node = in_a_trough();
        node.hear(nonsense);
        assert_eq!(node.runs(), nonsense == "{}", "{nonsense}");
    }
}

#[test]
fn a_stream_of_parts_of_a_report_never_starts_anything() {
    let mut node = Node::new(scale(1));
    for second in 0..60 {
        // Each time another one is missing, as when each connection breaks early.
        node.hear(&executor(["a", "b", "c"][second % 3], 1.0));
        node.until(node.now_ms + 1000);
        assert!(!node.runs(), "after {second} s");
    }
}

#[test]
fn a_stream_that_flaps_never_starts_anything() {
    let mut node = Node::new(scale(1));
    for round in 0..20 {
        assert!(!node.reports(3, 1.0, 0.0), "round {round}");
        assert!(!node.reports(1, 90.0, 30.0), "round {round}");
        // Silence, then a stream again.
        node.until(node.now_ms + 4000);
        assert!(!node.runs(), "round {round}");
    }
}

#[test]
fn executors_that_lie_about_their_work_start_nothing() {
    let mut node = Node::new(scale(1));
    assert!(!node.reports(60, 0.0, 80.0), "80 Mbit/s by no work at all");
    // With a peak the bits are a level by themselves.
    let mut node = Node::new(Scale { peak_bits: Some(100e6), ..scale(1) });
    assert!(!node.reports(60, 4.0, 80.0), "80 % of the bits by 4 % of a core");
}

#[test]
fn nonsense_between_good_reports_starts_nothing() {
    let mut node = Node::new(scale(1));
    for second in 0..60 {
        assert!(!node.reports(1, 1.0, 0.0), "after {second} s");
        node.hear(r#"{"executor_metrics":{"name":"a","cpu_load":-1}}"#);
    }
}
