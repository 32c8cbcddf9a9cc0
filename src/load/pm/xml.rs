//! What does a PM file in XML say? TS 32.435, and TS 28.532 with its other root.
//!
//! Read as a stream: what is held is one element and the result. Names of elements count without their prefix.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::time::Duration;

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

use super::figures::{Figure, Figures};
use super::{BadFile, Counted, XML_BYTES_MAX, form, time};
use crate::units::WallTime;

/// Deepest nesting; the format has five.
const DEPTH_MAX: usize = 16;
/// Longest tag or text between two tags, in bytes: a list of all the counters of an object is the longest.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Attributes that are looked at; no element of the format has more than six.
const ATTRIBUTES_MAX: usize = 32;
/// Most measurements of one object.
const TYPES_MAX: u32 = 10_000;

/// Where we are, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Root,
    Info,
    Types,
    Type(u32),
    Value,
    Results,
    Result(u32),
    Suspect,
    Other,
}

/// One `measInfo`.
#[derive(Debug, Default)]
struct Info {
    time: Option<(WallTime, Duration)>,
    /// The measurements that are read, by their number.
    types: BTreeMap<u32, Figure>,
}

/// One `measValue`.
#[derive(Debug, Default)]
struct Value {
    object: String,
    suspect: bool,
    figures: Figures,
}

struct Walk {
    path: Vec<At>,
    info: Info,
    value: Value,
    text: String,
    counted: Counted,
}

