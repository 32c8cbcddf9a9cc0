//! How does an encoded medium become what a network takes? Pictures, sounds and file contents, as `[prepare]` says.
//!
//! Media come from outside and are hostile until decoded: every size is checked before memory is taken, and whatever
//! is wrong ends as a fault of the input.

use crate::fault::Fault;
use crate::model::Manifest;
use crate::tensor::Tensor;

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
    /// Of a picture: `network = original × scale + offset`, in pixels.
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

/// Decodes the medium and brings it into the form that the manifest declares; other inputs take their defaults.
///
/// # Errors
/// `input.decode` when it cannot be read or exceeds a limit, `input.name` when the model takes raw tensors only,
/// `input.count` when another input has no default.
pub fn prepare(manifest: &Manifest, medium: &[u8]) -> Result<Prepared, Fault> {
    let _ = (manifest, medium);
    Err(Fault::new(crate::fault::Code::InputDecode, "in the making"))
}
