//! What does one JSON object of a gNB's metrics say? Pure.
//!
//! The names differ between versions, so every member may be missing and unknown ones are skipped. A member that is
//! known and there is strict: a text for a number, a negative one or one beyond any real RAN makes the whole object
//! senseless. What is taken:
//!
//! | member | unit | meaning |
//! |---|---|---|
//! | `executor_metrics` `name`, `cpu_load`, `enqueue_max` | percent of one core, µs | work of one executor in the period |
//! | `cells[].cell_metrics` `pci`, `error_indication_count`, `max_latency`, `latency_histogram` | count, µs, slots | one cell in the period |
//! | … `pdsch_prbs_used_per_tdd_slot_idx`, `pusch_…` | PRBs | mean use of each slot of the TDD pattern |
//! | `cells[].ue_list[]` `dl_brate`, `ul_brate`, `dl_nof_ok`, … | bit/s, transport blocks | its users |
//! | `ru` … `late_dl_slots` (`late_dl_grids`), `nof_missed_uplink_symbols` | count | the fronthaul, wherever below `ru` |
//! | `error` | text | the answer to a subscription that is refused |
//!
//! Counts are of one period: the gNB begins at 0 for each report. In releases up to 25.04 `cell_metrics` and `ue_list`
//! stand at the top, the users' figures in `ue_container`.

mod walk;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::units::CELLS_MAX;
use walk::{Blocks, Count, Few, Load, Micros, Pci, Prbs, Users};

/// Largest message or datagram, in bytes. A DU with a full cell of users stays below a tenth of it.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// What is said of a longer one.
pub(super) const TOO_LONG: &str = "a message above 1 MiB";
/// Longest name of an executor, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Users of a cell in one report.
pub const USERS_MAX: usize = 4096;
/// Slots of a TDD pattern: two of 10 ms with the shortest slots.
pub const SLOTS_MAX: usize = 320;

/// One object, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// One executor's work.
    pub executor: Option<Executor>,
    /// Every cell of the report; `None` when the object is about something else.
    pub cells: Option<Vec<Cell>>,
    /// Late downlink slots and missed uplink symbols of the fronthaul.
    pub fronthaul_late: Option<u64>,
    /// What the gNB said against the subscription.
    pub refusal: Option<String>,
    /// Time of day of the gNB's clock, in milliseconds: only differences count.
    pub clock_ms: Option<u64>,
}

/// The work of one executor in one period.
#[derive(Clone, Debug, PartialEq)]
pub struct Executor {
    /// Its name, such as `slot_ind_exec#0`.
    pub name: String,
    /// Its share of one core, in percent; finite and not negative.
    pub cpu_load: Option<f64>,
    /// Longest wait of one of its tasks for being begun, in µs.
    pub enqueue_max_us: Option<u32>,
}

/// One cell in one period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// Physical cell id; releases up to 25.04 do not tell it.
    pub pci: Option<u64>,
    /// Slots that the lower layers could not do in time.
    pub errors: Option<u64>,
    /// Longest time that the scheduler took for a slot, in µs.
    pub max_latency_us: Option<u32>,
    /// Slots of the period.
    pub slots: Option<u64>,
    /// Bits a second of all users, both directions; `None` when a user's are not told.
    pub bits: Option<f64>,
    /// Transport blocks sent and received, good and bad; `None` when a user's are not told.
    pub blocks: Option<(u64, u64)>,
    /// Mean PRBs used for data in each slot of the TDD pattern, downlink.
    pub downlink: Option<Vec<u16>>,
    /// The same, uplink.
    pub uplink: Option<Vec<u16>>,
}

/// Reads every object of a message: a WebSocket frame has one, a datagram may have several. Stops at the first that
/// makes no sense; the error is for the log, and names nothing of the content.
pub fn read_all(message: &[u8], mut sink: impl FnMut(Document)) -> Result<(), &'static str> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(TOO_LONG);
    }
    let mut objects = serde_json::Deserializer::from_slice(message).into_iter::<Top<'_>>();
    for object in &mut objects {
        let object = object.map_err(|error| match error.classify() {
            serde_json::error::Category::Data => "a figure of the gNB of a wrong kind or out of its range",
            serde_json::error::Category::Syntax | serde_json::error::Category::Eof => "a message that is not JSON",
            serde_json::error::Category::Io => "a message that cannot be read",
        })?;
        sink(object.into_document()?);
    }
    Ok(())
}

