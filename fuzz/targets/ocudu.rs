//! The JSON metrics of a gNB, a message a line.

use std::collections::BTreeMap;
use std::time::Duration;

use neap::load::ocudu::report::Reports;
use neap::load::ocudu::{Form, Scale};
use neap::load::{Metric, Observed};
use neap::units::{CellId, Instant, SourceId, Utilization};
use serde_json::value::RawValue;

use super::{bounded, is_plain};

const SOURCE: SourceId = SourceId(3);
const CORES: u32 = 2;
/// Longest sentence about a message.
const SENTENCE_BYTES_MAX: usize = 200;
/// Memory for each byte of a message: an empty cell of three bytes is a record of two hundred.
const HELD_PER_BYTE: u64 = 128;

/// The messages of a stream, one a line, a second between them; and the same as datagrams.
pub fn load_ocudu(bytes: &[u8]) {
    for form in [Form::Stream, Form::Datagrams] {
        let scale = Scale { cores: CORES, prbs: BTreeMap::from([(1, 51)]), peak_bits: Some(100e6) };
        bounded(bytes.len(), HELD_PER_BYTE, || listen(Reports::new(SOURCE, form, scale), bytes));
    }
}

fn listen(mut reports: Reports, bytes: &[u8]) {
    let mut late: BTreeMap<CellId, u64> = BTreeMap::new();
    let mut now = Instant::from_nanos(1_000);
    for line in bytes.split(|byte| *byte == b'\n') {
        now = now.after(Duration::from_millis(10));
        let said = said(line);
        let mut senseless = 0;
        let refusal = reports.on_message(now, line, &mut |observation| match observation {
            Ok(reading) => {
                assert_eq!((reading.source, reading.stamped), (SOURCE, None));
                match reading.observed {
                    Observed::Level { metric, level, .. } => {
                        assert!(level <= Utilization::FULL);
                        // One executor alone is never more than the sum that has it.
                        let least = said.unwrap_or(0.0) * 10.0 / f64::from(CORES);
                        let is_sum = metric == Metric::Cpu && reading.cell == CellId(0);
                        assert!(!is_sum || f64::from(level.permille()) >= least.min(1000.0) - 1e-6);
                    }
                    Observed::Late { count } => {
                        let before = late.insert(reading.cell, count).unwrap_or(0);
                        assert!(count >= before, "a running count that runs backwards");
                    }
                    Observed::Gone => drop(late.remove(&reading.cell)),
                    Observed::Health { .. } => {}
                }
            }
            Err(malformed) => {
                senseless += 1;
                is_plain(malformed.why, SENTENCE_BYTES_MAX);
            }
        });
        assert!(senseless <= 1, "a message is senseless once");
        assert!(refusal.is_none_or(|text| text.chars().count() <= 200));
        // What is skipped is skipped as it is, but it must be JSON.
        let is_json = || serde_json::Deserializer::from_slice(line).into_iter::<Box<RawValue>>().all(|it| it.is_ok());
        assert!(senseless == 1 || std::str::from_utf8(line).is_err() || is_json(), "{}", String::from_utf8_lossy(line));
    }
    is_plain(&format!("missing: {}", reports.missing()), 2000);
}

/// The load of the one executor that a general reader finds in a message of one object.
fn said(line: &[u8]) -> Option<f64> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("executor_metrics")?.get("cpu_load")?.as_f64()
}
