//! Who can read along on the way to the broker, and for how long are the certificates good? What the link knows of it,
//! put where people look: inventory, state, log, alarms, metrics.

use std::time::Duration;

use super::core::Core;
use super::desk::Now;
use super::reports::Impairment;
use crate::fault::{Code, Fault};
use crate::jobs::store::Batch;
use crate::link::messages::InfoCertificate;
use crate::link::mqtt;
use crate::link::settings::Transport;
use crate::link::tls::certificates::{Certificate, Certificates, Known};
use crate::link::tls::expiry::Step;
use crate::units::Instant;

/// Dates are compared with the clock this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is told of the way to the broker.
#[derive(Debug)]
pub(super) struct Privacy {
    transport: Transport,
    broker: String,
    shared: Certificates,
    /// What was known when it was told last, and when that was.
    told: Option<(u64, Instant)>,
    /// The step that was told of each certificate.
    steps: Vec<(Certificate, Step)>,
    refused: Option<String>,
}

/// What there is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    transport: String,
    first_to_end: Option<InfoCertificate>,
    /// Everybody can read along.
    insecure: Option<String>,
    /// Certificates that end, and files that are no good.
    trouble: Option<String>,
    /// What is news of that.
    alarms: Vec<Fault>,
}

impl Privacy {
    /// Of the link of those settings.
    pub(super) fn of(settings: &mqtt::Settings) -> Self {
        let transport = settings.transport();
        let (broker, least) = (settings.broker(), settings.tls.as_ref().map(|tls| tls.least.as_str()));
        match transport {
            Transport::Tls => tracing::info!(broker, least, "the way to the broker is private: TLS"),
            Transport::PlainLocal => tracing::info!(broker, "the way to the broker is plain, and on this host"),
            Transport::PlainInsecure => {
                tracing::warn!(
                    broker,
                    "allow_insecure: everybody on the way to the broker can read and change everything"
                );
            }
        }
        let shared = settings.certificates.clone();
        Self { transport, broker, shared, told: None, steps: Vec::new(), refused: None }
    }

    /// Has the files looked at.
    pub(super) fn look_again(&self) {
        self.shared.look_again();
    }

    /// Tells the link the time; what is to be told in turn, when that may be news.
    pub(super) fn look(&mut self, now: Now) -> Option<View> {
        self.shared.set_wall(now.wall, now.is_sure());
        let changes = self.shared.changes();
        let is_due = |(seen, at): (u64, Instant)| seen != changes || now.mono.since(at) >= LOOK_EVERY;
        if !self.told.is_none_or(is_due) {
            return None;
        }
        self.told = Some((changes, now.mono));
        Some(self.view(now, &self.shared.known()))
    }

    fn view(&mut self, now: Now, known: &Known) -> View {
        let doubt = if now.is_sure() { "" } else { " (by a clock that is in doubt)" };
        let warning = |one: &Certificate| one.warning(now.wall).map(|text| format!("{text}{doubt}"));
        let mut alarms = Vec::new();
        let steps = std::mem::take(&mut self.steps);
        for one in &known.certificates {
            let before = steps.iter().find(|(told, _)| told == one).map_or(Step::Fine, |(_, step)| *step);
            let step = one.step(now.wall);
            if step > before {
                alarms.extend(warning(one).map(|text| Fault::new(Code::TlsCertExpiring, text)));
            }
            self.steps.push((one.clone(), step.max(before)));
        }
        let refused = known.refused.as_ref().map(|why| format!("new certificate files are not taken: {why}"));
        if refused != self.refused {
            alarms.extend(refused.as_ref().map(|why| Fault::new(Code::TlsReloadRefused, why)));
            self.refused.clone_from(&refused);
        }
        let trouble: Vec<String> = known.certificates.iter().filter_map(warning).chain(refused).collect();
        let broker = &self.broker;
        View {
            transport: known.version.unwrap_or(self.transport.as_str()).to_owned(),
            first_to_end: known.first_to_end().map(|one| InfoCertificate {
                whose: one.whose.as_str().to_owned(),
                name: one.name.clone(),
                cert_expires: one.not_after,
            }),
            insecure: (self.transport == Transport::PlainInsecure).then(|| {
                format!("everybody on the way to {broker} can read and change everything; speak TLS with ca_file")
            }),
            trouble: (!trouble.is_empty()).then(|| trouble.join("; ")),
            alarms,
        }
    }

