//! Which broker, which node? The arguments that every controller-side command shares.

use std::path::PathBuf;
use std::str::FromStr;

use super::failure::{Class, Failure};
use super::signer::Signer;
use crate::config::{Mqtt, Settings};
use crate::link::messages::new_id;
use crate::link::settings::{self as link, PLAIN_PORT, TLS_PORT};
use crate::link::tls;
use crate::link::topics::Topics;
use crate::units::Name;

/// Where a controller-side command goes. What is not given comes from `--config`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where")]
pub(super) struct Target {
    /// Broker [default: from --config, else 127.0.0.1; port 1883, with TLS 8883]
    #[arg(long, value_name = "HOST[:PORT]")]
    broker: Option<Broker>,
    /// Node, e.g. north/cell-17 [default: from --config]
    #[arg(long, value_name = "SITE/NAME")]
    node: Option<NodePath>,
    /// First level of all topics [default: from --config, else neap]
    #[arg(long)]
    root: Option<String>,
    /// User name at the broker
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// File with the password, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// Speak TLS: certificate of the authority that signs for the broker [default: from --config]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Own certificate, for a broker that asks for one
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// Its private key, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Name in the broker's certificate [default: the host]
    #[arg(long, value_name = "NAME", requires = "ca")]
    server_name: Option<String>,
    /// Speak in clear text to a broker on another machine
    #[arg(long)]
    allow_insecure: bool,
    /// Sign with this private key, as neap key new makes it
    #[arg(long, value_name = "KEY")]
    sign_with: Option<PathBuf>,
    /// In whose name [default: as the key file says]
    #[arg(long, value_name = "NAME", requires = "sign_with")]
    issuer: Option<Name>,
    /// Configuration of the node's agent
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A target with all gaps filled.
#[derive(Debug)]
pub(super) struct Place {
    /// The connection; without subscriptions.
    pub(super) link: link::Settings,
    /// The node's topics.
    pub(super) topics: Topics,
    /// Signs what is sent.
    pub(super) signer: Option<Signer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Broker {
    host: String,
    /// The usual one when it is left out.
    port: Option<u16>,
}

#[derive(Clone, Debug)]
struct NodePath {
    site: Name,
    name: Name,
}

impl Target {
    /// Fills the gaps from the configuration, or says what is missing.
    pub(super) fn resolve(&self) -> Result<Place, Failure> {
        let settings = self.config.as_deref().map(Settings::read).transpose()?;
        let topics = self.topics(settings.as_ref().map(|settings| &settings.node.topics))?;
        let mqtt = settings.map(|settings| settings.mqtt);
        let broker = self.broker.clone().unwrap_or_else(|| match &mqtt {
            Some(mqtt) => Broker { host: mqtt.host.clone(), port: Some(mqtt.port) },
            None => Broker { host: "127.0.0.1".to_owned(), port: None },
        });
        let tls = self.tls(mqtt.as_ref());
        let port = broker.port.unwrap_or(if tls.is_some() { TLS_PORT } else { PLAIN_PORT });
        let (username, password_file) = match (&self.username, &mqtt) {
            (Some(username), _) => (Some(username.clone()), self.password_file.clone()),
            (None, Some(mqtt)) => (mqtt.username.clone(), mqtt.password_file.clone()),
            (None, None) => (None, None),
        };
        // A password that cannot be used is told here, not as a refused connection.
        Mqtt::read_password(password_file.as_deref())?;
        let link = link::Settings {
            tls,
            allow_insecure: self.allow_insecure || mqtt.is_some_and(|mqtt| mqtt.allow_insecure),
            username,
            password_file,
            ..link::Settings::new(broker.host, port, format!("neap-{}", new_id()))
        };
        link.check().map_err(|error| Failure::new(Class::Usage, error.to_string()))?;
        let signer = self.sign_with.as_deref().map(|key| Signer::open(key, self.issuer.as_ref())).transpose()?;
        Ok(Place { link, topics, signer })
    }

    /// What TLS goes by: what is given here, else what the agent has.
    fn tls(&self, configured: Option<&Mqtt>) -> Option<tls::Settings> {
        let Some(ca_file) = self.ca.clone() else { return configured.and_then(|mqtt| mqtt.tls.clone()) };
        let identity = self.cert.clone().zip(self.key.clone());
        let identity = identity.map(|(cert_file, key_file)| tls::IdentityFiles { cert_file, key_file });
        let least = configured.and_then(|mqtt| mqtt.tls.as_ref()).map(|tls| tls.least).unwrap_or_default();
        Some(tls::Settings { ca_file, identity, server_name: self.server_name.clone(), least })
    }

    fn topics(&self, configured: Option<&Topics>) -> Result<Topics, Failure> {
        let (site, name) = match (&self.node, configured) {
            (Some(node), _) => (node.site.clone(), node.name.clone()),
            (None, Some(topics)) => (topics.site().clone(), topics.node().clone()),
            (None, None) => {
                let text = "which node? give --node SITE/NAME, or --config FILE of its agent";
                return Err(Failure::new(Class::Usage, text));
            }
        };
        let root = match (&self.root, configured) {
            (Some(root), _) => root,
            (None, Some(topics)) => topics.root(),
            (None, None) => "neap",
        };
        Topics::new(root, site, name).map_err(|error| Failure::new(Class::Usage, format!("--root: {error}")))
    }
}

impl FromStr for Broker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("{text:?} is not HOST or HOST:PORT, e.g. 127.0.0.1:1883 or [::1]:1883");
        let (host, port) = match text.rsplit_once(':') {
            // An address of IPv6 without brackets has more colons and no port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(rule)?))
            }
            Some(_) | None => (text, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(legal) {
            return Err(rule());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl FromStr for NodePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (site, name) =
            text.split_once('/').ok_or_else(|| format!("{text:?} is not SITE/NAME, e.g. north/cell-17"))?;
        let checked = |text: &str| text.parse::<Name>().map_err(|error| error.to_string());
        Ok(Self { site: checked(site)?, name: checked(name)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_host_and_perhaps_a_port() {
        for (text, host, port) in [
            ("localhost", "localhost", None),
            ("10.0.0.1:18830", "10.0.0.1", Some(18830)),
            ("[::1]:1884", "::1", Some(1884)),
            ("::1", "::1", None),
        ] {
            assert_eq!(text.parse(), Ok(Broker { host: host.to_owned(), port }), "{text}");
        }
        for bad in ["", ":1883", "host:0", "host:99999", "mqtt://host", "a b"] {
            assert!(bad.parse::<Broker>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_is_a_site_and_a_name() {
        assert!("north/cell-17".parse::<NodePath>().is_ok());
        for bad in ["north", "north/", "/cell", "north/cell/1", "North/cell", "north/+"] {
            assert!(bad.parse::<NodePath>().is_err(), "{bad}");
        }
    }
}
