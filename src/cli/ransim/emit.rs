//! Writes synthetic days as a recording: `neap ransim --emit`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::super::failure::{Class, Failure};
use super::super::recordings::{self, Progress};
use super::super::span::{self, Span};
use crate::load::recording::{Entry, FILE_BYTES_MAX, Form, Said, Writer};
use crate::sim::emit::{CELLS_MAX, DAYS_MAX, Emission, Settings};
use crate::units::CellId;

/// Longest step: an hour.
const STEP_MAX: Span = Span(std::time::Duration::from_secs(3600));
/// Steps between two looks at the clock.
const TELL_EVERY: u64 = 90;

/// What is emitted.
#[derive(Debug, clap::Args)]
pub(super) struct Emit {
    /// Write synthetic days as a recording instead of running: FILE.csv, FILE.ndjson, or - for standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["push", "udp", "shm", "curve", "load", "cores", "json"])]
    pub(super) emit: Option<PathBuf>,
    /// Days to write
    #[arg(long, requires = "emit", value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX)))]
    days: u32,
    /// Cells to write, numbered from 1, each with a character of its own that it keeps
    #[arg(long, requires = "emit", value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(CELLS_MAX)))]
    cells: u32,
    /// Time between two samples
    #[arg(long, requires = "emit", value_name = "TIME", default_value = "2m", value_parser = step)]
    step: Span,
    /// Form of the recording [default: by the ending of FILE; ndjson for -]
    #[arg(long, requires = "emit", value_name = "FORM", value_parser = ["csv", "ndjson"])]
    format: Option<String>,
}

fn step(text: &str) -> Result<Span, String> {
    let step = span::positive(text)?;
    if step.0 > STEP_MAX.0 { Err("must be at most 1h".to_owned()) } else { Ok(step) }
}

/// Writes the days to where they are asked for.
pub(super) fn run(args: &Emit, path: &Path, seed: u64) -> Result<(), Failure> {
    let is_stdout = path == Path::new("-");
    let form = recordings::form(path, args.format.as_deref(), is_stdout)?;
    let emission = Emission::new(Settings { days: args.days, cells: args.cells, seed, step: args.step.0 });
    let failed = |error| match is_stdout {
        true => Failure::io("cannot write to standard output", &error),
        false => Failure::io(&format!("cannot write {}", path.display()), &error),
    };
    let out: Box<dyn Write> = match is_stdout {
        true => Box::new(io::stdout().lock()),
        false => Box::new(File::create(path).map_err(failed)?),
    };
    let out = BufWriter::with_capacity(256 * 1024, out);
    write(emission, out, form).map_err(failed)?
}

/// Writes all samples. The inner failure is that there is more than a recording may have.
fn write(mut emission: Emission, out: impl Write, form: Form) -> io::Result<Result<(), Failure>> {
    let mut writer = Writer::new(out, form, FILE_BYTES_MAX)?;
    let (mut samples, steps, mut progress) = (Vec::new(), emission.steps(), Progress::begin());
    let mut done = 0_u64;
    while let Some(at) = emission.step(&mut samples) {
        for (cell, level) in (1..).zip(&samples) {
            let said = Said::Level { cell: CellId(cell), level: *level, rounded: false };
            if !writer.entry(&Entry { at_s: at.as_secs_f64(), said })? {
                let text = "the days take more than 2 GiB: ask for fewer --days or --cells, or a longer --step";
                return Ok(Err(Failure::new(Class::Usage, text)));
            }
        }
        done += 1;
        if done.is_multiple_of(TELL_EVERY) {
            progress.at(|| format!("{} % of {} lines", done * 100 / steps.max(1), steps * samples.len() as u64));
        }
    }
    progress.end();
    writer.flush()?;
    Ok(Ok(()))
}
