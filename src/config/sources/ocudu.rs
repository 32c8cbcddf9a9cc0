//! Which keys have the sources `ocudu` and `ocudu_udp`?

use crate::config::read::Section;
use crate::load::Kind;
use crate::load::ocudu::{ADDRESS_DEFAULT, CORES_MAX, Form, LISTEN_DEFAULT, PEAK_MBPS_MAX, PRBS_MAX, Scale, Settings};
use crate::units::CELLS_MAX;

/// Highest physical cell id.
const PCI_MAX: u64 = 1007;

pub(super) fn ocudu(section: &mut Section<'_, '_>) -> Option<Kind> {
    let address = section.parsed("address", "must be an address and port in quotes, e.g. \"127.0.0.1:8001\"");
    let most = u64::from(CORES_MAX);
    let cores = section.integers("cores", usize::try_from(CORES_MAX).unwrap_or(usize::MAX), 0..=most - 1);
    let found = (!cores.is_empty()).then_some(cores.len());
    let cores = section.require("cores", found, "[0, 1] (the RAN's cores: all of them in use is 100 %)");
    let prbs = section.integer_table("prbs", CELLS_MAX, 0..=PCI_MAX, 1..=u64::from(PRBS_MAX));
    let prbs = prbs.into_iter().filter_map(|(pci, prbs)| Some((pci, u16::try_from(prbs).ok()?))).collect();
    let peak_bits = peak_bits(section);
    let address = match address {
        Some(address) => address,
        None => ADDRESS_DEFAULT.parse().ok()?,
    };
    let scale = Scale { cores: u32::try_from(cores?).ok()?, prbs, peak_bits };
    Some(Kind::Ocudu(Settings { form: Form::Stream, address, scale }))
}

pub(super) fn ocudu_udp(section: &mut Section<'_, '_>) -> Option<Kind> {
    let listen = section.parsed("listen", "must be an address and port in quotes, e.g. \"127.0.0.1:55555\"");
    let peak = peak_bits(section);
    let peak = section.require("peak_mbps", peak, "200 (the most that a cell moves, both directions together)")?;
    let address = match listen {
        Some(listen) => listen,
        None => LISTEN_DEFAULT.parse().ok()?,
    };
    let scale = Scale { cores: 1, prbs: Default::default(), peak_bits: Some(peak) };
    Some(Kind::Ocudu(Settings { form: Form::Datagrams, address, scale }))
}

fn peak_bits(section: &mut Section<'_, '_>) -> Option<f64> {
    let mbps = section.optional_integer("peak_mbps", 1..=PEAK_MBPS_MAX, "Mbit/s")?;
    Some(f64::from(u32::try_from(mbps).ok()?) * 1e6)
}
