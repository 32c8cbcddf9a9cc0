//! What do the measurement files of a base station say about its load? `neap pm`, and a recording made of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::failure::{Class, Failure};
use super::out::{Out, Tone, clean};
use crate::load::pm::{self, BadFile, Counted, LeftOut};
use crate::load::trace::LINES_MAX;
use crate::units::{Utilization, WallTime};

/// Most files at once: three months of a file each quarter of an hour.
const FILES_MAX: usize = 10_000;
/// Longest name that is shown, in characters.
const NAME_CHARS_MAX: usize = 60;

/// Arguments of `neap pm`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap pm A20261122.0100+0100-0115+0100_gnb-17.xml
  neap pm --object NRCellDU=1 pm/*.xml
  neap pm --to day.csv pm/*.xml              a recording for a source of kind trace and for neap replay
  neap pm --json event.json

Reads XML of 3GPP TS 32.435 and JSON of TS 28.532: RRU.PrbTotDl and RRU.PrbTotUl, or used and available PRBs. Of all
measured objects the highest counts for each time, unless --object says which.")]
pub(super) struct Args {
    /// Files, in any order
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only measured objects whose name holds this text, e.g. NRCellDU=1
    #[arg(long, value_name = "TEXT")]
    object: Option<String>,
    /// Write a recording of the highest levels to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Levels by their time.
type Levels = BTreeMap<(WallTime, Duration), Utilization>;

/// Of all files together.
#[derive(Debug, Default)]
struct Sum {
    objects: BTreeMap<String, u64>,
    levels: Levels,
    left_out: LeftOut,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.files.len() > FILES_MAX {
        let text = format!("{} files, at most {FILES_MAX} at once: take them in parts", args.files.len());
        return Err(Failure::new(Class::Usage, text));
    }
    let mut sum = Sum::default();
    for file in &args.files {
        sum.add(&read(file)?, args.object.as_deref());
    }
    if let Some(to) = &args.to {
        write(to, &sum.levels)?;
    }
    let out = Out::stdout();
    if args.json { out.json(&sum.json(args.files.len())) } else { sum.tell(&out, args) }
}

fn read(path: &Path) -> Result<Counted, Failure> {
    let failed = |error: BadFile| {
        let class = match &error {
            BadFile::Io(_) => Class::Io,
            BadFile::Form(_) => Class::Data,
        };
        Failure::new(class, format!("{}: {error}", path.display()))
    };
    let file = File::open(path).map_err(|error| failed(error.into()))?;
    pm::parse(BufReader::new(file)).map_err(failed)
}

/// Writes `seconds,percent` from the first time on.
fn write(path: &Path, levels: &Levels) -> Result<(), Failure> {
    let Some(((first, _), _)) = levels.first_key_value() else {
        return Err(Failure::new(Class::Data, "no level was found: there is nothing to record"));
    };
    if levels.len() > LINES_MAX {
        let text = format!("{} levels, and a recording has at most {LINES_MAX} lines: take fewer files", levels.len());
        return Err(Failure::new(Class::Data, text));
    }
    let mut text = "seconds,percent\n".to_owned();
    for ((from, _), level) in levels {
        let permille = level.permille();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{},{}.{}", from.since(*first).as_secs(), permille / 10, permille % 10);
    }
    let made = File::options().write(true).create_new(true).open(path);
    let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::io(&format!("cannot write the recording {}", path.display()), &error))
}

impl Sum {
    fn add(&mut self, counted: &Counted, object: Option<&str>) {
        for level in &counted.levels {
            let name = counted.objects.get(level.object).map_or("", String::as_str);
            if object.is_none_or(|object| name.contains(object)) {
                *self.objects.entry(name.to_owned()).or_default() += 1;
            }
        }
        for (from, span, level) in counted.highest(object) {
            let known = self.levels.entry((from, span)).or_insert(level);
            *known = (*known).max(level);
        }
        let LeftOut { suspect, absurd, untimed } = counted.left_out;
        self.left_out.suspect += suspect;
        self.left_out.absurd += absurd;
        self.left_out.untimed += untimed;
    }

    /// First and last moment, and the highest level.
    fn bounds(&self) -> Option<(WallTime, WallTime, Utilization)> {
        let ((first, _), _) = self.levels.first_key_value()?;
        let last = self.levels.keys().map(|(from, span)| from.after(*span)).max()?;
        Some((*first, last, self.levels.values().copied().max()?))
    }

    fn json(&self, files: usize) -> serde_json::Value {
        let bounds = self.bounds();
        let level = |((from, span), level): (&(WallTime, Duration), &Utilization)| json!({"from": from.to_string(), "seconds": span.as_secs(), "permille": level.permille()});
        let levels: Vec<_> = self.levels.iter().map(level).collect();
        json!({
            "files": files,
            "from": bounds.map(|(first, _, _)| first.to_string()),
            "to": bounds.map(|(_, last, _)| last.to_string()),
            "objects": self.objects,
            "levels": levels,
            "left_out": {
                "suspect": self.left_out.suspect, "absurd": self.left_out.absurd, "untimed": self.left_out.untimed,
            },
        })
    }

    fn tell(&self, out: &Out, args: &Args) -> Result<(), Failure> {
        let LeftOut { suspect, absurd, untimed } = self.left_out;
        if let Some((first, last, highest)) = self.bounds() {
            let row = |(name, count): (&String, &u64)| vec![clean(name, NAME_CHARS_MAX), count.to_string()];
            out.table(&["measured object", "levels"], &self.objects.iter().map(row).collect::<Vec<_>>())?;
            let permille = highest.permille();
            out.line(&format!(
                "\n{} times from {first} to {last}; highest {}.{} %",
                self.levels.len(),
                permille / 10,
                permille % 10
            ))?;
        } else {
            out.line(
                &out.paint(Tone::Warn, "no level was found: do the files hold RRU.PrbTotDl, and --object its name?"),
            )?;
        }
        if suspect + absurd + untimed > 0 {
            out.line(&format!("left out: {suspect} suspect, {absurd} absurd, {untimed} without a time"))?;
        }
        args.to.as_ref().map_or(Ok(()), |to| out.line(&format!("recording: {}", to.display())))
    }
}
