//! From text to a checked manifest: every fault says where it is, what stands there and what is allowed.

mod interpret;
mod prepare;

use std::ops::Range;
use std::path::{Component, Path};

use toml::Spanned;

use super::raw::{RawGolden, RawManifest, RawPort};
use super::{GOLDENS_MAX, Golden, MANIFEST_TOML_BYTES_MAX, Manifest, PORTS_MAX, Port, Tolerance, inputs};
use crate::fault::plain;
use crate::tensor::DataType;
use crate::units::{ELEMENTS_MAX, FAULT_TEXT_BYTES_MAX, RANK_MAX, WallTime};

/// Longest text of one field, in characters.
const TEXT_CHARS_MAX: usize = 2000;
/// Longest path of a file beside the manifest, in bytes.
const PATH_BYTES_MAX: usize = 200;
/// Longest key that an error repeats, in bytes.
const KEY_BYTES_MAX: usize = 200;

/// Where a manifest is wrong, and how. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {key}: {problem}")]
pub struct ManifestError {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
    /// Key, with the tables it stands in.
    pub key: String,
    /// The value and what is allowed.
    pub problem: String,
}

/// Reads the text of a `model.toml`.
///
/// # Errors
/// At the first key that is unknown, missing, of the wrong type or out of range, or that does not fit another.
pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
    let at = At { text };
    if text.len() > MANIFEST_TOML_BYTES_MAX {
        let problem = format!("{} bytes are too many, at most {MANIFEST_TOML_BYTES_MAX} are allowed", text.len());
        return Err(at.bad(&(0..0), problem));
    }
    let raw: RawManifest = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let bad = at.bad(&span, error.message());
        // What is missing at the top is missing everywhere, not at the key that happens to come first.
        let everywhere = span.start == 0 && error.message().starts_with("missing");
        if everywhere { ManifestError { key: "model.toml".to_owned(), ..bad } } else { bad }
    })?;
    let inputs = ports(&at, &raw.inputs, true)?;
    let outputs = ports(&at, &raw.outputs, false)?;
    let labels = raw.labels.as_ref().map(|labels| file(&at, labels)).transpose()?;
    let prepare = raw.prepare.as_ref().map(|raw| prepare::check(&at, raw, &inputs)).transpose()?;
    let heard = interpret::Context { outputs: &outputs, prepare: prepare.as_ref(), labelled: labels.is_some() };
    let interpret = raw.interpret.as_ref().map(|raw| interpret::check(&at, raw, &heard)).transpose()?;
    if raw.golden.len() > GOLDENS_MAX {
        let problem = format!("{} golden cases are too many, at most {GOLDENS_MAX} are allowed", raw.golden.len());
        return Err(at.bad(&raw.golden[GOLDENS_MAX].span(), problem));
    }
    let goldens = raw.golden.iter().map(|raw| golden(&at, raw)).collect::<Result<_, _>>()?;
    Ok(Manifest {
        name: at.parsed(&raw.name)?,
        version: at.within(&raw.version, 1, u32::MAX)?,
        summary: prose(&at, &raw.summary)?,
        licence: prose(&at, &raw.licence)?,
        source: prose(&at, &raw.source)?,
        file: file(&at, &raw.file)?,
        digest: at.parsed(&raw.digest)?,
        inputs,
        outputs,
        prepare,
        interpret,
        labels,
        expires: raw.expires.as_ref().map(|raw| moment(&at, raw)).transpose()?,
        goldens,
    })
}

/// The text, for places in it.
struct At<'a> {
    text: &'a str,
}

impl At<'_> {
    fn bad(&self, span: &Range<usize>, problem: impl Into<String>) -> ManifestError {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ManifestError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: plain(&self.key(line_start), KEY_BYTES_MAX),
            problem: plain(&problem.into(), FAULT_TEXT_BYTES_MAX),
        }
    }

    /// The key that the line sets, behind the table it stands in.
    fn key(&self, line_start: usize) -> String {
        let line = self.text[line_start..].lines().next().unwrap_or_default().trim();
        if line.starts_with('[') {
            return table(line).to_owned();
        }
        let header = self.text[..line_start].lines().rev().map(str::trim).find(|line| line.starts_with('['));
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        match (header.map(table), key) {
            (None, "") => "model.toml".to_owned(),
            (None, key) => key.to_owned(),
            (Some(table), "") => table.to_owned(),
            (Some(table), key) => format!("{table}.{key}"),
        }
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, raw: &Spanned<String>) -> Result<T, ManifestError> {
        raw.get_ref().parse().map_err(|error: T::Err| self.bad(&raw.span(), error.to_string()))
    }

    fn within<T: PartialOrd + Copy + std::fmt::Display>(
        &self,
        raw: &Spanned<T>,
        least: T,
        most: T,
    ) -> Result<T, ManifestError> {
        let value = *raw.get_ref();
        // Not a number is not within anything.
        if value >= least && value <= most {
            return Ok(value);
        }
        Err(self.bad(&raw.span(), format!("{value} is not allowed, it must be {least} to {most}")))
    }
}

/// The name in `[name]` or `[[name]]`.
fn table(header: &str) -> &str {
    header.trim_start_matches('[').split(']').next().unwrap_or_default()
}

fn prose(at: &At<'_>, raw: &Spanned<String>) -> Result<String, ManifestError> {
    let text = raw.get_ref();
    let chars = text.chars().count();
    if text.trim().is_empty() || chars > TEXT_CHARS_MAX || text.chars().any(char::is_control) {
        let rule = format!("{chars} characters; 1 to {TEXT_CHARS_MAX} on one line are allowed, not only blanks");
        return Err(at.bad(&raw.span(), rule));
    }
    Ok(text.clone())
}

