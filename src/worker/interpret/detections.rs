//! Boxes from distance distributions: each cell gives, for each side, how likely its box ends 0, 1, 2… strides away.

use super::boxes::{Candidate, suppress};
use super::{Frame, Numbers, Outputs, numbers, pixels, unexpected};
use crate::fault::Fault;
use crate::model::manifest::Detections;
use crate::tensor::Tensor;

pub(super) fn interpret(
    detections: &Detections,
    labels: &[&str],
    frame: &Frame,
    outputs: &Outputs,
) -> Result<Vec<Tensor>, Fault> {
    let mut candidates = Vec::new();
    let mut earlier_cells = 0;
    let heads = detections.scores.iter().zip(&detections.distances).zip(&detections.strides);
    for ((scores, distances), stride) in heads {
        let grid = Grid::of(frame, *stride);
        let scores = by_cell(scores, outputs.numbers(scores)?, grid.cells(), labels.len())?;
        let (name, distances) = (distances, outputs.numbers(distances)?);
        let bins = distances.shape.last().map_or(0, |length| length / 4);
        let distances = by_cell(name, distances, grid.cells(), bins * 4)?;
        for cell in 0..grid.cells() {
            let (class, score) = best(&scores[cell * labels.len()..(cell + 1) * labels.len()]);
            if score < detections.keep.score_min {
                continue;
            }
            let corners = grid.corners(cell, &distances[cell * bins * 4..(cell + 1) * bins * 4]);
            candidates.extend(Candidate::new(corners, score, class, earlier_cells + cell));
        }
        earlier_cells += grid.cells();
    }
    render(&suppress(candidates, &detections.keep), labels, frame)
}

/// The cells of one stride.
struct Grid {
    columns: usize,
    rows: usize,
    stride: f32,
}

impl Grid {
    fn of(frame: &Frame, stride: u32) -> Self {
        let stride = pixels(stride);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sides of at most 2048 pixels")]
        let cells = |side: f32| (side / stride).ceil() as usize;
        Self { columns: cells(frame.network.0), rows: cells(frame.network.1), stride }
    }

    fn cells(&self) -> usize {
        self.columns * self.rows
    }

    /// The box of a cell, in the network's pixels.
    fn corners(&self, cell: usize, distances: &[f32]) -> [f32; 4] {
        let bins = distances.len() / 4;
        #[expect(clippy::cast_precision_loss, reason = "columns and rows are at most 2048")]
        let (column, row) = ((cell % self.columns) as f32, (cell / self.columns) as f32);
        let (x, y) = ((column + 0.5) * self.stride, (row + 0.5) * self.stride);
        let side = |at: usize| expected(&distances[at * bins..(at + 1) * bins]) * self.stride;
        [x - side(0), y - side(1), x + side(2), y + side(3)]
    }
}

/// Mean of the bin numbers under the softmax of their logits.
fn expected(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weights, mut bin) = (0.0_f32, 0.0_f32, 0.0_f32);
    for logit in logits {
        let weight = (logit - most).exp();
        sum += weight * bin;
        weights += weight;
        bin += 1.0;
    }
    sum / weights
}

/// The values of an output of shape [1, cells, width].
fn by_cell(name: &str, output: Numbers, cells: usize, width: usize) -> Result<Vec<f32>, Fault> {
    if output.shape == [1, cells, width] && width > 0 {
        return Ok(output.values);
    }
    let why = format!("has shape {:?}, picture, stride and labels make it [1, {cells}, {width}]", output.shape);
    Err(unexpected(name, why))
}

/// The highest score and its class.
fn best(scores: &[f32]) -> (usize, f32) {
    let better =
        |best: (usize, f32), (class, score): (usize, &f32)| if *score > best.1 { (class, *score) } else { best };
    scores.iter().enumerate().fold((0, f32::NEG_INFINITY), better)
}

fn render(kept: &[Candidate], labels: &[&str], frame: &Frame) -> Result<Vec<Tensor>, Fault> {
    let corners: Vec<f32> = kept.iter().flat_map(|kept| original(&kept.corners, frame)).collect();
    let scores: Vec<f32> = kept.iter().map(|kept| kept.score).collect();
    let names: Vec<&str> = kept.iter().map(|kept| labels.get(kept.class).copied().unwrap_or_default()).collect();
    Ok(vec![
        numbers("boxes", vec![kept.len(), 4], &corners)?,
        numbers("scores", vec![kept.len()], &scores)?,
        Tensor::strings("labels", &names),
    ])
}

/// A box in the original's pixels, cut off at its edges.
pub(super) fn original(corners: &[f32; 4], frame: &Frame) -> [f32; 4] {
    let (left, top) = frame.back_inside(corners[0], corners[1]);
    let (right, bottom) = frame.back_inside(corners[2], corners[3]);
    [left, top, right, bottom]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_logits_mean_the_middle_bin() {
        assert_eq!(expected(&[1.0; 5]), 2.0);
        assert!((expected(&[0.0, 0.0, 50.0]) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_cell_s_box_lies_around_its_centre() {
        let grid = Grid { columns: 3, rows: 2, stride: 8.0 };
        // Cell 4: second row, second column, centre (12, 12); bins say 0, 1, 2, 1 strides.
        let sure = |bin: usize| (0..3).map(move |at| if at == bin { 90.0 } else { 0.0 });
        let distances: Vec<f32> = [0, 1, 2, 1].into_iter().flat_map(sure).collect();
        assert_eq!(grid.corners(4, &distances), [12.0, 4.0, 28.0, 20.0]);
    }
}
