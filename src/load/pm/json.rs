//! What does a PM file in JSON say? Performance events of TS 28.532, as VES collectors keep them.
//!
//! Lenient about what is beside: only these members are looked at, below `event` or without it.
//! `commonEventHeader`: `startEpochMicrosec`, `lastEpochMicrosec`. `perf3gppFields.measDataCollection`:
//! `granularityPeriod` (seconds), `measInfoList[]` with `measTypes.sMeasTypesList[]` and `measValuesList[]` of
//! `measObjInstId`, `suspectFlag`, `measResults[]` of `p` and `sValue`, `iValue` or `rValue`. The time ends at
//! `lastEpochMicrosec`; its length is `granularityPeriod`, else what is between the two stamps.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::figures::{Figure, Figures};
use super::{BadFile, Counted, form, time};
use crate::units::WallTime;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outer {
    event: Option<Event>,
    common_event_header: Option<Header>,
    #[serde(rename = "perf3gppFields")]
    fields: Option<Fields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    common_event_header: Option<Header>,
    #[serde(rename = "perf3gppFields")]
    fields: Option<Fields>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Header {
    start_epoch_microsec: Scalar,
    last_epoch_microsec: Scalar,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    meas_data_collection: Option<Collection>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Collection {
    granularity_period: Scalar,
    meas_info_list: Vec<Info>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Info {
    meas_types: Types,
    meas_values_list: Vec<Values>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Types {
    s_meas_types_list: Vec<String>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Values {
    meas_obj_inst_id: Scalar,
    suspect_flag: Scalar,
    meas_results: Vec<Answer>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Answer {
    p: Scalar,
    s_value: Scalar,
    i_value: Scalar,
    r_value: Scalar,
}

/// A text, a number or a flag as text; empty for null and whatever else.
#[derive(Default)]
struct Scalar(String);

pub(super) fn parse(text: &[u8]) -> Result<Counted, BadFile> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let many = text.trim_ascii_start().starts_with(b"[");
    let read = if many { serde_json::from_slice(text) } else { serde_json::from_slice(text).map(|outer| vec![outer]) };
    let outers: Vec<Outer> = read.map_err(|error| form(format!("no JSON of TS 28.532: {error}")))?;
    let mut counted = Counted::default();
    let mut is_pm = false;
    for outer in outers {
        let (header, fields) = match outer.event {
            Some(event) => (event.common_event_header, event.fields),
            None => (outer.common_event_header, outer.fields),
        };
        if let Some(collection) = fields.and_then(|fields| fields.meas_data_collection) {
            is_pm = true;
            take(&mut counted, &header.unwrap_or_default(), &collection)?;
        }
    }
    if is_pm {
        Ok(counted)
    } else {
        Err(form("no perf3gppFields.measDataCollection in it: it is no PM file of TS 28.532"))
    }
}

fn take(counted: &mut Counted, header: &Header, collection: &Collection) -> Result<(), BadFile> {
    let period = period(header, collection);
    for info in &collection.meas_info_list {
        let types = (1_u64..).zip(&info.meas_types.s_meas_types_list);
        let types: BTreeMap<u64, Figure> =
            types.filter_map(|(place, name)| Some((place, Figure::named(name)?))).collect();
        for values in &info.meas_values_list {
            let mut figures = Figures::default();
            for answer in &values.meas_results {
                if let Some(figure) = answer.p.0.parse().ok().and_then(|place: u64| types.get(&place)) {
                    let said = [&answer.s_value, &answer.i_value, &answer.r_value];
                    figures
                        .take(*figure, said.into_iter().find(|value| !value.0.is_empty()).map_or("", |value| &value.0));
                }
            }
            let suspect = !matches!(values.suspect_flag.0.as_str(), "" | "false" | "0");
            counted.take(&values.meas_obj_inst_id.0, period, suspect, &figures)?;
        }
    }
    Ok(())
}

fn period(header: &Header, collection: &Collection) -> Option<(WallTime, Duration)> {
    let millis = |stamp: &Scalar| stamp.0.parse::<i64>().ok().map(|micros| micros / 1000);
    let end = millis(&header.last_epoch_microsec)?;
    let between = || u64::try_from(end.checked_sub(millis(&header.start_epoch_microsec)?)?).ok();
    let span = match collection.granularity_period.0.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => Duration::from_millis(between()?),
    };
    time(WallTime::from_millis(end), span)
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lenient)
    }
}

struct Lenient;

impl<'de> Visitor<'de> for Lenient {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number or a flag")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(text.trim().to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
        Ok(Scalar(flag.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::default())
    }
}
