//! Is a text what Prometheus takes? A strict reader of its text format 0.0.4, by the format's own rules.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A family and its labels.
type Series = (String, BTreeMap<String, String>);

/// A whole text: samples, and the type of each family.
#[derive(Debug, Default)]
pub struct Text {
    pub samples: Vec<Sample>,
    pub types: BTreeMap<String, String>,
}

fn is_name(text: &str, colon: bool) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    !text.is_empty() && text.chars().all(legal) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Reads the text, or says what is wrong with it.
pub fn read(text: &str) -> Result<Text, String> {
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut read = Text::default();
    let mut helps = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut family = String::new();
    for line in text.lines() {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else { return wrong("no help") };
            if !is_name(name, true) || help.trim().is_empty() || !helps.insert(name.to_owned()) {
                return wrong("bad or second HELP");
            }
            family = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
            let known = ["counter", "gauge", "histogram", "summary"].contains(&kind);
            if name != family || !known || read.types.insert(name.to_owned(), kind.to_owned()).is_some() {
                return wrong("TYPE does not follow its HELP, or is unknown, or came twice");
            }
        } else {
            let sample = sample(line)?;
            let kind = read.types.get(&family).ok_or_else(|| format!("a sample before any TYPE: {line}"))?;
            let suffixes: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["", "_sum", "_count"],
                _ => &[""],
            };
            if !suffixes.iter().any(|suffix| sample.name == format!("{family}{suffix}")) {
                return wrong("a sample that is not of the family before it");
            }
            if kind == "counter" && !family.ends_with("_total") {
                return wrong("a counter without _total");
            }
            if !seen.insert((sample.name.clone(), sample.labels.clone())) {
                return wrong("the same sample twice");
            }
            read.samples.push(sample);
        }
    }
    read.types.keys().filter(|name| !helps.contains(*name)).try_for_each(|name| Err(format!("no HELP: {name}")))?;
    Ok(read)
}

fn sample(line: &str) -> Result<Sample, String> {
    let wrong = |why: &str| format!("{why}: {line}");
    let end = line.find(['{', ' ']).ok_or_else(|| wrong("no value"))?;
    let name = &line[..end];
    let mut labels = BTreeMap::new();
    let mut rest = &line[end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or_else(|| wrong("a label without a value"))?;
            let (value, after) = quoted(after).ok_or_else(|| wrong("a value without an end"))?;
            if !is_name(label, false) || labels.insert(label.to_owned(), value).is_some() {
                return Err(wrong("a bad label, or one that came twice"));
            }
            rest = match after.strip_prefix(',') {
                Some(more) => more,
                None => {
                    rest = after.strip_prefix('}').ok_or_else(|| wrong("labels without an end"))?;
                    break;
                }
            };
        }
    }
    let value = rest.strip_prefix(' ').ok_or_else(|| wrong("no space before the value"))?;
    let value: f64 = value.parse().map_err(|_| wrong("a value that is no number"))?;
    if !is_name(name, true) || !value.is_finite() || value < 0.0 {
        return Err(wrong("a bad name or value"));
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

impl Text {
    /// The value of the one sample with that name and these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|known| known == value))
        };
        let found: Vec<f64> = self.samples.iter().filter(wanted).map(|sample| sample.value).collect();
        assert!(found.len() <= 1, "{name} {labels:?} is not one sample: {found:?}");
        found.first().copied()
    }

    /// Every histogram has cumulative buckets that rise with their bounds, and `+Inf` is the count.
    pub fn check_histograms(&self) -> Result<usize, String> {
        let mut buckets: BTreeMap<Series, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in &self.samples {
            let Some(family) = sample.name.strip_suffix("_bucket") else { continue };
            let mut labels = sample.labels.clone();
            let le = labels.remove("le").ok_or_else(|| format!("a bucket without le: {sample:?}"))?;
            let le = if le == "+Inf" { f64::INFINITY } else { le.parse().map_err(|_| format!("le = {le}"))? };
            buckets.entry((family.to_owned(), labels)).or_default().push((le, sample.value));
        }
        for ((family, labels), list) in &buckets {
            let rising = list.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let count = self.value(&format!("{family}_count"), &labels);
            let sum = self.value(&format!("{family}_sum"), &labels);
            let last = list.last().copied();
            if !rising
                || last.map(|(le, _)| le) != Some(f64::INFINITY)
                || last.map(|(_, n)| n) != count
                || sum.is_none()
            {
                return Err(format!("{family} {labels:?}: {list:?}, count {count:?}, sum {sum:?}"));
            }
        }
        Ok(buckets.len())
    }
}
