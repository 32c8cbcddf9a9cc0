//! Which jobs come? A mix of streams, built in or read from lines of JSON. Pure.

use std::time::Duration;

use serde::Deserialize;

use super::Clock;
use crate::fault::plain;
use crate::units::{ITEMS_MAX, Instant, Name};

/// Most streams of a mix.
pub const STREAMS_MAX: usize = 64;
/// Longest time in a mix: a month.
const SECONDS_MAX: f64 = 31.0 * 86_400.0;
/// Longest reason that is repeated from the reader of JSON, in bytes.
const WHY_BYTES_MAX: usize = 200;

/// Jobs of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// What they run.
    pub model: Name,
    /// Items of a job.
    pub items: u32,
    /// Core time of an item; above zero.
    pub item: Duration,
    /// Core time to load the model, once an attempt.
    pub load: Duration,
    /// Time of the day of the first.
    pub first: Duration,
    /// Time between two of them; `None`: only one.
    pub every: Option<Duration>,
    /// Time from its coming to its deadline.
    pub deadline: Option<Duration>,
    /// 0 to 9; higher goes first.
    pub priority: u8,
}

impl Stream {
    /// When the first one comes at or after `began`.
    pub(super) fn first_from(&self, began: Instant, clock: Clock) -> Instant {
        let day = Duration::from_secs(86_400);
        let now = clock.since_midnight(began);
        let turn = self.every.map_or(day, |every| every.min(day)).as_nanos().max(1);
        let (now, first) = (now.as_nanos(), self.first.as_nanos());
        let wait = (first % turn + turn - now % turn) % turn;
        began.after(Duration::from_nanos(u64::try_from(wait).unwrap_or(0)))
    }

    /// Items that are done after so much core time of an attempt.
    pub(super) fn items_in(&self, had: Duration) -> u32 {
        let items = had.saturating_sub(self.load).as_nanos() / self.item.as_nanos().max(1);
        u32::try_from(items).unwrap_or(u32::MAX)
    }
}

/// The built-in mix. Its costs are those of the bundled models on one x86-64 core, as `docs/SPECIFICATION.md` states
/// them: detectors over the pictures of the last half hour or hour with a deadline, small models on counters every
/// quarter of an hour, speech once an hour, and a large batch at night that is due in the morning.
pub fn built_in() -> Vec<Stream> {
    let minutes = |count: u64| Duration::from_secs(count * 60);
    let micros = Duration::from_micros;
    let stream = |model: &str, items, item_us, load_us, every, deadline, priority| {
        model.parse().ok().map(|model| Stream {
            model,
            items,
            item: micros(item_us),
            load: micros(load_us),
            first: Duration::ZERO,
            every: Some(every),
            deadline: Some(deadline),
            priority,
        })
    };
    let streams = [
        stream("prb-forecast", 96, 30, 4_300, minutes(15), minutes(15), 8),
        stream("kpi-anomaly", 960, 9, 2_300, minutes(15), minutes(15), 8),
        stream("objects", 600, 49_000, 190_000, minutes(30), minutes(60), 6),
        stream("faces", 1_000, 81_000, 223_000, minutes(60), minutes(240), 5),
        stream("speech", 5_000, 7_400, 10_000, minutes(60), minutes(120), 5),
        stream("file-type", 10_000, 7_200, 18_000, minutes(720), minutes(720), 2),
    ];
    let nightly = (0..8_u64).filter_map(|index| {
        let night = stream("objects", 10_000, 49_000, 190_000, minutes(1_440), minutes(660), 1)?;
        Some(Stream { first: minutes(20 * 60 + index), ..night })
    });
    streams.into_iter().flatten().chain(nightly).collect()
}

/// Reads a mix: one object a line, empty lines aside.
///
/// # Errors
/// The line, from 1, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Stream>, (usize, String)> {
    let mut streams = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        if streams.len() == STREAMS_MAX {
            return Err((number, format!("more than {STREAMS_MAX} streams of jobs: join those that are alike")));
        }
        streams.push(stream(line).map_err(|why| (number, why))?);
    }
    Ok(streams)
}