    /// Until when each certificate is valid, for metrics.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.steps.iter().map(|(certificate, _)| certificate)
    }
}

impl Core {
    /// How private the way to the broker is, and what ends soon.
    pub(super) fn see_privacy(&mut self, now: Now, view: View) {
        let View { transport, first_to_end, insecure, trouble, alarms } = view;
        self.impair(now, Impairment::Insecure, insecure);
        if self.desk.reports.set_transport(&transport, first_to_end) && self.is_connected() {
            self.courier.publish(self.desk.reports.info(now.wall));
        }
        let was_in_trouble = self.desk.reports.impaired(Impairment::Certificate).is_some();
        if self.desk.reports.set_impaired(Impairment::Certificate, trouble.clone()) {
            self.telemetry.state_changed();
        }
        if was_in_trouble && trouble.is_none() {
            tracing::info!("all certificates are good again");
        }
        for fault in alarms {
            tracing::warn!(code = fault.code.as_str(), why = fault.message, "certificates");
            let event = self.desk.reports.alarm("", &fault, now.wall);
            self.desk.report(Batch { droppable: vec![event], ..Batch::default() }, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tls::certificates::Whose;
    use crate::units::WallTime;

    const DAY_MS: i64 = 24 * 3600 * 1000;
    const END: i64 = 1_800_000_000_000;

    fn days_left(days: i64) -> Now {
        // A monotonic clock that goes on while the days pass.
        let mono = Instant::from_nanos(u64::try_from(1_000 - days).unwrap() * 1_000_000_000);
        Now::sure(mono, WallTime::from_millis(END - days * DAY_MS))
    }

    fn certificate(not_after: i64) -> Certificate {
        Certificate {
            whose: Whose::Node,
            name: "node-1".to_owned(),
            issuer: "operator".to_owned(),
            not_before: WallTime::from_millis(0),
            not_after: WallTime::from_millis(not_after),
        }
    }

    fn privacy() -> Privacy {
        Privacy::of(&mqtt::Settings::new("192.0.2.1", 1883, "n"))
    }

    #[test]
    fn each_step_is_an_alarm_once_and_a_new_certificate_begins_anew() {
        let mut privacy = privacy();
        let old = Known { certificates: vec![certificate(END)], ..Known::default() };
        let alarms = |privacy: &mut Privacy, days, known| privacy.view(days_left(days), known).alarms.len();
        let told: Vec<usize> = [100, 31, 30, 29, 8, 7, 6, 1, 0, -1].map(|days| alarms(&mut privacy, days, &old)).into();
        assert_eq!(told, [0, 0, 1, 0, 0, 1, 0, 1, 1, 0]);
        assert!(privacy.view(days_left(-1), &old).trouble.unwrap().contains("has expired"));
        let new = Known { certificates: vec![certificate(END + 20 * DAY_MS)], ..Known::default() };
        assert_eq!(alarms(&mut privacy, 0, &new), 1, "it ends in twenty days");
        let good = Known { certificates: vec![certificate(END + 365 * DAY_MS)], ..Known::default() };
        assert_eq!(privacy.view(days_left(0), &good).trouble, None);
    }

    #[test]
    fn files_that_are_no_good_are_an_alarm_once_for_each_reason() {
        let mut privacy = privacy();
        let known = |why: Option<&str>| Known { refused: why.map(str::to_owned), ..Known::default() };
        for (why, wanted) in [(Some("a"), 1), (Some("a"), 0), (Some("b"), 1), (None, 0), (Some("b"), 1)] {
            let view = privacy.view(days_left(100), &known(why));
            assert_eq!((view.alarms.len(), view.trouble.is_some()), (wanted, why.is_some()), "{why:?}");
        }
    }

    #[test]
    fn plain_text_over_the_network_is_an_impairment_and_on_this_host_none() {
        let view = privacy().view(days_left(100), &Known::default());
        assert_eq!((view.transport.as_str(), view.insecure.is_some()), ("plain-insecure", true));
        let mut local = Privacy::of(&mqtt::Settings::new("127.0.0.1", 1883, "n"));
        let view = local.view(days_left(100), &Known::default());
        assert_eq!((view.transport.as_str(), view.insecure), ("plain-local", None));
    }
}
