//! How much CPU time was used on some cores? `/proc/stat`, less our own workers.

use std::fs::File;
use std::path::Path;

use super::files::{advance, read};
use super::workers::Workers;
use crate::load::{OwnWorkers, Problem};

/// Nanoseconds of a tick in `/proc/stat`: `USER_HZ` is 100 on every architecture that Linux and Neap share.
const TICK_NS: u64 = 10_000_000;
/// Room for the lines of all cores, which come first; interrupts, which come after, are of no interest.
const STAT_BYTES_MAX: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct Cores {
    stat: File,
    buffer: Vec<u8>,
    /// Core and its last count of busy ticks.
    cores: Vec<(usize, Option<u64>)>,
    total_ns: i128,
    workers: Workers,
}

impl Cores {
    pub(super) fn open(root: &Path, cores: &[usize], own_workers: OwnWorkers) -> Result<Self, Problem> {
        let path = root.join("proc/stat");
        let remedy = "mount /proc, or use another kind of load source";
        let stat = File::open(&path).map_err(|error| Problem::io("open", &path, error, remedy))?;
        let mut opened = Self {
            stat,
            buffer: vec![0; STAT_BYTES_MAX],
            cores: cores.iter().map(|core| (*core, None)).collect(),
            total_ns: 0,
            workers: Workers::new(root, cores, own_workers),
        };
        if opened.busy_ns().is_err() {
            let limit = "cores that this host has online, see /proc/stat";
            return Err(Problem::setting("cores", format_args!("{cores:?}"), limit));
        }
        Ok(opened)
    }

    /// CPU time of the cores since the start, less that of our workers. May go down by the length of a tick.
    pub(super) fn busy_ns(&mut self) -> Result<i128, &'static str> {
        let text = read(&self.stat, &mut self.buffer)?;
        let mut found = 0;
        let mut advanced_ns = 0;
        for line in text.lines() {
            let Some((core, fields)) = core_line(line) else { continue };
            let Some((_, last)) = self.cores.iter_mut().find(|(known, _)| *known == core) else { continue };
            advanced_ns += u128::from(advance(last, busy_ticks(fields)?)?) * u128::from(TICK_NS);
            found += 1;
        }
        if found != self.cores.len() {
            return Err("a core that is not in /proc/stat");
        }
        self.total_ns += i128::try_from(advanced_ns).map_err(|_| "a count of ticks out of range")?;
        self.total_ns -= i128::from(self.workers.advance_ns());
        Ok(self.total_ns)
    }
}

/// Core and fields of a line `cpu0 1 2 3 …`; `None` for other lines and for the sum of all cores.
fn core_line(line: &str) -> Option<(usize, &str)> {
    let (core, fields) = line.strip_prefix("cpu")?.split_once(' ')?;
    Some((core.parse().ok()?, fields))
}

/// user nice system idle iowait irq softirq steal. Guest time is part of user time, and the time that a hypervisor
/// stole is as lost to the RAN as time that was used.
fn busy_ticks(fields: &str) -> Result<u64, &'static str> {
    let mut ticks = [0_u64; 8];
    let mut count = 0;
    for (tick, field) in ticks.iter_mut().zip(fields.split_ascii_whitespace()) {
        *tick = field.parse().map_err(|_| "a count of ticks that is not a number")?;
        count += 1;
    }
    if count < 7 {
        return Err("a line of /proc/stat that is too short");
    }
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = ticks;
    [user, nice, system, irq, softirq, steal]
        .into_iter()
        .try_fold(0_u64, u64::checked_add)
        .ok_or("a count of ticks above 64 bits")
}
