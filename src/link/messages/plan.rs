//! What does a controller report about the load? `down/load`: PRB usage by cell and when it was measured.
//!
//! ```json
//! {"at":"2026-11-22T01:00:00.000Z","cells":[{"cell":1,"RRU.PrbTotDl":71,"RRU.PrbTotUl":12},{"cell":2,"gone":true}]}
//! ```
//!
//! Names and units are those of 3GPP TS 28.552: integer percent. Strict: nothing unknown, nothing twice.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{render, time};
use crate::fault::{Code, Fault};
use crate::link::json;
use crate::units::{CELLS_MAX, CellId, WallTime};

/// Largest body, in bytes.
pub const PLAN_BYTES_MAX: usize = 16 * 1024;

/// One report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// When it was measured; for a mean over a time, the end of it.
    pub at: WallTime,
    /// At least one cell, at most 64, each once.
    pub cells: Vec<PlannedCell>,
}

/// What it says of one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedCell {
    /// PCI or NCGI.
    pub cell: CellId,
    /// What.
    pub usage: PlannedUsage,
}

/// How a cell is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedUsage {
    /// PRB usage in percent, at most 100; at least one direction.
    Prb {
        /// Downlink.
        dl: Option<u8>,
        /// Uplink.
        ul: Option<u8>,
    },
    /// It is out of service.
    Gone,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(with = "time::required")]
    at: WallTime,
    cells: Vec<CellWire>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CellWire {
    cell: u64,
    #[serde(rename = "RRU.PrbTotDl", default, skip_serializing_if = "Option::is_none")]
    dl: Option<u64>,
    #[serde(rename = "RRU.PrbTotUl", default, skip_serializing_if = "Option::is_none")]
    ul: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
}