fn stream(line: &str) -> Result<Stream, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        model: String,
        items: u32,
        item_ms: f64,
        #[serde(default)]
        load_ms: f64,
        #[serde(default)]
        at_s: f64,
        every_s: Option<f64>,
        deadline_s: Option<f64>,
        #[serde(default = "usual_priority")]
        priority: u8,
    }
    const fn usual_priority() -> u8 {
        5
    }
    let raw: Raw = serde_json::from_str(line).map_err(|error| {
        format!(
            "not a stream of jobs such as {{\"model\":\"objects\",\"items\":600,\"item_ms\":49,\"every_s\":1800,\
                 \"deadline_s\":3600}}: {}",
            plain(&error.to_string(), WHY_BYTES_MAX)
        )
    })?;
    let seconds = |key: &str, value: f64, min: f64| match (min..=SECONDS_MAX).contains(&value) {
        true => Ok(Duration::from_secs_f64(value)),
        false => Err(format!("{key} {value} is not {min} to {SECONDS_MAX}")),
    };
    if raw.items == 0 || usize::try_from(raw.items).is_ok_and(|items| items > ITEMS_MAX) {
        return Err(format!("items {} is not 1 to {ITEMS_MAX}", raw.items));
    }
    if raw.priority > 9 {
        return Err(format!("priority {} is not 0 to 9", raw.priority));
    }
    Ok(Stream {
        model: raw.model.parse().map_err(|bad: crate::units::BadName| bad.to_string())?,
        items: raw.items,
        item: seconds("item_ms / 1000", raw.item_ms / 1000.0, 1e-6)?,
        load: seconds("load_ms / 1000", raw.load_ms / 1000.0, 0.0)?,
        first: seconds("at_s", raw.at_s, 0.0)?,
        every: raw.every_s.map(|every| seconds("every_s", every, 1.0)).transpose()?,
        deadline: raw.deadline_s.map(|deadline| seconds("deadline_s", deadline, 1.0)).transpose()?,
        priority: raw.priority,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_one_object_a_line_and_bad_lines_are_named() {
        let good = "{\"model\":\"objects\",\"items\":600,\"item_ms\":49,\"load_ms\":190,\"at_s\":72000,\"every_s\":1800,\
                    \"deadline_s\":3600,\"priority\":7}\n\n{\"model\":\"m\",\"items\":1,\"item_ms\":0.5}\n";
        let streams = parse(good).unwrap();
        assert_eq!(streams.len(), 2);
        assert_eq!((streams[0].item, streams[0].priority), (Duration::from_millis(49), 7));
        assert_eq!((streams[1].every, streams[1].deadline, streams[1].priority), (None, None, 5));
        for (line, expected) in [
            ("{}", "not a stream of jobs"),
            ("{\"model\":\"m\",\"items\":0,\"item_ms\":1}", "items 0 is not 1 to 10000"),
            ("{\"model\":\"m\",\"items\":1,\"item_ms\":0}", "item_ms / 1000 0 is not"),
            ("{\"model\":\"m\",\"items\":1,\"item_ms\":1,\"every_s\":0.1}", "every_s 0.1 is not 1 to"),
            ("{\"model\":\"m\",\"items\":1,\"item_ms\":1,\"priority\":10}", "priority 10 is not 0 to 9"),
            ("{\"model\":\"M!\",\"items\":1,\"item_ms\":1}", "name \"M!\" is not allowed"),
            ("{\"model\":\"m\",\"items\":1,\"item_ms\":1,\"x\":1}", "not a stream of jobs"),
        ] {
            let (number, why) = parse(&format!("\n{line}\n")).unwrap_err();
            assert!(number == 2 && why.starts_with(expected), "{line} gave {why}");
        }
        let many = "{\"model\":\"m\",\"items\":1,\"item_ms\":1}\n".repeat(STREAMS_MAX + 1);
        assert_eq!(parse(&many).unwrap_err().0, STREAMS_MAX + 1);
    }

    #[test]
    fn the_first_job_comes_at_its_time_of_the_day_or_its_next_turn() {
        let hour = Duration::from_secs(3600);
        let nightly = Stream { first: hour * 20, ..built_in()[5].clone() };
        let at = |hours: u32| Instant::default().after(hour * hours);
        let daily = Stream { every: Some(hour * 24), ..nightly.clone() };
        assert_eq!(daily.first_from(at(0), Clock::default()), at(20));
        assert_eq!(daily.first_from(at(20), Clock::default()), at(20));
        assert_eq!(daily.first_from(at(21), Clock::default()), at(44));
        assert_eq!(daily.first_from(at(0), Clock::from_midnight(hour * 19)), at(1));
        let hourly = Stream { every: Some(hour), first: Duration::from_secs(60), ..nightly };
        assert_eq!(hourly.first_from(at(5), Clock::default()), at(5).after(Duration::from_secs(60)));
    }

    #[test]
    fn the_built_in_mix_leaves_a_core_most_of_the_day() {
        let mix = built_in();
        assert_eq!(mix.len(), 14);
        let day = 86_400.0;
        let core_seconds: f64 = mix
            .iter()
            .map(|stream| {
                let times = day / stream.every.unwrap_or(Duration::from_secs(86_400)).as_secs_f64();
                times * (stream.load + stream.item * stream.items).as_secs_f64()
            })
            .sum();
        assert!((0.05..0.3).contains(&(core_seconds / day)), "{core_seconds}");
    }
}
