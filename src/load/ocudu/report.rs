//! What do the objects of one report mean for the load? Pure: the time is an argument.
//!
//! | reading | cell | from |
//! |---|---|---|
//! | level `cpu` | 0, the host | sum of the executors' `cpu_load`, 100 % being the configured cores |
//! | level `RRU.PrbTotDl`, `RRU.PrbTotUl`, `bit_rate` | the PCI | the highest of what is configured: PRBs of the slots ever used (TDD), bit rate |
//! | late | the PCI; 0 for the fronthaul | running sums of `error_indication_count`, of late downlink slots and missed uplink symbols |
//! | health | 0 / the PCI | `enqueue_max` of `slot_ind_exec#N`, `max_latency` |
//!
//! The executors are checked by the bit rate: many bits for next to no work is a contradiction, and the object
//! senseless. Where a peak is configured the share of it is a level of its own, so the higher estimate counts.
//! Releases up to 25.04 tell no executors and no cell: there the highest share of the bit rate, or of slots with a
//! transport block, of all cells and of the last [`WINDOW`] to two of them is the level of cell 0.

use std::collections::BTreeMap;
use std::time::Duration;

use super::document::{self, Cell, Document};
use super::executors::Executors;
use super::{Form, Scale};
use crate::load::{Malformed, Metric, Observation, Observed, Reading};
use crate::units::{CELLS_MAX, CellId, Health, Instant, SourceId, Utilization};

/// The cell that stands for PCI 0, as 0 names the host: one above the highest PCI.
pub const CELL_OF_PCI_0: CellId = CellId(1008);
/// Cells without a PCI are numbered from here, by their place in the report.
pub const CELL_UNNAMED: CellId = CellId(2000);
/// The cell of what is about the whole host.
const HOST: CellId = CellId(0);

/// Reports in which a cell is not named before it counts as gone; it is stale, so busy, before that.
pub const ABSENT_REPORTS_MAX: u32 = 10;
/// How long the bit rate of a report can contradict the executors.
const BITS_HOLD: Duration = Duration::from_secs(3);
/// Bits a second below which the executors are not doubted.
const DOUBT_BITS_MIN: f64 = 20e6;
/// Bits a second for each percent of a core that nobody can believe: thirty times what was measured.
const DOUBT_BITS_PER_PERCENT: f64 = 100e6;
/// How long the highest level of the older form is kept at least.
pub const WINDOW: Duration = Duration::from_secs(1);

/// Figures that were heard in a stream, by their place in [`FIGURES`].
type Heard = [bool; FIGURES.len()];

/// What a stream should tell, and what is lost without it.
const FIGURES: [(&str, &str); 6] = [
    ("executor_metrics with cpu_load", "no level of the CPU: enable_executor in metrics.layers of the gNB"),
    ("executor_metrics of slot_ind_exec#N with enqueue_max", "no early sign of interference"),
    ("cell_metrics", "no level by cell and no miss counter: enable_sched in metrics.layers of the gNB"),
    ("cell_metrics.error_indication_count", "no miss counter"),
    ("cell_metrics.max_latency", "no latency of slots"),
    ("a bit rate of each user", "the executors are believed without a check"),
];

/// Joins the objects of a stream into readings.
#[derive(Debug)]
pub struct Reports {
    id: SourceId,
    form: Form,
    scale: Scale,
    executors: Executors,
    cells: BTreeMap<u64, State>,
    fronthaul_late: u64,
    bits: Option<(Instant, f64)>,
    window: Window,
    heard: Heard,
}

#[derive(Debug, Default)]
struct State {
    late: u64,
    absent: u32,
    downlink: Slots,
    uplink: Slots,
}

/// Which slots of the pattern were ever used in one direction: these are its capacity. Too few at first, so the level
/// is rather too high.
#[derive(Debug, Default)]
struct Slots(Vec<bool>);

/// Highest level of this and of the previous span of [`WINDOW`].
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    level: u16,
    before: u16,
}

impl Reports {
    /// For a stream of that form.
    pub fn new(id: SourceId, form: Form, scale: Scale) -> Self {
        Self {
            id,
            form,
            scale,
            executors: Executors::default(),
            cells: BTreeMap::new(),
            fronthaul_late: 0,
            bits: None,
            window: Window::default(),
            heard: [false; FIGURES.len()],
        }
    }

    /// Takes in one message. What makes no sense is one `Malformed`, and what stands before it in the message counts.
    /// Gives what the gNB said against the subscription, if it did.
    pub fn on_message(&mut self, now: Instant, message: &[u8], sink: &mut dyn FnMut(Observation)) -> Option<String> {
        let mut refusal = None;
        let mut why = None;
        let read = document::read_all(message, |document| {
            why = why.or(self.on_document(now, &document, sink).err());
            refusal = document.refusal;
        });
        if let Some(why) = read.err().or(why) {
            sink(self.senseless(why));
        }
        refusal
    }

    /// What stands for a message that makes no sense.
    pub fn senseless(&self, why: &'static str) -> Observation {
        Err(Malformed { source: self.id, why })
    }

