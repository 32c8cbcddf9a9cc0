//! Which keys has a `dpdk` source?

use std::path::PathBuf;
use std::time::Duration;

use super::super::read::Section;
use crate::load::Kind;
use crate::load::dpdk::{LCORES_MAX, PERIOD_DEFAULT, PORTS_MAX, SOCKET_DEFAULT, Settings};

pub(super) fn dpdk(section: &mut Section<'_, '_>) -> Option<Kind> {
    let socket = section.path("socket").unwrap_or_else(|| PathBuf::from(SOCKET_DEFAULT));
    let process = section.text("process", 15);
    let lcores = section.integers("lcores", LCORES_MAX, 0..=u64::from(u32::MAX));
    let ports = section.integers("ports", PORTS_MAX, 0..=u64::from(u16::MAX));
    let parked_idle = section.flag("parked_idle", false);
    let default_ms = u64::try_from(PERIOD_DEFAULT.as_millis()).unwrap_or(100);
    let period: Duration = section.millis("period_ms", default_ms, 1..=60_000);
    Some(Kind::Dpdk(Settings {
        socket,
        process,
        lcores: lcores.into_iter().filter_map(|lcore| u32::try_from(lcore).ok()).collect(),
        ports: ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect(),
        parked_idle,
        period,
    }))
}