/// A moment with its offset from UTC.
fn moment(at: &At<'_>, raw: &Spanned<String>) -> Result<WallTime, ManifestError> {
    let text = raw.get_ref();
    let read = text.parse::<jiff::Timestamp>().map_err(|_| {
        at.bad(&raw.span(), format!("{text:?} is not allowed, it must be a moment like \"2027-06-30T00:00:00Z\""))
    })?;
    Ok(WallTime::from_millis(read.as_millisecond()))
}

/// A path that cannot leave the model's folder, as far as its text tells (links are the library's to check).
fn file(at: &At<'_>, raw: &Spanned<String>) -> Result<String, ManifestError> {
    let path = raw.get_ref();
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let clean = !path.contains('\\') && !path.chars().any(char::is_control);
    if path.is_empty() || path.len() > PATH_BYTES_MAX || !normal || !clean {
        let rule = format!(
            "{path:?} is not allowed: a file beside the manifest, relative, without . or .. parts or \\, \
             at most {PATH_BYTES_MAX} bytes"
        );
        return Err(at.bad(&raw.span(), rule));
    }
    Ok(path.clone())
}

fn ports(at: &At<'_>, raw: &Spanned<Vec<RawPort>>, defaults: bool) -> Result<Vec<Port>, ManifestError> {
    let count = raw.get_ref().len();
    if !(1..=PORTS_MAX).contains(&count) {
        return Err(at.bad(&raw.span(), format!("{count} are given, 1 to {PORTS_MAX} are allowed")));
    }
    let mut ports: Vec<Port> = Vec::with_capacity(count);
    for raw in raw.get_ref() {
        let port = port(at, raw, defaults)?;
        if ports.iter().any(|earlier| earlier.name == port.name) {
            return Err(at.bad(&raw.name.span(), format!("{:?} is given twice", port.name)));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn port(at: &At<'_>, raw: &RawPort, defaults: bool) -> Result<Port, ManifestError> {
    let name = prose(at, &raw.name)?;
    let datatype = raw.datatype.get_ref();
    let datatype = DataType::parse(datatype).filter(|kind| *kind != DataType::Bytes).ok_or_else(|| {
        let allowed: Vec<&str> =
            DataType::ALL.into_iter().filter(|kind| *kind != DataType::Bytes).map(DataType::as_str).collect();
        at.bad(&raw.datatype.span(), format!("{datatype:?} is not allowed, it must be one of {}", allowed.join(", ")))
    })?;
    let shape = shape(at, &raw.shape)?;
    let Some(default) = &raw.default else {
        return Ok(Port { name, datatype, shape, default: None });
    };
    if !defaults {
        return Err(at.bad(&default.span(), "only inputs have defaults"));
    }
    if shape.contains(&None) {
        return Err(at.bad(&default.span(), "a default needs a fixed shape, without -1"));
    }
    let value = *default.get_ref();
    if inputs::element(datatype, value).is_none() {
        return Err(at.bad(&default.span(), format!("{value} is not a value of {datatype}")));
    }
    Ok(Port { name, datatype, shape, default: Some(value) })
}

fn shape(at: &At<'_>, raw: &Spanned<Vec<i64>>) -> Result<Vec<Option<usize>>, ManifestError> {
    let sides = raw.get_ref();
    if sides.len() > RANK_MAX {
        let problem = format!("{} dimensions are too many, at most {RANK_MAX} are allowed", sides.len());
        return Err(at.bad(&raw.span(), problem));
    }
    let mut product = 1_usize;
    let mut shape = Vec::with_capacity(sides.len());
    for side in sides {
        let fixed = usize::try_from(*side).ok().filter(|side| (1..=ELEMENTS_MAX).contains(side));
        if fixed.is_none() && *side != -1 {
            let problem = format!("dimension {side} is not allowed, it must be 1 to {ELEMENTS_MAX}, or -1 for any");
            return Err(at.bad(&raw.span(), problem));
        }
        product = product.saturating_mul(fixed.unwrap_or(1));
        shape.push(fixed);
    }
    if product > ELEMENTS_MAX {
        return Err(at.bad(&raw.span(), format!("{sides:?} is more than {ELEMENTS_MAX} elements")));
    }
    Ok(shape)
}

fn golden(at: &At<'_>, raw: &Spanned<RawGolden>) -> Result<Golden, ManifestError> {
    let raw = raw.get_ref();
    let mut tolerance = Tolerance { absolute: 0.0, relative: 1e-3, overlap_min: 0.9 };
    if let Some(given) = &raw.tolerance {
        let span = given.span();
        let given = given.get_ref();
        tolerance.absolute = given.absolute.unwrap_or(tolerance.absolute);
        tolerance.relative = given.relative.unwrap_or(tolerance.relative);
        tolerance.overlap_min = given.overlap_min.unwrap_or(tolerance.overlap_min);
        let legal = tolerance.absolute.is_finite()
            && tolerance.absolute >= 0.0
            && (0.0..=1.0).contains(&tolerance.relative)
            && (0.0..=1.0).contains(&tolerance.overlap_min);
        if !legal {
            return Err(at.bad(&span, "absolute must be 0 or more, relative and overlap_min 0 to 1"));
        }
    }
    Ok(Golden { input: file(at, &raw.input)?, output: file(at, &raw.output)?, interpret: raw.interpret, tolerance })
}
