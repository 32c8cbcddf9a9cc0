//! The broker of a node under test: Mosquitto, or in builds with the demo the embedded one.

#[cfg(feature = "demo")]
use neap::sim::broker::Broker as EmbeddedBroker;

use super::mosquitto::{Mosquitto, Options};

/// A build for nodes has none.
#[cfg(not(feature = "demo"))]
pub enum EmbeddedBroker {}

/// Mosquitto when it is installed, else the embedded broker.
pub enum Broker {
    Mosquitto(Mosquitto),
    Embedded(EmbeddedBroker),
}

impl Broker {
    /// Starts one. With `CI=true` a missing Mosquitto is a failure.
    pub fn start() -> Self {
        match Mosquitto::start(Options::default()) {
            Some(mosquitto) => Self::Mosquitto(mosquitto),
            #[cfg(feature = "demo")]
            None => Self::Embedded(EmbeddedBroker::start().expect("the embedded broker can be started")),
            #[cfg(not(feature = "demo"))]
            None => panic!("without the feature demo there is no broker but Mosquitto: apt-get install mosquitto"),
        }
    }

    /// Whether it passes the retain flag on to those who ask for it, as MQTT 5 has it; rumqttd does not.
    pub fn shows_retain(&self) -> bool {
        matches!(self, Self::Mosquitto(_))
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Mosquitto(mosquitto) => mosquitto.port(),
            #[cfg(feature = "demo")]
            Self::Embedded(embedded) => embedded.address().port(),
            #[cfg(not(feature = "demo"))]
            Self::Embedded(embedded) => match *embedded {},
        }
    }
}
