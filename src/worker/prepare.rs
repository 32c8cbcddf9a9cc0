//! How does an encoded medium become what a network takes? Pictures, sounds and file contents, as `[prepare]` says.
//!
//! Media come from outside and are hostile until decoded: every size is checked before memory is taken, and whatever
//! is wrong ends as a fault of the input.

mod audio;
mod bytes;
mod picture;
#[cfg(test)]
mod tests;

use crate::fault::{Code, Fault};
use crate::model::Manifest;
use crate::model::manifest::{Kind, Medium, Port};
use crate::tensor::{DataType, Tensor};

/// A medium, ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// All inputs of the network, in its order.
    pub inputs: Vec<Tensor>,
    /// How the network's view relates to the medium.
    pub geometry: Geometry,
}

/// How the network's view relates to the medium, so that results can be given in the medium's own units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Geometry {
    /// Of a picture: `network = original × scale + offset`, in pixels. The original is the picture as it is meant to
    /// be looked at: its EXIF orientation is already applied.
    Picture {
        /// Columns of the original.
        width: u32,
        /// Rows of the original.
        height: u32,
        /// Columns the network sees, border included.
        network_width: u32,
        /// Rows the network sees, border included.
        network_height: u32,
        /// Network columns per original column.
        scale_x: f32,
        /// Network rows per original row.
        scale_y: f32,
        /// Columns of border on the left.
        left: f32,
        /// Rows of border above.
        top: f32,
    },
    /// Of a sound.
    Audio {
        /// Samples that the network sees, without padding.
        samples: usize,
        /// Samples a second.
        sample_rate: u32,
    },
    /// Of a file.
    Bytes {
        /// Its length.
        length: usize,
    },
}

/// Makes the network's inputs from whatever a request carries: an encoded medium or raw tensors. Inputs that are left
/// out take their defaults.
///
/// # Errors
/// As [`Manifest::check_inputs`] and [`prepare`].
pub fn inputs(manifest: &Manifest, mut tensors: Vec<Tensor>) -> Result<(Vec<Tensor>, Option<Geometry>), Fault> {
    let prepare = match (manifest.check_inputs(&tensors)?, &manifest.prepare) {
        (Kind::Media, Some(prepare)) => prepare,
        (Kind::Raw, _) | (Kind::Media, None) => return Ok((manifest.complete(tensors)?, None)),
    };
    let Some(at) = tensors.iter().position(|tensor| tensor.name == prepare.accepts) else {
        return Ok((manifest.complete(tensors)?, None));
    };
    let medium = tensors.swap_remove(at);
    let content = medium.to_strings().and_then(|strings| strings.first().copied()).unwrap_or_default();
    let (tensor, geometry) = decode(manifest, content)?;
    tensors.push(tensor);
    Ok((manifest.complete(tensors)?, Some(geometry)))
}

/// Decodes the medium and brings it into the form that the manifest declares; other inputs take their defaults.
///
/// # Errors
/// `input.decode` when it cannot be read or exceeds a limit, `input.name` when the model takes raw tensors only,
/// `input.count` when another input has no default.
pub fn prepare(manifest: &Manifest, medium: &[u8]) -> Result<Prepared, Fault> {
    let (tensor, geometry) = decode(manifest, medium)?;
    Ok(Prepared { inputs: manifest.complete(vec![tensor])?, geometry })
}

fn decode(manifest: &Manifest, medium: &[u8]) -> Result<(Tensor, Geometry), Fault> {
    let port = manifest
        .prepare
        .as_ref()
        .and_then(|prepare| manifest.inputs.iter().find(|port| port.name == prepare.input).map(|port| (prepare, port)));
    let Some((prepare, port)) = port else {
        let text = format!("model {} takes raw tensors only: send its inputs instead of a medium", manifest.name);
        return Err(Fault::new(Code::InputName, text));
    };
    match &prepare.medium {
        Medium::Picture(picture) => picture::prepare(picture, port, medium),
        Medium::Audio(audio) => audio::prepare(audio, port, medium),
        Medium::Bytes(window) => bytes::prepare(window, port, medium),
    }
}

/// A tensor for the port from single precision values.
fn f32s(port: &Port, shape: Vec<usize>, values: &[f32]) -> Result<Tensor, Fault> {
    filled(port, DataType::Fp32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn filled(port: &Port, datatype: DataType, shape: Vec<usize>, data: Vec<u8>) -> Result<Tensor, Fault> {
    Tensor::new(port.name.clone(), datatype, shape, data)
        .map_err(|error| Fault::new(Code::InputDecode, format!("the medium does not fit the network: {error}")))
}

fn undecodable(what: &str, why: impl std::fmt::Display) -> Fault {
    Fault::new(Code::InputDecode, format!("{what}: {why}"))
}
