//! Numbers about the network itself: a score with its alarm, and outputs split into named columns.

use super::{Outputs, numbers, unexpected};
use crate::fault::Fault;
use crate::model::manifest::{Alarm, Columns};
use crate::tensor::Tensor;

pub(super) fn alarm(alarm: &Alarm, outputs: &Outputs) -> Result<Vec<Tensor>, Fault> {
    let output = outputs.numbers(&alarm.score)?;
    // A score that is not a number is no sign of health.
    let label = |score: &f32| if *score < alarm.above { &alarm.normal } else { &alarm.alarm };
    let labels: Vec<&String> = output.values.iter().map(label).collect();
    let labels = Tensor { shape: output.shape.clone(), ..Tensor::strings("labels", &labels) };
    Ok(vec![numbers("scores", output.shape, &output.values)?, labels])
}

pub(super) fn columns(columns: &Columns, outputs: &Outputs) -> Result<Vec<Tensor>, Fault> {
    let output = outputs.numbers(&columns.output)?;
    let width = columns.names.len();
    let (Some(last), true) = (output.shape.split_last(), width > 0) else {
        return Err(unexpected(&columns.output, "has no dimension to split"));
    };
    if *last.0 != width {
        return Err(unexpected(&columns.output, format!("has shape {:?}, {width} columns are named", output.shape)));
    }
    let split = |(at, name): (usize, &String)| {
        let values: Vec<f32> = output.values.iter().copied().skip(at).step_by(width).collect();
        numbers(name, last.1.to_vec(), &values)
    };
    columns.names.iter().enumerate().map(split).collect()
}
