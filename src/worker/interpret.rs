//! What do a network's outputs mean? Boxes, labels, segments of speech, as `[interpret]` says.
//!
//! A network's outputs are checked like any input: the model file decides them, and a model file may lie.

mod boxes;
mod classes;
mod detections;
mod faces;
mod series;
mod speech;
#[cfg(test)]
mod tests;

use crate::fault::{Code, Fault};
use crate::model::Manifest;
use crate::model::manifest::{Interpret, Medium, Size};
use crate::tensor::Tensor;
use crate::worker::prepare::Geometry;

/// Turns the network's outputs into results; without `[interpret]` they are handed through.
///
/// Without a geometry (the request carried raw tensors) boxes are in the pixels that the network saw.
///
/// # Errors
/// `model.run` when the outputs are not what the manifest declares, `input.name` when boxes are asked for and neither
/// medium nor manifest tell the size of the picture.
pub fn interpret(
    manifest: &Manifest,
    labels: &[&str],
    geometry: Option<&Geometry>,
    outputs: Vec<Tensor>,
) -> Result<Vec<Tensor>, Fault> {
    let Some(interpret) = &manifest.interpret else { return Ok(outputs) };
    let outputs = Outputs(outputs);
    match interpret {
        Interpret::Detections(detections) => {
            detections::interpret(detections, labels, &frame(manifest, geometry)?, &outputs)
        }
        Interpret::Faces(faces) => {
            faces::interpret(faces, &faces_frame(faces, manifest, geometry, &outputs)?, &outputs)
        }
        Interpret::Labels(classes) => classes::labels(classes, labels, &outputs),
        Interpret::Text(text) => classes::text(text, labels, &outputs),
        Interpret::Speech(speech) => speech::interpret(speech, manifest, geometry, &outputs),
        Interpret::Alarm(alarm) => series::alarm(alarm, &outputs),
        Interpret::Columns(columns) => series::columns(columns, &outputs),
    }
}

/// The outputs of a network, by name.
struct Outputs(Vec<Tensor>);

/// One output as numbers.
struct Numbers {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Outputs {
    fn numbers(&self, name: &str) -> Result<Numbers, Fault> {
        let tensor = self.0.iter().find(|tensor| tensor.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|tensor| tensor.name.as_str()).collect();
            unexpected(name, format!("is missing, there are {}", names.join(", ")))
        })?;
        let values =
            tensor.to_f32s().ok_or_else(|| unexpected(name, format!("is {}, FP32 is needed", tensor.datatype)))?;
        if tensor.elements() != Some(values.len()) {
            let why = format!("has {} values for shape {:?}", values.len(), tensor.shape);
            return Err(unexpected(name, why));
        }
        Ok(Numbers { shape: tensor.shape.clone(), values })
    }
}

fn unexpected(name: &str, why: impl AsRef<str>) -> Fault {
    let text = format!("output {name:?} {}: correct model.toml, or the model file", why.as_ref());
    Fault::new(Code::ModelRun, text)
}

/// A result of single precision numbers.
fn numbers(name: &str, shape: Vec<usize>, values: &[f32]) -> Result<Tensor, Fault> {
    Tensor::f32s(name, shape, values).map_err(|error| Fault::new(Code::ModelRun, error.to_string()))
}

/// The picture as the network saw it, and the way back to the original.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Frame {
    network: (f32, f32),
    original: (f32, f32),
    scale: (f32, f32),
    offset: (f32, f32),
}

impl Frame {
    fn plain(width: f32, height: f32) -> Self {
        let size = (width, height);
        Self { network: size, original: size, scale: (1.0, 1.0), offset: (0.0, 0.0) }
    }

    /// A point of the network's picture in the original's pixels, wherever it lies.
    fn back(&self, x: f32, y: f32) -> (f32, f32) {
        ((x - self.offset.0) / self.scale.0, (y - self.offset.1) / self.scale.1)
    }

    /// As [`Frame::back`], moved into the picture.
    fn back_inside(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = self.back(x, y);
        (x.clamp(0.0, self.original.0), y.clamp(0.0, self.original.1))
    }
}

fn frame(manifest: &Manifest, geometry: Option<&Geometry>) -> Result<Frame, Fault> {
    match geometry {
        Some(Geometry::Picture { width, height, network_width, network_height, scale_x, scale_y, left, top }) => {
            Ok(Frame {
                network: (pixels(*network_width), pixels(*network_height)),
                original: (pixels(*width), pixels(*height)),
                scale: (*scale_x, *scale_y),
                offset: (*left, *top),
            })
        }
        Some(Geometry::Audio { .. } | Geometry::Bytes { .. }) | None => {
            let size = manifest.prepare.as_ref().map(|prepare| &prepare.medium);
            if let Some(Medium::Picture(picture)) = size
                && let Size::Fixed { width, height } = picture.size
            {
                return Ok(Frame::plain(pixels(width), pixels(height)));
            }
            let text = format!(
                "model {} takes pictures of any size: send the picture itself, or ask for raw outputs",
                manifest.name
            );
            Err(Fault::new(Code::InputName, text))
        }
    }
}

/// As [`frame`]; the heat map itself tells the size when nothing else does.
fn faces_frame(
    faces: &crate::model::manifest::Faces,
    manifest: &Manifest,
    geometry: Option<&Geometry>,
    outputs: &Outputs,
) -> Result<Frame, Fault> {
    if let Ok(frame) = frame(manifest, geometry) {
        return Ok(frame);
    }
    let shape = outputs.numbers(&faces.heatmap)?.shape;
    let [_, _, rows, columns] = shape[..] else {
        return Err(unexpected(&faces.heatmap, format!("has shape {shape:?}, four dimensions are needed")));
    };
    let stride = pixels(faces.stride);
    #[expect(clippy::cast_precision_loss, reason = "rows and columns of a tensor that is in memory")]
    let (width, height) = (columns as f32 * stride, rows as f32 * stride);
    Ok(Frame::plain(width, height))
}

#[expect(clippy::cast_precision_loss, reason = "sides of pictures are at most 8192")]
fn pixels(side: u32) -> f32 {
    side as f32
}
