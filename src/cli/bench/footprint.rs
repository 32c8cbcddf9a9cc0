//! What does a node cost that does nothing? Size of the program, memory, start, and how often it wakes.
//!
//! The real agent is started with a state of its own, the shipped waits, and a broker on loopback that says yes to
//! everything ([`stub`]). It hears of no load, so no worker is started: what is seen is the agent alone, connected and
//! idle. Workers are looked at apart, one for each model, after its first inference. Memory is what the kernel says of the
//! processes, file pages apart from what is theirs alone; system calls are counted by the kernel or by strace, never
//! estimated ([`calls`]).

mod calls;
mod executable;
mod figures;
mod process;
mod rig;
mod stub;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::machine::Machine;
use super::progress::Progress;
use super::{go_on, keep_interrupt};
use crate::cli::failure::{Class, Failure};
use crate::cli::models;
use crate::cli::out::Out;
use crate::model::library::Library;
use crate::model::verdict::Limits;
use crate::sys::clock;
use crate::sys::signal::Interrupt;
use crate::worker::appraisal;

use figures::{Figures, Idle, Worker};
use process::{Memory, Wakes};
use rig::Rig;

/// Between two looks at an interrupt.
const NAP: Duration = Duration::from_millis(20);

/// Arguments of `neap bench footprint`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap bench footprint
  neap bench footprint --json > footprint.json
  neap bench footprint --settle-s 30 --idle-s 60        longer, for steadier figures
  neap bench footprint --models /srv/neap/models

rss_bytes is what is in memory of a process, pss_bytes the same with shared pages divided among those who share them.
anonymous_bytes is the process's own; file_bytes are pages of the program and its libraries, which the kernel can drop and
read again, and which several processes share. start_to_ready_ms is the time from the agent's start to READY=1, the median.
System calls are counted while the agent is idle: by the kernel's tracefs where it is mounted and may be used (mount -t
tracefs tracefs /sys/kernel/tracing), else by strace when it is on PATH, else not at all; wakes_per_s counts how often its
threads went to sleep, which the kernel always tells. Run it as the agent runs, with the same user and rights.
It needs nothing else, and takes about a minute.")]
pub(in crate::cli) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Folder in which the agent's state lies while the bench runs [default: that for temporary files]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Folder of the models [default: that of the sources, beside the program, or /usr/share/neap/models]
    #[arg(long, value_name = "FOLDER")]
    models: Option<PathBuf>,
    /// Starts of the agent; the last one stays and is looked at
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    starts: u32,
    /// Time that the agent has to settle before it is looked at, in seconds
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    settle_s: u32,
    /// Time for which the idle agent's CPU time and wakes are taken, and for which its system calls are counted, in seconds
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    idle_s: u32,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let folder = models_folder(args)?;
    let interrupt = keep_interrupt()?;
    let machine = Machine::begin();
    let library = match &folder {
        Some(folder) => Some(Library::open(folder).map_err(|error| Failure::new(Class::Io, error.to_string()))?),
        None => None,
    };
    let models = library.iter().flat_map(Library::entries).count() as u64;
    let seconds = u64::from(args.settle_s) + 2 * u64::from(args.idle_s);
    let mut progress = Progress::begin(u64::from(args.starts) + seconds + models);
    progress.at(0, "starting the agent");
    let mut figures = Figures { executable: executable::own()?, ..Figures::default() };
    let mut rig = Rig::build(&args.dir.clone().unwrap_or_else(std::env::temp_dir), folder.as_deref())?;
    for start in 0..args.starts {
        progress.at(u64::from(start), "starting the agent");
        rig.stop()?;
        figures.starts.push(rig.start(&interrupt)?);
    }
    progress.at(u64::from(args.starts), "letting the agent settle");
    pause(&interrupt, args.settle_s)?;
    let method = idle(args, &interrupt, &mut rig, &mut progress, &mut figures)?;
    rig.stop()?;
    for (index, entry) in library.iter().flat_map(Library::entries).enumerate() {
        go_on(&interrupt)?;
        progress.at(u64::from(args.starts) + seconds + index as u64, &format!("loading {}", entry.manifest.name));
        let looked = appraisal::look_once(Path::new("/proc/self/exe"), &Limits::default(), entry, Memory::read);
        let looked = looked.map_err(|error| Failure::new(Class::TemporaryFailure, error.to_string()))?;
        figures.workers.push(Worker { model: entry.manifest.name.to_string(), memory: looked.flatten() });
    }
    progress.end();
    let facts = machine.end(vec![
        ("models", folder.map_or_else(|| "none found".to_owned(), |folder| folder.display().to_string())),
        ("system calls counted by", method),
        ("emulated by", std::env::var("NEAP_EMULATED").unwrap_or_else(|_| "not told".to_owned())),
    ]);
    let out = Out::stdout();
    if args.json { out.json(&figures.json(&facts)) } else { figures.tell(&out) }
}

/// Looks at the idle agent: memory at once, CPU time and wakes over a while, system calls over another. Says what counted
/// those.
fn idle(
    args: &Args,
    interrupt: &Interrupt,
    rig: &mut Rig,
    progress: &mut Progress,
    figures: &mut Figures,
) -> Result<String, Failure> {
    let pid = rig.pid()?;
    let begun = u64::from(args.starts) + u64::from(args.settle_s);
    progress.at(begun, "looking at the idle agent");
    let gone = || Failure::new(Class::Software, format!("the agent cannot be looked at: /proc/{pid} tells nothing"));
    let cpu = || {
        clock::process_cpu(pid.cast_signed()).map_err(|error| Failure::io("cannot read the agent's CPU time", &error))
    };
    let (wakes, cpu_before, before) = (Wakes::read(pid).ok_or_else(gone)?, cpu()?, clock::now());
    pause(interrupt, args.idle_s)?;
    let span = clock::now().since(before);
    let cpu = cpu()?.saturating_sub(cpu_before);
    let wakes = Wakes::read(pid).ok_or_else(gone)?.since(&wakes);
    figures.agent = Some(Memory::read(pid).ok_or_else(gone)?);
    rig.check()?;
    progress.at(begun + u64::from(args.idle_s), "counting the agent's system calls");
    let counted = calls::count(pid, Duration::from_secs(args.idle_s.into()), || go_on(interrupt))?;
    rig.check()?;
    let method = counted.method.clone();
    figures.idle = Some(Idle { span, cpu, wakes, calls: counted });
    Ok(method)
}

/// The folder of the models; none when nobody named one and none is where they usually are.
fn models_folder(args: &Args) -> Result<Option<PathBuf>, Failure> {
    match &args.models {
        Some(folder) if !folder.is_dir() => {
            let text =
                format!("--models {}: there is no such folder; name the one that holds the models", folder.display());
            Err(Failure::new(Class::Data, text))
        }
        Some(folder) => Ok(Some(folder.clone())),
        None => Ok(models::folders().into_iter().find(|folder| folder.is_dir())),
    }
}

/// Waits, unless somebody wants the bench to end.
fn pause(interrupt: &Interrupt, seconds: u32) -> Result<(), Failure> {
    let until = clock::now().after(Duration::from_secs(seconds.into()));
    while clock::now() < until {
        go_on(interrupt)?;
        std::thread::sleep(NAP);
    }
    Ok(())
}
