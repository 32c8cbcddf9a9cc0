//! Faces from a heat map of centres, with sizes, offsets and landmarks beside it.

use super::boxes::{Candidate, suppress};
use super::detections::original;
use super::{Frame, Outputs, numbers, pixels, unexpected};
use crate::fault::Fault;
use crate::model::manifest::Faces;
use crate::tensor::Tensor;

pub(super) fn interpret(faces: &Faces, frame: &Frame, outputs: &Outputs) -> Result<Vec<Tensor>, Fault> {
    let heatmap = Maps::of(&faces.heatmap, 1, None, outputs)?;
    let grid = Some((heatmap.rows, heatmap.columns));
    let sizes = Maps::of(&faces.sizes, 2, grid, outputs)?;
    let offsets = Maps::of(&faces.offsets, 2, grid, outputs)?;
    let landmarks = Maps::of(&faces.landmarks, 10, grid, outputs)?;
    let stride = pixels(faces.stride);
    let candidates = (0..heatmap.rows * heatmap.columns).filter_map(|cell| {
        let score = heatmap.at(0, cell);
        if score < faces.keep.score_min {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "columns and rows of a tensor in memory")]
        let (column, row) = ((cell % heatmap.columns) as f32, (cell / heatmap.columns) as f32);
        let (height, width) = (sizes.at(0, cell).exp() * stride, sizes.at(1, cell).exp() * stride);
        let (y, x) = ((row + offsets.at(0, cell) + 0.5) * stride, (column + offsets.at(1, cell) + 0.5) * stride);
        let (left, top) = (x - width / 2.0, y - height / 2.0);
        Candidate::new([left, top, left + width, top + height], score, 0, cell)
    });
    let kept = suppress(candidates.collect(), &faces.keep);
    let mut points = Vec::with_capacity(kept.len() * 10);
    for face in &kept {
        let [left, top, right, bottom] = face.corners;
        for point in 0..5 {
            let (down, across) = (landmarks.at(2 * point, face.cell), landmarks.at(2 * point + 1, face.cell));
            let (x, y) = frame.back(left + across * (right - left), top + down * (bottom - top));
            points.extend([x, y]);
        }
    }
    let corners: Vec<f32> = kept.iter().flat_map(|face| original(&face.corners, frame)).collect();
    let scores: Vec<f32> = kept.iter().map(|face| face.score).collect();
    Ok(vec![
        numbers("boxes", vec![kept.len(), 4], &corners)?,
        numbers("scores", vec![kept.len()], &scores)?,
        numbers("landmarks", vec![kept.len(), 10], &points)?,
    ])
}

/// An output of shape [1, channels, rows, columns].
struct Maps {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Maps {
    fn of(name: &str, channels: usize, grid: Option<(usize, usize)>, outputs: &Outputs) -> Result<Self, Fault> {
        let output = outputs.numbers(name)?;
        match output.shape[..] {
            [1, got, rows, columns] if got == channels && grid.is_none_or(|grid| grid == (rows, columns)) => {
                Ok(Self { rows, columns, values: output.values })
            }
            _ => {
                let (rows, columns) = grid.map_or(("rows".into(), "columns".into()), |(rows, columns)| {
                    (rows.to_string(), columns.to_string())
                });
                let why = format!("has shape {:?}, it must be [1, {channels}, {rows}, {columns}]", output.shape);
                Err(unexpected(name, why))
            }
        }
    }

    fn at(&self, channel: usize, cell: usize) -> f32 {
        self.values[channel * self.rows * self.columns + cell]
    }
}
