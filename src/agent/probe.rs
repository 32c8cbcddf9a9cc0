//! Does the broker let this node say and hear what the protocol needs?
//!
//! A broker may deny a topic without a word: MQTT 3.1.1 has none for it, and a denied SUBSCRIBE looks granted even in
//! MQTT 5. So after each connect the node's first state is a probe. The node is subscribed to its own state: what it
//! published must come back within [`ECHO_MAX`] of the broker's acknowledgement. What it may not hear of its own
//! `down/` cannot be found in this way, because a node has no right to write there: a node that never hears of a job
//! looks like one that nobody asks.
//!
//! A node that is locked out, or whose client id is used twice, is told here too: all of it is the broker's side. Pure.

use std::time::Duration;

use crate::fault::Code;
use crate::link::backoff::Cause;
use crate::units::Instant;

/// Token of the probe among the store's sequence numbers, which do not come this far.
pub(super) const TOKEN: u64 = u64::MAX;
/// Longest way from the broker's acknowledgement to the echo.
const ECHO_MAX: Duration = Duration::from_secs(5);
/// Time between two probes while the last one failed.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long a session taken over is told: twice as long as each of two rivals waits before it takes it back.
const RIVAL_SEEN_FOR: Duration = Duration::from_secs(150);

#[derive(Debug, Default)]
enum Phase {
    /// Nothing to learn before the next connect.
    #[default]
    Idle,
    /// The next state is the probe.
    Wanted,
    /// It was handed to the link.
    Sent(Vec<u8>),
    /// The broker has it since then.
    Acknowledged(Vec<u8>, Instant),
    /// It failed, then; it is tried again.
    Failed(Instant),
}

/// What is known of the broker's side.
#[derive(Debug)]
pub(super) struct Probe {
    topic: String,
    phase: Phase,
    /// What the last probe that ended has shown.
    denied: Option<String>,
    /// Why the broker does not let the node in.
    locked_out: Option<String>,
    /// Another client uses the client id; when that was last seen.
    rival: Option<(String, Instant)>,
}

impl Probe {
    /// Nothing is known yet; `topic` is that of the node's own state.
    pub(super) fn new(topic: String) -> Self {
        Self { topic, phase: Phase::Idle, denied: None, locked_out: None, rival: None }
    }

    /// Connected and subscribed.
    pub(super) fn up(&mut self) {
        self.phase = Phase::Wanted;
        self.locked_out = None;
    }

    /// Not connected, and why.
    pub(super) fn down(&mut self, now: Instant, cause: Cause, why: String) {
        self.phase = Phase::Idle;
        match cause {
            Cause::Lost => {}
            Cause::Auth => self.locked_out = Some(why),
            Cause::TakenOver => self.rival = Some((why, now)),
        }
    }

    /// Whether this message is to carry [`TOKEN`]; it is the probe then.
    pub(super) fn takes(&mut self, topic: &str, body: &[u8]) -> bool {
        let takes = matches!(self.phase, Phase::Wanted | Phase::Failed(_)) && topic == self.topic;
        if takes {
            self.phase = Phase::Sent(body.to_vec());
        }
        takes
    }

    /// The broker acknowledged the probe.
    pub(super) fn delivered(&mut self, now: Instant) {
        if let Phase::Sent(body) = &mut self.phase {
            self.phase = Phase::Acknowledged(std::mem::take(body), now);
        }
    }

    /// The broker refused the probe.
    pub(super) fn refused(&mut self, now: Instant, why: &str) {
        let (code, topic) = (Code::MqttAclProbe.as_str(), &self.topic);
        let remedy = format!("the node needs `topic readwrite {}/#`", topic.trim_end_matches("/state"));
        self.fail(now, format!("{code}: topic {topic}: {why}: {remedy}"));
    }

    /// A message of the node's own state was received.
    pub(super) fn echoed(&mut self, body: &[u8]) {
        // The echo may overtake the acknowledgement.
        if let Phase::Sent(sent) | Phase::Acknowledged(sent, _) = &self.phase
            && sent == body
        {
            self.phase = Phase::Idle;
            self.denied = None;
        }
    }

    fn fail(&mut self, now: Instant, why: String) {
        self.phase = Phase::Failed(now);
        self.denied = Some(why);
    }

