//! What does a result say? One table for each item: labels with scores and boxes, speech, text, or plain tensors.

use serde_json::Value;

use super::failure::{Class, Failure};
use super::out::{Out, Tone, clean};
use crate::link::messages::{Outcome, ResultBody, parse_result};
use crate::tensor::{DataType, Tensor};

/// Most rows shown of one item; all are in `--json`.
const ROWS_MAX: usize = 50;
/// Most elements shown of a plain tensor.
const ELEMENTS_SHOWN: usize = 8;
/// Longest label or text shown, in characters.
const TEXT_CHARS_MAX: usize = 80;

/// Prints the body of a result as it came, on one line.
pub(super) fn raw(out: &Out, body: &[u8]) -> Result<(), Failure> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::new(Class::Data, format!("the node's result is not JSON: {error}")))?;
    out.json(&value)
}

/// Prints a result for a person. An error is not printed: it is the command's failure.
pub(super) fn result(out: &Out, body: &[u8]) -> Result<(), Failure> {
    let outcome = parse_result(body).map_err(|error| Failure::new(Class::Data, error.to_string()))?;
    let Outcome::Done(result) = outcome else { return Ok(()) };
    out.line(&out.paint(Tone::Strong, &headline(&result)))?;
    for (number, item) in (1..).zip(&result.items) {
        if result.batch {
            out.line(&out.paint(Tone::Dim, &format!("item {number}")))?;
        }
        match item {
            Ok(outputs) => item_table(out, outputs)?,
            Err(error) => {
                out.line(&out.paint(Tone::Bad, &clean(&format!("{}: {}", error.code, error.message), 1_000)))?
            }
        }
    }
    Ok(())
}

fn headline(result: &ResultBody) -> String {
    let items = if result.batch { format!("{} items, ", result.items.len()) } else { String::new() };
    let yields = match result.yields {
        0 => "never stopped".to_owned(),
        count => format!("stopped {count} times for {:.1} s", result.suspended.as_secs_f64()),
    };
    let names = [&result.id, &result.model, &result.version].map(|name| clean(name, TEXT_CHARS_MAX));
    format!(
        "job {}: {} v{}, {items}ran {:.2} s ({:.2} s CPU), {yields}",
        names[0],
        names[1],
        names[2],
        result.wall.as_secs_f64(),
        result.cpu.as_secs_f64()
    )
}

fn item_table(out: &Out, outputs: &[Tensor]) -> Result<(), Failure> {
    let columns = columns(outputs);
    let Some(rows) = columns.first().map(|(_, cells)| cells.len()) else {
        return outputs.iter().try_for_each(|tensor| out.line(&plain(tensor)));
    };
    if rows == 0 {
        return out.line("nothing found");
    }
    let head: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let row = |index: usize| columns.iter().map(|(_, cells)| cells[index].clone()).collect();
    let shown: Vec<Vec<String>> = (0..rows.min(ROWS_MAX)).map(row).collect();
    out.table(&head, &shown)?;
    if rows > ROWS_MAX {
        out.line(&format!("and {} more, see --json", rows - ROWS_MAX))?;
    }
    Ok(())
}

/// The columns of interpreted outputs, by their names; none when these are not interpreted. All are equally long.
fn columns(outputs: &[Tensor]) -> Vec<(&'static str, Vec<String>)> {
    let named = |name: &str| outputs.iter().find(|tensor| tensor.name == name);
    let words = |name: &str| {
        let texts = named(name)?.to_strings()?;
        Some(texts.iter().map(|text| clean(&String::from_utf8_lossy(text), TEXT_CHARS_MAX)).collect::<Vec<String>>())
    };
    let numbers = |name: &str, width: usize, decimals: usize| {
        let tensor = named(name).filter(|tensor| tensor.shape.get(1).copied().unwrap_or(1) == width)?;
        let row = |row: &[f32]| row.iter().map(|value| format!("{value:.decimals$}")).collect::<Vec<_>>().join(" ");
        Some(tensor.to_f32s()?.chunks_exact(width).map(row).collect::<Vec<String>>())
    };
    let found = [
        ("label", words("labels")),
        ("text", words("text")),
        ("from to (s)", numbers("segments", 2, 2)),
        ("score", numbers("scores", 1, 3)),
        ("box (x0 y0 x1 y1)", numbers("boxes", 4, 0)),
    ];
    let columns: Vec<_> = found.into_iter().filter_map(|(title, cells)| Some((title, cells?))).collect();
    let is_interpreted = columns.iter().any(|(title, _)| *title != "score");
    let same_length = columns.windows(2).all(|pair| pair[0].1.len() == pair[1].1.len());
    if is_interpreted && same_length { columns } else { Vec::new() }
}

/// A plain tensor: what it is and how it begins.
fn plain(tensor: &Tensor) -> String {
    let values: Vec<String> = match tensor.datatype {
        DataType::Fp32 => {
            tensor.to_f32s().into_iter().flatten().take(ELEMENTS_SHOWN).map(|value| format!("{value:.4}")).collect()
        }
        DataType::Bytes => {
            let texts = tensor.to_strings().into_iter().flatten().take(ELEMENTS_SHOWN);
            texts.map(|text| format!("{:?}", clean(&String::from_utf8_lossy(text), TEXT_CHARS_MAX))).collect()
        }
        DataType::Int64 => {
            let (integers, _) = tensor.data.as_chunks::<8>();
            integers.iter().take(ELEMENTS_SHOWN).map(|bytes| i64::from_le_bytes(*bytes).to_string()).collect()
        }
        DataType::Bool
        | DataType::Uint8
        | DataType::Uint16
        | DataType::Uint32
        | DataType::Uint64
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Fp16
        | DataType::Fp64 => Vec::new(),
    };
    let more = if tensor.elements().is_some_and(|all| all > values.len()) { " …" } else { "" };
    format!(
        "{} {} {:?}: {}{more}",
        clean(&tensor.name, TEXT_CHARS_MAX),
        tensor.datatype,
        tensor.shape,
        values.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::f32s(name, shape.to_vec(), values).unwrap()
    }

    #[test]
    fn detections_become_a_table_of_label_score_and_box() {
        let outputs = [
            f32s("boxes", &[2, 4], &[1.0, 2.0, 3.4, 4.6, 5.0, 6.0, 7.0, 8.0]),
            f32s("scores", &[2], &[0.9, 0.5]),
            Tensor::strings("labels", &["person", "dog\x1b[2J"]),
        ];
        let columns = columns(&outputs);
        let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
        assert_eq!(titles, ["label", "score", "box (x0 y0 x1 y1)"]);
        assert_eq!(columns[0].1, ["person", "dog [2J"]);
        assert_eq!(columns[2].1, ["1 2 3 5", "5 6 7 8"]);
    }

    #[test]
    fn outputs_of_another_shape_than_their_names_promise_are_shown_as_tensors() {
        let crooked = [f32s("scores", &[3], &[0.9, 0.5, 0.1]), Tensor::strings("labels", &["person"])];
        assert!(columns(&crooked).is_empty());
        assert!(columns(&[f32s("scores", &[1, 80], &[0.0; 80])]).is_empty());
    }

    #[test]
    fn a_plain_tensor_says_what_it_is_and_how_it_begins() {
        assert_eq!(plain(&f32s("q50", &[1, 2], &[0.25, 1.0])), "q50 FP32 [1, 2]: 0.2500 1.0000");
        assert!(plain(&f32s("y", &[20], &[0.0; 20])).ends_with("0.0000 …"));
    }
}