    /// What was never heard, with what is lost, for people; empty when nothing is missing.
    pub fn missing(&self) -> String {
        let wanted = match self.form {
            Form::Stream => &FIGURES[..],
            Form::Datagrams => &FIGURES[2..],
        };
        let heard = &self.heard[FIGURES.len() - wanted.len()..];
        let lost = |((name, lost), heard): (&(&str, &str), &bool)| (!heard).then(|| format!("{name} ({lost})"));
        wanted.iter().zip(heard).filter_map(lost).collect::<Vec<_>>().join("; ")
    }

    fn on_document(
        &mut self,
        now: Instant,
        document: &Document,
        sink: &mut dyn FnMut(Observation),
    ) -> Result<(), &'static str> {
        // Counters first: a level in the same report must not go before what forbids it.
        if let Some(late) = document.fronthaul_late {
            self.tell_late(HOST, self.fronthaul_late, late, sink);
            self.fronthaul_late = self.fronthaul_late.saturating_add(late);
        }
        if let Some(cells) = &document.cells {
            match self.form {
                Form::Stream => self.on_cells(now, cells, sink)?,
                Form::Datagrams => cells.iter().for_each(|cell| self.on_nameless_cell(now, cell, sink)),
            }
        }
        if let Some(executor) = &document.executor {
            self.heard[0] |= executor.cpu_load.is_some();
            if let Some(value) = executor.enqueue_max_us.filter(|_| executor.name.starts_with("slot_ind_exec")) {
                self.heard[1] = true;
                self.tell(HOST, Observed::Health { figure: Health::EnqueueDelay, value }, sink);
            }
            if let Some(percent) = self.executors.on_executor(now, document.clock_ms, executor)? {
                self.doubt(now, percent)?;
                let capacity = 100.0 * f64::from(self.scale.cores.max(1));
                let level = share(percent, capacity);
                self.tell(HOST, Observed::Level { metric: Metric::Cpu, level, late: None }, sink);
            }
        }
        Ok(())
    }

    /// Much was moved and nothing was worked: one of both is wrong.
    fn doubt(&self, now: Instant, percent: f64) -> Result<(), &'static str> {
        let recent = self.bits.filter(|(at, _)| now.since(*at) < BITS_HOLD);
        match recent {
            Some((_, bits)) if bits > DOUBT_BITS_MIN && bits > percent * DOUBT_BITS_PER_PERCENT => {
                Err("a high bit rate while the executors say that they do next to nothing")
            }
            Some(_) | None => Ok(()),
        }
    }

    fn on_cells(
        &mut self,
        now: Instant,
        cells: &[Cell],
        sink: &mut dyn FnMut(Observation),
    ) -> Result<(), &'static str> {
        self.cells.values_mut().for_each(|state| state.absent += 1);
        let mut bits = Some(0.0);
        for (place, cell) in (0..).zip(cells) {
            self.note(cell);
            bits = bits.zip(cell.bits).map(|(sum, bits)| sum + bits);
            let id = self.id_of(cell, place);
            if self.cells.len() >= CELLS_MAX && !self.cells.contains_key(&id.0) {
                return Err("more than 64 cells");
            }
            let state = self.cells.entry(id.0).or_default();
            state.absent = 0;
            let before = state.late;
            let errors = cell.errors;
            state.late = state.late.saturating_add(errors.unwrap_or(0));
            let level = level(&self.scale, cell, state)?;
            if let Some(errors) = errors {
                self.tell_late(id, before, errors, sink);
            }
            self.tell_latency(id, cell, sink);
            if let Some((metric, level)) = level {
                self.tell(id, Observed::Level { metric, level, late: None }, sink);
            }
        }
        self.bits = bits.map(|bits| (now, bits));
        let gone: Vec<u64> =
            self.cells.iter().filter(|(_, state)| state.absent >= ABSENT_REPORTS_MAX).map(|(id, _)| *id).collect();
        for id in gone {
            self.cells.remove(&id);
            self.tell(CellId(id), Observed::Gone, sink);
        }
        Ok(())
    }

    /// The cell's id here. Of two with the same PCI in one report the second goes by its place, as one without does.
    fn id_of(&self, cell: &Cell, place: u64) -> CellId {
        let named = match cell.pci {
            Some(0) => CELL_OF_PCI_0,
            Some(pci) => CellId(pci),
            None => CellId(CELL_UNNAMED.0 + place),
        };
        let is_taken = self.cells.get(&named.0).is_some_and(|state| state.absent == 0);
        if is_taken { CellId(CELL_UNNAMED.0 + place) } else { named }
    }

    /// The older form: nobody says which cell it is.
    fn on_nameless_cell(&mut self, now: Instant, cell: &Cell, sink: &mut dyn FnMut(Observation)) {
        self.note(cell);
        if let Some(errors) = cell.errors {
            self.tell_late(HOST, self.fronthaul_late, errors, sink);
            self.fronthaul_late = self.fronthaul_late.saturating_add(errors);
        }
        self.tell_latency(HOST, cell, sink);
        let Some((bits, peak)) = cell.bits.zip(self.scale.peak_bits) else { return };
        let by_bits = share(bits, peak);
        let by_slots = match (cell.blocks, cell.slots) {
            // Counts of one report are far below the 52 bits that are exact.
            #[expect(clippy::cast_precision_loss, reason = "see above")]
            (Some((dl, ul)), Some(slots)) if slots > 0 => share(dl.max(ul) as f64, slots as f64),
            (Some(_) | None, Some(_) | None) => Utilization::IDLE,
        };
        let level = self.window.highest(now, by_bits.max(by_slots));
        self.tell(HOST, Observed::Level { metric: Metric::BitRate, level, late: None }, sink);
    }

    fn note(&mut self, cell: &Cell) {
        self.heard[2] = true;
        self.heard[3] |= cell.errors.is_some();
        self.heard[4] |= cell.max_latency_us.is_some();
        self.heard[5] |= cell.bits.is_some();
    }

    fn tell_latency(&self, cell: CellId, of: &Cell, sink: &mut dyn FnMut(Observation)) {
        if let Some(value) = of.max_latency_us {
            self.tell(cell, Observed::Health { figure: Health::SlotLatency, value }, sink);
        }
    }

    /// The running count moves by `more`. Where it begins is told as well, or the first misses would pass as the base.
    fn tell_late(&self, cell: CellId, before: u64, more: u64, sink: &mut dyn FnMut(Observation)) {
        self.tell(cell, Observed::Late { count: before }, sink);
        if more > 0 {
            self.tell(cell, Observed::Late { count: before.saturating_add(more) }, sink);
        }
    }

    fn tell(&self, cell: CellId, observed: Observed, sink: &mut dyn FnMut(Observation)) {
        // Age counts from the receipt: the gNB's stamps are of another clock.
        sink(Ok(Reading { source: self.id, cell, stamped: None, observed }));
    }
}