    /// Looks at the clock; whether the state is to be told for a probe's sake.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        if self.rival.as_ref().is_some_and(|(_, seen)| now.since(*seen) >= RIVAL_SEEN_FOR) {
            self.rival = None;
        }
        match &self.phase {
            Phase::Idle | Phase::Wanted | Phase::Sent(_) => false,
            Phase::Acknowledged(_, at) => {
                if now.since(*at) >= ECHO_MAX {
                    let (code, topic) = (Code::MqttAclProbe.as_str(), &self.topic);
                    let why = format!(
                        "{code}: topic {topic}: the broker acknowledged the node's state, which did not come back within \
                         {} s; allow `topic readwrite {}/#` for this node in the broker's ACL",
                        ECHO_MAX.as_secs(),
                        topic.trim_end_matches("/state"),
                    );
                    self.fail(now, why);
                }
                false
            }
            Phase::Failed(at) => {
                let again = now.since(*at) >= AGAIN_AFTER;
                if again {
                    self.phase = Phase::Wanted;
                }
                again
            }
        }
    }

    /// When [`Probe::turn`] is due at the latest, as time from now.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Idle | Phase::Wanted | Phase::Sent(_) => None,
            Phase::Acknowledged(_, at) => Some(at.after(ECHO_MAX)),
            Phase::Failed(at) => Some(at.after(AGAIN_AFTER)),
        };
        let rival = self.rival.as_ref().map(|(_, seen)| seen.after(RIVAL_SEEN_FOR));
        phase.into_iter().chain(rival).min().map(|at| at.since(now))
    }

    /// What is wrong on the broker's side, the worst first.
    pub(super) fn trouble(&self) -> Option<&str> {
        let rival = self.rival.as_ref().map(|(why, _)| why);
        self.locked_out.as_ref().or(rival).or(self.denied.as_ref()).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "neap/v1/site/node/up/state";

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    /// Connected, and the state is on its way.
    fn sent() -> Probe {
        let mut probe = Probe::new(TOPIC.to_owned());
        assert!(!probe.takes(TOPIC, b"before"), "not before the connection is up");
        probe.up();
        assert!(!probe.takes("neap/v1/site/node/up/info", b"info"));
        assert!(probe.takes(TOPIC, b"birth"));
        assert!(!probe.takes(TOPIC, b"next"), "one at a time");
        probe
    }

    #[test]
    fn a_state_that_comes_back_is_no_trouble_even_before_its_acknowledgement() {
        for echo_first in [false, true] {
            let mut probe = sent();
            if echo_first {
                probe.echoed(b"birth");
            }
            probe.delivered(at(1));
            probe.echoed(b"birth");
            assert!(!probe.turn(at(100)));
            assert_eq!((probe.trouble(), probe.next(at(100))), (None, None));
        }
    }

    #[test]
    fn a_state_that_does_not_come_back_names_the_topic_and_the_line() {
        let mut probe = sent();
        probe.delivered(at(1));
        probe.echoed(b"what the broker had kept");
        assert_eq!(probe.next(at(2)), Some(Duration::from_secs(4)));
        probe.turn(at(5));
        assert_eq!(probe.trouble(), None);
        probe.turn(at(6));
        let trouble = probe.trouble().unwrap();
        for words in ["mqtt.acl_probe_failed: topic neap/v1/site/node/up/state", "readwrite neap/v1/site/node/up/#"] {
            assert!(trouble.contains(words), "{trouble}");
        }
    }

    #[test]
    fn without_an_acknowledgement_nothing_is_known() {
        let mut probe = sent();
        probe.turn(at(1000));
        assert_eq!(probe.trouble(), None, "the link ends a connection that is not answered");
    }

    #[test]
    fn a_refused_state_is_tried_again_until_it_comes_back() {
        let mut probe = sent();
        probe.refused(at(1), "NotAuthorized (135)");
        assert!(probe.trouble().unwrap().contains("135"), "{:?}", probe.trouble());
        assert!(!probe.turn(at(60)));
        assert!(probe.turn(at(61)), "the state is told again");
        assert!(probe.takes(TOPIC, b"again"));
        probe.delivered(at(62));
        assert!(probe.trouble().is_some(), "not heard back yet");
        probe.echoed(b"again");
        assert_eq!(probe.trouble(), None);
    }

    #[test]
    fn a_trouble_outlives_its_connection_until_it_is_disproved() {
        let mut probe = sent();
        probe.refused(at(1), "NotAuthorized (135)");
        probe.down(at(2), Cause::Lost, "gone".to_owned());
        assert!(probe.trouble().is_some());
        probe.up();
        assert!(probe.takes(TOPIC, b"birth"));
        probe.echoed(b"birth");
        assert_eq!(probe.trouble(), None);
    }

    #[test]
    fn a_rival_is_told_until_it_was_not_seen_for_a_while_and_a_closed_door_until_it_opens() {
        let mut probe = Probe::new(TOPIC.to_owned());
        probe.down(at(0), Cause::TakenOver, "taken over".to_owned());
        probe.up();
        assert_eq!(probe.trouble(), Some("taken over"));
        probe.down(at(10), Cause::Auth, "not authorised".to_owned());
        assert_eq!(probe.trouble(), Some("not authorised"));
        probe.up();
        assert_eq!(probe.trouble(), Some("taken over"));
        probe.turn(at(149));
        assert_eq!(probe.trouble(), Some("taken over"));
        probe.turn(at(150));
        assert_eq!(probe.trouble(), None);
    }
}