impl LoadPlan {
    /// The body.
    pub fn render(&self) -> Vec<u8> {
        let cell = |planned: &PlannedCell| {
            let cell = planned.cell.0;
            match planned.usage {
                PlannedUsage::Prb { dl, ul } => {
                    CellWire { cell, dl: dl.map(u64::from), ul: ul.map(u64::from), gone: false }
                }
                PlannedUsage::Gone => CellWire { cell, gone: true, ..CellWire::default() },
            }
        };
        render(&Wire { at: self.at, cells: self.cells.iter().map(cell).collect() })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// `job.too_large`, or `job.malformed` with what is wrong and what is allowed.
    pub fn parse(body: &[u8]) -> Result<Self, Fault> {
        const WHAT: &str = "load report";
        if body.len() > PLAN_BYTES_MAX {
            let text = format!("{WHAT}: {} bytes, at most {PLAN_BYTES_MAX}; send fewer cells at once", body.len());
            return Err(Fault::new(Code::JobTooLarge, text));
        }
        let wire: Wire = json::object(WHAT, json::text(WHAT, body)?)?;
        if wire.cells.is_empty() || wire.cells.len() > CELLS_MAX {
            let count = wire.cells.len();
            return Err(malformed(format!("{WHAT}: {count} cells, but there must be 1 to {CELLS_MAX}")));
        }
        let mut known = BTreeSet::new();
        let cells = wire.cells.iter().map(|cell| {
            if !known.insert(cell.cell) {
                return Err(malformed(format!("{WHAT}: cell {} is there twice; which one counts?", cell.cell)));
            }
            Ok(PlannedCell { cell: CellId(cell.cell), usage: cell.usage()? })
        });
        Ok(Self { at: wire.at, cells: cells.collect::<Result<_, _>>()? })
    }
}

impl CellWire {
    fn usage(&self) -> Result<PlannedUsage, Fault> {
        let percent = |key: &str, value: Option<u64>| match value.map(u8::try_from) {
            None => Ok(None),
            Some(Ok(percent)) if percent <= 100 => Ok(Some(percent)),
            Some(Ok(_) | Err(_)) => {
                let value = value.unwrap_or_default();
                Err(malformed(format!("load report: cell {}: {key} is {value}, but at most 100 percent", self.cell)))
            }
        };
        let (dl, ul) = (percent("RRU.PrbTotDl", self.dl)?, percent("RRU.PrbTotUl", self.ul)?);
        match (self.gone, dl.or(ul)) {
            (true, None) => Ok(PlannedUsage::Gone),
            (false, Some(_)) => Ok(PlannedUsage::Prb { dl, ul }),
            (true, Some(_)) => Err(malformed(format!("load report: cell {} is gone and has a load", self.cell))),
            (false, None) => {
                let text =
                    format!("load report: cell {} has neither RRU.PrbTotDl nor RRU.PrbTotUl nor gone", self.cell);
                Err(malformed(text))
            }
        }
    }
}

fn malformed(text: String) -> Fault {
    Fault::new(Code::JobMalformed, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn why(body: &str) -> String {
        LoadPlan::parse(body.as_bytes()).expect_err(body).message
    }

    #[test]
    fn a_report_reads_as_the_protocol_writes_it() {
        let body = r#"{"at":"2026-11-22T01:00:00.000Z","cells":[{"cell":1,"RRU.PrbTotDl":71,"RRU.PrbTotUl":12},{"cell":2,"gone":true}]}"#;
        let plan = LoadPlan::parse(body.as_bytes()).unwrap();
        let first = PlannedUsage::Prb { dl: Some(71), ul: Some(12) };
        assert_eq!(plan.cells.iter().map(|cell| cell.usage).collect::<Vec<_>>(), [first, PlannedUsage::Gone]);
        assert_eq!(plan.at.to_string(), "2026-11-22T01:00:00.000Z");
        assert_eq!(String::from_utf8(plan.render()).unwrap(), body);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        let at = r#""at":"2026-11-22T01:00:00Z""#;
        let with = |cells: &str| why(&format!("{{{at},\"cells\":[{cells}]}}"));
        assert!(with("").contains("1 to 64"));
        assert!(with(&vec![r#"{"cell":1,"gone":true}"#; 65].join(",")).contains("65 cells"));
        assert!(with(r#"{"cell":1,"RRU.PrbTotDl":101}"#).contains("101"));
        assert!(with(r#"{"cell":1,"RRU.PrbTotUl":300}"#).contains("300"));
        assert!(with(r#"{"cell":1}"#).contains("neither"));
        assert!(with(r#"{"cell":1,"gone":true,"RRU.PrbTotDl":1}"#).contains("gone"));
        assert!(with(r#"{"cell":1,"gone":true},{"cell":1,"RRU.PrbTotDl":1}"#).contains("twice"));
        assert!(with(r#"{"cell":1,"RRU.PrbTotDl":1,"late":3}"#).contains("late"), "a counter is not for planning");
        for bad in [r#""6""#, "-1", "6.5", "null,\"x\":1", "[6]"] {
            with(&format!(r#"{{"cell":1,"RRU.PrbTotDl":{bad}}}"#));
        }
        assert!(why(r#"{"cells":[{"cell":1,"gone":true}]}"#).contains("at"), "a report without its time is none");
        assert!(why(r#"{"at":1764000000,"cells":[{"cell":1,"gone":true}]}"#).contains("at"));
        assert_eq!(LoadPlan::parse(&vec![b' '; PLAN_BYTES_MAX + 1]).unwrap_err().code, Code::JobTooLarge);
        why("");
        why("[]");
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(
            ms in 0..4_000_000_000_000_i64,
            cells in proptest::collection::btree_map(any::<u64>(), (0..=100_u8, proptest::option::of(0..=100_u8)), 1..=64),
        ) {
            let cell = |(cell, (dl, ul)): (u64, (u8, Option<u8>))| {
                let usage = if dl == 7 { PlannedUsage::Gone } else { PlannedUsage::Prb { dl: Some(dl), ul } };
                PlannedCell { cell: CellId(cell), usage }
            };
            let plan = LoadPlan { at: WallTime::from_millis(ms), cells: cells.into_iter().map(cell).collect() };
            let body = plan.render();
            prop_assert!(body.len() <= PLAN_BYTES_MAX, "{} bytes", body.len());
            prop_assert_eq!(LoadPlan::parse(&body), Ok(plan));
        }

        #[test]
        fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = LoadPlan::parse(&body);
        }
    }
}