/// The highest level that is configured and told.
fn level(scale: &Scale, cell: &Cell, state: &mut State) -> Result<Option<(Metric, Utilization)>, &'static str> {
    let capacity = cell.pci.and_then(|pci| scale.prbs.get(&pci)).copied();
    let mut of_slots = |prbs: &Option<Vec<u16>>, slots: fn(&mut State) -> &mut Slots| match (prbs, capacity) {
        (Some(prbs), Some(capacity)) => slots(state).share(prbs, capacity).map(Some),
        (Some(_) | None, Some(_) | None) => Ok(None),
    };
    let dl = of_slots(&cell.downlink, |state| &mut state.downlink)?;
    let ul = of_slots(&cell.uplink, |state| &mut state.uplink)?;
    let by_bits = cell.bits.zip(scale.peak_bits).map(|(bits, peak)| share(bits, peak));
    let levels = [(Metric::BitRate, by_bits), (Metric::PrbTotUl, ul), (Metric::PrbTotDl, dl)];
    Ok(levels.into_iter().filter_map(|(metric, level)| Some((metric, level?))).max_by_key(|(_, level)| *level))
}

/// Rounded up, and full above the capacity: never lower than what was said.
fn share(used: f64, capacity: f64) -> Utilization {
    let permille = (used * 1000.0 / capacity).ceil();
    // Not in that range: above it, or no number at all.
    if !(0.0..=1000.0).contains(&permille) {
        return Utilization::FULL;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000, as was looked at")]
    Utilization::from_permille(permille as u16).unwrap_or(Utilization::FULL)
}

impl Slots {
    fn share(&mut self, prbs: &[u16], capacity: u16) -> Result<Utilization, &'static str> {
        if prbs.iter().any(|used| *used > capacity) {
            return Err("more PRBs used in a slot than configured: correct prbs, or leave it out for a gNB that \
                        tells sums");
        }
        if prbs.len() > self.0.len() {
            self.0.resize(prbs.len(), false);
        }
        self.0.iter_mut().zip(prbs).for_each(|(ever, used)| *ever |= *used > 0);
        let slots = self.0.iter().filter(|ever| **ever).count();
        if slots == 0 {
            return Ok(Utilization::IDLE);
        }
        let used: f64 = prbs.iter().map(|used| f64::from(*used)).sum();
        let slots = u32::try_from(slots).map_or(f64::MAX, f64::from);
        Ok(share(used, slots * f64::from(capacity)))
    }
}

impl Window {
    fn highest(&mut self, now: Instant, level: Utilization) -> Utilization {
        let began = *self.began.get_or_insert(now);
        if now.since(began) >= WINDOW {
            // After a long silence the old level no longer counts.
            self.before = if now.since(began) < 2 * WINDOW { self.level } else { 0 };
            (self.began, self.level) = (Some(now), 0);
        }
        self.level = self.level.max(level.permille());
        Utilization::from_permille(self.level.max(self.before)).unwrap_or(Utilization::FULL)
    }
}
