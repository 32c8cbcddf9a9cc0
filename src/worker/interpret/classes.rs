//! The most likely classes of a whole medium, and the characters of a line of text.

use super::{Outputs, numbers, unexpected};
use crate::fault::Fault;
use crate::model::manifest::{Labels, Text};
use crate::tensor::Tensor;

pub(super) fn labels(classes: &Labels, labels: &[&str], outputs: &Outputs) -> Result<Vec<Tensor>, Fault> {
    let output = outputs.numbers(&classes.scores)?;
    if output.values.len() != labels.len() || labels.is_empty() {
        let why = format!("has shape {:?}, the labels file names {} classes", output.shape, labels.len());
        return Err(unexpected(&classes.scores, why));
    }
    let scores = if classes.softmax { softmax(&output.values) } else { output.values };
    let mut ranked: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
    // Drops what is not a number, too.
    ranked.retain(|(_, score)| *score >= classes.score_min);
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked.truncate(classes.top);
    let names: Vec<&str> = ranked.iter().filter_map(|(class, _)| labels.get(*class).copied()).collect();
    let scores: Vec<f32> = ranked.iter().map(|(_, score)| *score).collect();
    Ok(vec![Tensor::strings("labels", &names), numbers("scores", vec![scores.len()], &scores)?])
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

pub(super) fn text(text: &Text, labels: &[&str], outputs: &Outputs) -> Result<Vec<Tensor>, Fault> {
    let output = outputs.numbers(&text.scores)?;
    // Class 0 is the blank, the labels name the others.
    let width = labels.len() + 1;
    let steps = match output.shape[..] {
        [1, steps, classes] | [steps, classes] if classes == width => steps,
        _ => {
            let why = format!("has shape {:?}, blank and labels file make it [1, steps, {width}]", output.shape);
            return Err(unexpected(&text.scores, why));
        }
    };
    let (mut read, mut sum, mut count, mut last) = (String::new(), 0.0_f32, 0.0_f32, 0);
    for step in output.values.chunks_exact(width).take(steps) {
        let better =
            |best: (usize, f32), (class, score): (usize, &f32)| if *score > best.1 { (class, *score) } else { best };
        let (class, score) = step.iter().enumerate().fold((0, f32::NEG_INFINITY), better);
        if class != 0 && class != last {
            read.push_str(labels.get(class - 1).copied().unwrap_or_default());
            sum += score;
            count += 1.0;
        }
        last = class;
    }
    let mean = if count > 0.0 { sum / count } else { 0.0 };
    Ok(vec![Tensor::strings("text", &[read]), numbers("scores", vec![1], &[mean])?])
}
