//! What do the replies of DPDK's telemetry say? Pure.
//!
//! A reply is one JSON object whose only key is the question without its parameter. What the application does not know
//! or cannot tell is `null`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{LCORES_MAX, PORTS_MAX};

/// Asks for the cycles of the lcores.
pub(super) const USAGE: &str = "/eal/lcore/usage";
/// Asks for the ports.
pub(super) const PORTS: &str = "/ethdev/list";
/// Asks for the counters of a port, which follows a comma.
pub(super) const XSTATS: &str = "/ethdev/xstats";

/// Largest message, in bytes. DPDK's own limit is 16 KiB, and it says so when it is asked.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Longest version, in characters.
const VERSION_CHARS_MAX: usize = 128;

const NO_ENDPOINT: &str = "the application does not know /eal/lcore/usage: it needs DPDK 23.03 or later";
const NO_CALLBACK: &str = "no lcore tells its usage: the application must register a usage callback (rte_lcore_register_usage_cb; in testpmd --record-core-cycles)";
const NOT_A_REPLY: &str = "a reply that is not the JSON asked for";

/// What an application says of itself when it is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Info {
    /// Such as `DPDK 24.11.4`.
    pub version: String,
    /// Its process, in its own name space.
    pub pid: u32,
    /// Largest reply, in bytes.
    pub max_output_len: u64,
}

/// Cycles of the lcores that tell them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    lcore_ids: Vec<u32>,
    total_cycles: Vec<u64>,
    busy_cycles: Vec<u64>,
}

impl Usage {
    /// Lcore, cycles in all, cycles with work.
    pub fn lcores(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        let cycles = self.total_cycles.iter().zip(&self.busy_cycles);
        self.lcore_ids.iter().zip(cycles).map(|(id, (total, busy))| (*id, *total, *busy))
    }
}

#[derive(Deserialize)]
struct Counters {
    rx_missed_errors: Option<u64>,
}

/// Reads the greeting.
///
/// # Errors
/// What is wrong with it.
pub fn info(reply: &[u8]) -> Result<Info, &'static str> {
    let info: Info = serde_json::from_slice(reply).map_err(|_| "a greeting that is not of DPDK's telemetry")?;
    if info.pid == 0 || info.version.chars().count() > VERSION_CHARS_MAX || info.version.chars().any(char::is_control) {
        return Err("a greeting with a senseless version or process id");
    }
    if info.max_output_len == 0 || info.max_output_len > MESSAGE_BYTES_MAX as u64 {
        return Err("a greeting that announces replies of no byte, or above 64 KiB");
    }
    Ok(info)
}

/// Reads the cycles of the lcores.
///
/// # Errors
/// What is wrong with the reply; above all that there are none.
pub fn usage(reply: &[u8]) -> Result<Usage, &'static str> {
    let usage: Usage = body(USAGE, reply)?.ok_or(NO_ENDPOINT)?;
    let count = usage.lcore_ids.len();
    if usage.total_cycles.len() != count || usage.busy_cycles.len() != count {
        return Err("lists of lcores and cycles of different lengths");
    }
    if count == 0 {
        return Err(NO_CALLBACK);
    }
    if count > LCORES_MAX {
        return Err("above 1024 lcores");
    }
    // They come in order, so a repeated one is beside its like.
    if !usage.lcore_ids.is_sorted_by(|a, b| a < b) {
        return Err("lcores out of order or more than once");
    }
    Ok(usage)
}

/// Reads the list of ports; `None` when the application has no such thing.
///
/// # Errors
/// What is wrong with the reply.
pub fn ports(reply: &[u8]) -> Result<Option<Vec<u16>>, &'static str> {
    let ports: Option<Vec<u16>> = body(PORTS, reply)?;
    if ports.as_ref().is_some_and(|ports| ports.len() > PORTS_MAX) {
        return Err("above 64 ports: name those that count in ports");
    }
    Ok(ports)
}

/// Reads how many frames a port has missed.
///
/// # Errors
/// What is wrong with the reply.
pub fn missed(reply: &[u8]) -> Result<u64, &'static str> {
    let counters: Option<Counters> = body(XSTATS, reply)?;
    counters.and_then(|counters| counters.rx_missed_errors).ok_or("a port without rx_missed_errors")
}

/// What stands under the only key.
fn body<'a, T: Deserialize<'a>>(question: &str, reply: &'a [u8]) -> Result<Option<T>, &'static str> {
    let mut reply: BTreeMap<&str, Option<T>> = serde_json::from_slice(reply).map_err(|_| NOT_A_REPLY)?;
    let body = reply.remove(question).ok_or("a reply to another question")?;
    if reply.is_empty() { Ok(body) } else { Err(NOT_A_REPLY) }
}