// ---- the wire ----

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow)]
    executor_metrics: Option<WireExecutor<'a>>,
    #[serde(borrow)]
    cells: Option<Few<WireCell<'a>, CELLS_MAX>>,
    // Up to 25.04 one cell stands at the top.
    #[serde(borrow)]
    cell_metrics: Option<WireCellMetrics<'a>>,
    ue_list: Option<Users>,
    #[serde(borrow)]
    ru: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireExecutor<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    cpu_load: Option<Load>,
    enqueue_max: Option<Micros>,
}

#[derive(Deserialize)]
struct WireCell<'a> {
    #[serde(borrow)]
    cell_metrics: Option<WireCellMetrics<'a>>,
    ue_list: Option<Users>,
}

#[derive(Deserialize)]
struct WireCellMetrics<'a> {
    pci: Option<Pci>,
    error_indication_count: Option<Count>,
    max_latency: Option<Micros>,
    // A list of numbers, in older releases one of objects.
    #[serde(borrow)]
    latency_histogram: Option<&'a RawValue>,
    pdsch_prbs_used_per_tdd_slot_idx: Option<Prbs>,
    pusch_prbs_used_per_tdd_slot_idx: Option<Prbs>,
}

impl Top<'_> {
    fn into_document(self) -> Result<Document, &'static str> {
        let executor = match self.executor_metrics {
            Some(WireExecutor { name: Some(name), .. }) if name.len() > NAME_BYTES_MAX => {
                return Err("an executor whose name is above 64 bytes");
            }
            Some(WireExecutor { name: Some(name), cpu_load, enqueue_max }) => Some(Executor {
                name: name.into_owned(),
                cpu_load: cpu_load.map(|load| load.0),
                enqueue_max_us: enqueue_max.map(|micros| micros.0),
            }),
            Some(WireExecutor { name: None, .. }) => return Err("an executor without a name"),
            None => None,
        };
        let at_the_top = self.cell_metrics.is_some() || self.ue_list.is_some();
        let cells = match self.cells {
            Some(cells) => Some(cells.0.into_iter().map(|cell| cell_of(cell.cell_metrics, cell.ue_list)).collect()),
            None => at_the_top.then(|| vec![cell_of(self.cell_metrics, self.ue_list)]),
        };
        let fronthaul_late = match self.ru {
            Some(ru) => walk::late_below(ru).map_err(|_| "a count of the fronthaul that is none")?,
            None => None,
        };
        let refusal = self.error.map(|error| error.get().chars().take(200).collect());
        let clock_ms = self.timestamp.and_then(|stamp| time_of_day_ms(stamp.get()));
        Ok(Document { executor, cells, fronthaul_late, refusal, clock_ms })
    }
}

fn cell_of(metrics: Option<WireCellMetrics<'_>>, users: Option<Users>) -> Cell {
    let has_metrics = metrics.is_some();
    // A cell without users has no list of them.
    let users = users.or(has_metrics.then(Users::none));
    let mut cell = Cell {
        bits: users.as_ref().and_then(|users| users.bits),
        blocks: users.as_ref().and_then(|users| users.blocks).map(|Blocks { dl, ul }| (dl, ul)),
        ..Cell::default()
    };
    if let Some(metrics) = metrics {
        cell.pci = metrics.pci.map(|pci| pci.0);
        cell.errors = metrics.error_indication_count.map(|count| count.0);
        cell.max_latency_us = metrics.max_latency.map(|micros| micros.0);
        cell.slots = metrics.latency_histogram.and_then(|list| walk::sum(list.get()));
        cell.downlink = metrics.pdsch_prbs_used_per_tdd_slot_idx.map(|prbs| prbs.0);
        cell.uplink = metrics.pusch_prbs_used_per_tdd_slot_idx.map(|prbs| prbs.0);
    }
    cell.pci = cell.pci.or(users.and_then(|users| users.pci));
    cell
}

/// `"2026-11-22T08:24:36.164"`, or seconds since 1970 with decimals.
fn time_of_day_ms(stamp: &str) -> Option<u64> {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    if let Ok(seconds) = stamp.parse::<f64>() {
        let millis = std::time::Duration::try_from_secs_f64(seconds).ok()?.as_millis();
        return u64::try_from(millis % u128::from(DAY_MS)).ok();
    }
    let (_, time) = stamp.trim_matches('"').split_once('T')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let seconds = clock.split(':').try_fold(0_u64, |sum, part| {
        let part = part.parse::<u64>().ok().filter(|part| *part < 100)?;
        Some((sum * 60 + part) % (24 * 3600))
    })?;
    let millis: u64 = fraction.get(..3).unwrap_or(fraction).parse().ok()?;
    Some((seconds * 1000 + millis) % DAY_MS)
}
