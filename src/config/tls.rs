//! Which keys of `[mqtt]` are about TLS, and do the files behind them do?

use super::read::Section;
use super::{Mqtt, Settings};
use crate::fault::Fault;
use crate::link::settings::{self as link, Transport};
use crate::link::tls::material::Material;
use crate::link::tls::{self, IdentityFiles, Least};
use crate::units::WallTime;

/// The keys; `None` without `ca_file`.
pub(super) fn settings(section: &mut Section<'_, '_>) -> Option<tls::Settings> {
    let ca_file = section.path("ca_file");
    let cert_file = section.path("cert_file");
    let key_file = section.path("key_file");
    let server_name = section.text("server_name", 253);
    let least = section.one_of("tls_min", &[("1.3", Least::Tls13), ("1.2", Least::Tls12)]);
    if !section.has("ca_file") {
        for key in ["cert_file", "key_file", "server_name", "tls_min"] {
            if section.has(key) {
                section.complain(key, "needs the authority of the broker's certificate as well: add ca_file = \"/…\"");
            }
        }
    }
    for (key, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.has(key) && !section.has(other) {
            section.complain(key, &format!("needs the other half as well: add {other} = \"/…\""));
        }
    }
    let identity = cert_file.zip(key_file).map(|(cert_file, key_file)| IdentityFiles { cert_file, key_file });
    Some(tls::Settings { ca_file: ca_file?, identity, server_name, least: least.unwrap_or_default() })
}

impl Mqtt {
    /// Who can read along on the way to the broker.
    pub fn transport(&self) -> Transport {
        let bare = link::Settings::new(&self.host, self.port, "any");
        link::Settings { tls: self.tls.clone(), ..bare }.transport()
    }

    /// The certificates and the key that the settings name, read and checked; `None` without TLS.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn certificates(&self) -> Result<Option<Material>, Vec<Fault>> {
        self.tls.as_ref().map(|tls| Material::read(tls, &self.host)).transpose()
    }
}

impl Settings {
    /// What is wrong with the files that TLS needs, and with their dates at `now`: one sentence each.
    pub fn tls_notes(&self, now: WallTime) -> Vec<String> {
        let material = match self.mqtt.certificates() {
            Ok(Some(material)) => material,
            Ok(None) => return Vec::new(),
            Err(faults) => return faults.iter().map(Fault::to_string).collect(),
        };
        let mut notes = material.dates(now);
        let (site, node) = (self.node.topics.site(), self.node.topics.node());
        let full = format!("{site}/{node}");
        if let Some(name) = material.own_name().filter(|name| *name != full && *name != node.as_str()) {
            notes.push(format!(
                "mqtt.cert_file: the certificate is of {name:?}, and this node is {full:?}: a broker whose access list goes \
                 by that name refuses this node its own topics"
            ));
        }
        notes
    }
}