pub(super) fn parse(input: impl BufRead) -> Result<Counted, BadFile> {
    let piece = Cell::new(0);
    let mut reader = Reader::from_reader(Bounded { inner: input, left: XML_BYTES_MAX, piece: &piece });
    reader.config_mut().expand_empty_elements = true;
    let mut walk = Walk {
        path: Vec::new(),
        info: Info::default(),
        value: Value::default(),
        text: String::new(),
        counted: Counted::default(),
    };
    let mut buffer = Vec::new();
    let mut is_begun = false;
    loop {
        buffer.clear();
        piece.set(0);
        let event = match reader.read_event_into(&mut buffer) {
            Ok(event) => event,
            Err(quick_xml::Error::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(form(error.to_string()));
            }
            Err(quick_xml::Error::Io(error)) => return Err(io::Error::new(error.kind(), error.to_string()).into()),
            Err(error) => return Err(form(format!("byte {}: no XML: {error}", reader.error_position()))),
        };
        match event {
            Event::Start(start) | Event::Empty(start) => {
                walk.start(&start)?;
                is_begun = true;
            }
            Event::End(_) => walk.end()?,
            Event::Text(text) => walk.text(&text.into_inner())?,
            Event::CData(text) => walk.text(&text.into_inner())?,
            // One of the five: nothing that is read has one. Any other means nothing without a DTD.
            Event::GeneralRef(_) => walk.text("&")?,
            Event::DocType(_) => {
                return Err(form("it has a DTD, which no PM file needs: it may be an attack; remove it"));
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    if !walk.path.is_empty() || !is_begun {
        return Err(form(format!("it ends in the middle, {} elements deep: was it cut off?", walk.path.len())));
    }
    Ok(walk.counted)
}

impl Walk {
    fn start(&mut self, start: &BytesStart<'_>) -> Result<(), BadFile> {
        if self.path.len() == DEPTH_MAX {
            return Err(form(format!("nested deeper than {DEPTH_MAX} elements: no PM file is")));
        }
        let name = start.local_name();
        let at = match (name.as_ref(), self.path.last()) {
            ("measCollecFile" | "measDataFile", None) => At::Root,
            (other, None) => {
                return Err(form(format!(
                    "its root is {other:.60}, not measCollecFile: it is no PM file of TS 32.435"
                )));
            }
            ("measInfo", _) => {
                self.info = Info::default();
                At::Info
            }
            ("granPeriod", Some(At::Info)) => {
                self.info.time = granularity(start);
                At::Other
            }
            ("measTypes", Some(At::Info)) => At::Types,
            ("measType", Some(At::Info)) => At::Type(number(start)),
            ("measValue", Some(At::Info)) => {
                let object = attribute(start, "measObjLdn").unwrap_or_default();
                self.value = Value { object, ..Value::default() };
                At::Value
            }
            ("measResults", Some(At::Value)) => At::Results,
            ("r", Some(At::Value)) => At::Result(number(start)),
            ("suspect", Some(At::Value)) => At::Suspect,
            _ => At::Other,
        };
        self.text.clear();
        self.path.push(at);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), BadFile> {
        match self.path.last() {
            Some(At::Types | At::Type(_) | At::Results | At::Result(_) | At::Suspect) => {
                if self.text.len() + text.len() > PIECE_BYTES_MAX {
                    return Err(form(format!("a text of more than {PIECE_BYTES_MAX} bytes: no PM file has one")));
                }
                self.text.push_str(text);
                Ok(())
            }
            Some(At::Root | At::Info | At::Value | At::Other) | None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), BadFile> {
        // The reader has refused an end without its begin.
        let text = std::mem::take(&mut self.text);
        match self.path.pop() {
            Some(At::Types) => {
                for (place, name) in (1..=TYPES_MAX).zip(text.split_ascii_whitespace()) {
                    self.name(place, name);
                }
            }
            Some(At::Type(place)) => self.name(place, text.trim()),
            Some(At::Results) => {
                for (place, value) in (1..=TYPES_MAX).zip(text.split_ascii_whitespace()) {
                    self.result(place, value);
                }
            }
            Some(At::Result(place)) => self.result(place, &text),
            Some(At::Suspect) => self.value.suspect |= !matches!(text.trim(), "false" | "0"),
            Some(At::Value) => {
                let Value { object, suspect, figures } = std::mem::take(&mut self.value);
                self.counted.take(&object, self.info.time, suspect, &figures)?;
            }
            Some(At::Root | At::Info | At::Other) | None => {}
        }
        Ok(())
    }

    fn name(&mut self, place: u32, name: &str) {
        if let Some(figure) = Figure::named(name) {
            self.info.types.insert(place, figure);
        }
    }

    fn result(&mut self, place: u32, value: &str) {
        if let Some(figure) = self.info.types.get(&place) {
            self.value.figures.take(*figure, value);
        }
    }
}

/// `<granPeriod duration="PT900S" endTime="2026-11-22T01:15:00+01:00"/>`: the end of the period, and its length.
fn granularity(start: &BytesStart<'_>) -> Option<(WallTime, Duration)> {
    let end = WallTime::parse(&attribute(start, "endTime")?).ok()?;
    time(end, duration(&attribute(start, "duration")?)?)
}

/// The number of a measurement, `p="3"`; 0, which none has, when it is none.
fn number(start: &BytesStart<'_>) -> u32 {
    attribute(start, "p").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn attribute(start: &BytesStart<'_>, name: &str) -> Option<String> {
    let mut attributes = start.attributes();
    // The check for names that occur twice takes as long as the square of their number.
    let mut found = attributes.with_checks(false).take(ATTRIBUTES_MAX).filter_map(Result::ok);
    let found = found.find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(unescape(&found.value).map_or_else(|_| found.value.to_string(), |text| text.into_owned()))
}

/// `PT900S`, `PT15M`, `P0DT0H15M0S`: days, hours, minutes and seconds, whole numbers.
fn duration(text: &str) -> Option<Duration> {
    let (mut seconds, mut number, mut in_time) = (0_u64, String::new(), false);
    for c in text.strip_prefix('P')?.chars() {
        let unit = match (c, in_time) {
            ('T', false) if number.is_empty() => {
                in_time = true;
                continue;
            }
            ('0'..='9', _) if number.len() < 9 => {
                number.push(c);
                continue;
            }
            // Years and months have no fixed length; none of them is what other producers write.
            ('Y' | 'M', false) => 0,
            ('D', false) => 86_400,
            ('H', true) => 3_600,
            ('M', true) => 60,
            ('S', true) => 1,
            _ => return None,
        };
        let count: u64 = std::mem::take(&mut number).parse().ok()?;
        if unit == 0 && count > 0 {
            return None;
        }
        seconds += count * unit;
    }
    number.is_empty().then(|| Duration::from_secs(seconds))
}

/// Ends what is too long: the file, and each piece of it that the reader would have to hold.
struct Bounded<'a, R> {
    inner: R,
    left: u64,
    piece: &'a Cell<usize>,
}

impl<R: BufRead> Read for Bounded<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let filled = self.fill_buf()?;
        let length = filled.len().min(into.len());
        into[..length].copy_from_slice(&filled[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Bounded<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let too_long = |text: String| Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        if self.left == 0 {
            return too_long(format!("more than {XML_BYTES_MAX} bytes: split the file by time"));
        }
        if self.piece.get() > PIECE_BYTES_MAX {
            return too_long(format!("a tag or text of more than {PIECE_BYTES_MAX} bytes: no PM file has one"));
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let filled = self.inner.fill_buf()?;
        Ok(&filled[..filled.len().min(left).min(PIECE_BYTES_MAX)])
    }

    fn consume(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count as u64);
        self.piece.set(self.piece.get().saturating_add(count));
        self.inner.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_fixed_length_are_read() {
        let s = Duration::from_secs;
        for (text, expected) in [
            ("PT900S", Some(s(900))),
            ("PT15M", Some(s(900))),
            ("P0Y0M0DT0H15M0S", Some(s(900))),
            ("P1DT1H", Some(s(90_000))),
            ("PT1H30M", Some(s(5_400))),
            ("P", Some(s(0))),
            ("P1M", None),
            ("PT", Some(s(0))),
            ("900", None),
            ("PT900", None),
            ("PT1.5S", None),
            ("P15M", None),
            ("PT-1S", None),
            ("PT9999999999S", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
