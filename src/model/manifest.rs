//! What does `model.toml` say? Inputs, outputs, how media becomes tensors, how tensors become results.
//!
//! Pure. [`parse()`] turns the text into a checked [`Manifest`]; everything downstream trusts it.
//! A network is served by its manifest alone: without `[prepare]` it takes raw tensors, without `[interpret]` it
//! answers with raw tensors, and every dimension written -1 is the job's to choose.

mod inputs;
mod parse;
mod raw;
#[cfg(test)]
mod tests;

pub use inputs::Kind;
pub(super) use inputs::element;
pub use parse::{ManifestError, parse};

use crate::tensor::DataType;
use crate::units::{Digest, Name, WallTime};

/// Largest `model.toml`, in bytes.
pub const MANIFEST_TOML_BYTES_MAX: usize = 64 * 1024;
/// Most inputs, and most outputs, of one network.
pub const PORTS_MAX: usize = 32;
/// Most golden cases of one model.
pub const GOLDENS_MAX: usize = 16;
/// Longest side of a picture as the network sees it, in pixels.
pub const NETWORK_SIDE_MAX: u32 = 2048;
/// Longest sound, in seconds.
pub const SOUND_SECONDS_MAX: u32 = 3600;
/// Most detections that one picture may give.
pub const DETECTIONS_MAX: usize = 1000;

/// A model's manifest, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Name by which jobs ask for it.
    pub name: Name,
    /// Version; a job without one gets the highest installed.
    pub version: u32,
    /// What it does, one sentence.
    pub summary: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// Where the weights come from and how they were converted.
    pub source: String,
    /// ONNX file, relative to the model's folder, no `..`, not absolute.
    pub file: String,
    /// Digest of the ONNX file.
    pub digest: Digest,
    /// Inputs of the network, in its order.
    pub inputs: Vec<Port>,
    /// Outputs of the network, in its order.
    pub outputs: Vec<Port>,
    /// How a medium becomes the network's inputs; `None`: raw tensors only.
    pub prepare: Option<Prepare>,
    /// How the network's outputs become a result that means something to a person; `None`: raw tensors only.
    pub interpret: Option<Interpret>,
    /// File with the names of the classes, one a line, beside the manifest; `None` when there are none.
    pub labels: Option<String>,
    /// From this moment on it is not to be used any more; `None`: it has no end.
    pub expires: Option<WallTime>,
    /// Known inputs with the outputs that ONNX Runtime gives for them.
    pub goldens: Vec<Golden>,
}

/// One input or output of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Name in the ONNX graph.
    pub name: String,
    /// Element type.
    pub datatype: DataType,
    /// Dimensions; `None` where the job chooses (the plan is pinned to what it chose). Written -1 in TOML.
    pub shape: Vec<Option<usize>>,
    /// For inputs: fill with this value when the request leaves it out (recurrent state, sample rate). Needs a fixed shape.
    pub default: Option<f64>,
}

impl Port {
    /// Whether a tensor of that shape fits: same rank, and equal wherever a dimension is fixed.
    pub fn accepts_shape(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self.shape.iter().zip(shape).all(|(want, got)| want.is_none_or(|want| want == *got))
    }
}

/// How an encoded medium, sent as a BYTES tensor named [`Prepare::accepts`], becomes the network's inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepare {
    /// Name of the BYTES tensor a job sends instead of raw inputs, e.g. `image`, `audio`, `content`.
    pub accepts: String,
    /// Which input of the network it fills.
    pub input: String,
    /// What kind of medium it is, and how it is read.
    pub medium: Medium,
}

/// A kind of encoded medium.
#[derive(Clone, Debug, PartialEq)]
pub enum Medium {
    /// A JPEG or PNG picture.
    Picture(Picture),
    /// A WAV sound.
    Audio(Audio),
    /// The bytes of any file.
    Bytes(ByteWindow),
}

/// How a picture becomes a tensor of rank 4: each value is `(pixel × scale − mean) ÷ std`, pixel 0 to 255.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Size the network sees.
    pub size: Size,
    /// What happens when the picture has another aspect ratio.
    pub fit: Fit,
    /// Order of the dimensions.
    pub layout: Layout,
    /// Order of the channels.
    pub colour: Colour,
    /// Factor on each pixel, before `mean` and `std`.
    pub scale: f32,
    /// Subtracted, per channel in the order of `colour` (the first only for grey).
    pub mean: [f32; 3],
    /// Divided by, per channel in the order of `colour` (the first only for grey).
    pub std: [f32; 3],
    /// Pixel value of the border that `letterbox` and `pad` add.
    pub border: u8,
}

/// Size of a picture as the network sees it, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Always the same.
    Fixed {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// As it is, shrunk until the longer side is at most `side_max`, each side then rounded up to `multiple_of`.
    Within {
        /// Longest side; a multiple of `multiple_of`.
        side_max: u32,
        /// Both sides are multiples of this.
        multiple_of: u32,
    },
    /// Always `height` rows; the width follows the aspect ratio, at most `width_max`, rounded up to `multiple_of`.
    Height {
        /// Rows.
        height: u32,
        /// Most columns; a multiple of `multiple_of`.
        width_max: u32,
        /// The width is a multiple of this.
        multiple_of: u32,
    },
}

/// What happens to a picture whose aspect ratio is not the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is distorted.
    Stretch,
    /// It keeps its shape, centred between two borders.
    Letterbox,
    /// It keeps its shape, in the upper left corner, with the border on the right or below.
    Pad,
}

/// Order of the dimensions of a picture tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Batch, channel, row, column.
    Nchw,
    /// Batch, row, column, channel.
    Nhwc,
}

/// Channels of a picture tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel of luma.
    Gray,
}

impl Colour {
    /// How many channels the tensor has.
    pub const fn channels(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// How a sound becomes a tensor of rank 2, samples from -1 to 1: one row, or one row a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// Samples a second that the network expects; a sound of another rate is resampled.
    pub sample_rate: u32,
    /// Cut into frames; `None`: the whole sound is one row.
    pub frames: Option<Frames>,
    /// Longest sound, in seconds.
    pub seconds_max: u32,
}

/// How a sound is cut: row *i* holds `context` samples before `i × hop`, then `hop` samples. Zeros fill both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// New samples in each frame.
    pub hop: usize,
    /// Samples repeated from before each frame.
    pub context: usize,
}

/// How the bytes of a file become one row of integers: its beginning, then its end.
#[derive(Clone, Debug, PartialEq)]
pub struct ByteWindow {
    /// Integers from the beginning, padded behind.
    pub begin: usize,
    /// Integers from the end, padded before.
    pub end: usize,
    /// How many bytes of either end are looked at, before white space is taken off.
    pub block: usize,
    /// Whether white space is taken off both ends first.
    pub strip: bool,
    /// Value where there is no byte.
    pub padding: u16,
    /// Shortest content that the network can judge, after white space is taken off, in bytes.
    pub length_min: usize,
}

/// How the network's outputs become a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Interpret {
    /// Boxes with labels.
    Detections(Detections),
    /// Faces with landmarks.
    Faces(Faces),
    /// The most likely classes of the whole medium.
    Labels(Labels),
    /// Characters read from a line of text.
    Text(Text),
    /// When somebody speaks.
    Speech(Speech),
    /// A score above its limit.
    Alarm(Alarm),
    /// One output split into named ones along its last dimension.
    Columns(Columns),
}

/// Boxes from an anchor-free head with distance distributions (generalised focal loss, as in NanoDet).
///
/// Results: `boxes` `FP32 [N,4]` (x0, y0, x1, y1 in pixels of the original picture), `scores` `FP32 [N]`, `labels`
/// `BYTES [N]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Detections {
    /// Outputs with the class probabilities, one a stride: `[1, cells, classes]`.
    pub scores: Vec<String>,
    /// Outputs with the distance distributions, one a stride: `[1, cells, 4 × bins]`.
    pub distances: Vec<String>,
    /// Pixels of the network's input that one cell covers, for each pair of outputs.
    pub strides: Vec<u32>,
    /// What survives.
    pub keep: Keep,
}

/// Faces from a centre heatmap (as in CenterFace).
///
/// Results: `boxes` `FP32 [N,4]`, `scores` `FP32 [N]`, `landmarks` `FP32 [N,10]` (x, y of both eyes, nose, both corners
/// of the mouth).
#[derive(Clone, Debug, PartialEq)]
pub struct Faces {
    /// Output with the probability of a centre: `[1, 1, rows, columns]`.
    pub heatmap: String,
    /// Output with the logarithm of height and width, in cells: `[1, 2, rows, columns]`.
    pub sizes: String,
    /// Output with the offset of the centre, y then x, in cells: `[1, 2, rows, columns]`.
    pub offsets: String,
    /// Output with five points, y then x, in fractions of the box: `[1, 10, rows, columns]`.
    pub landmarks: String,
    /// Pixels of the network's input that one cell covers.
    pub stride: u32,
    /// What survives.
    pub keep: Keep,
}

/// Which boxes survive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keep {
    /// Lowest score.
    pub score_min: f32,
    /// Highest overlap (intersection over union) with a better box of the same class.
    pub overlap_max: f32,
    /// Most boxes.
    pub count_max: usize,
}

/// The most likely classes. Results: `labels` `BYTES [N]`, `scores` `FP32 [N]`, best first, N at most `top`.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// Output with one number a class: `[1, classes]` or `[classes]`.
    pub scores: String,
    /// Whether the numbers are logits that still need a softmax.
    pub softmax: bool,
    /// Most classes that are named.
    pub top: usize,
    /// Lowest score of a class that is named.
    pub score_min: f32,
}

/// A line of text, greedily decoded from connectionist temporal classification.
/// Results: `text` `BYTES [1]`, `scores` `FP32 [1]` (mean probability of its characters).
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Output with one probability a step and character: `[1, steps, classes]`; class 0 is the blank.
    pub scores: String,
}

/// When somebody speaks.
///
/// Results: `segments` `FP32 [N,2]` (start, end in seconds), `scores` `FP32 [N]` (mean probability).
#[derive(Clone, Debug, PartialEq)]
pub struct Speech {
    /// Output with one probability a frame: `[frames]`.
    pub probabilities: String,
    /// A segment begins at this probability.
    pub start_above: f32,
    /// It ends when the probability stays below this.
    pub end_below: f32,
    /// For that long, in milliseconds.
    pub silence_min_ms: u32,
    /// Shorter segments are dropped, in milliseconds.
    pub speech_min_ms: u32,
}

/// A score above its limit. Results: `scores` as the network gives them, `labels` BYTES of the same shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Output with the scores.
    pub score: String,
    /// From this score on it is an alarm.
    pub above: f32,
    /// Label of an alarm.
    pub alarm: String,
    /// Label of anything below.
    pub normal: String,
}

/// One output split into named ones along its last dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    /// Which output.
    pub output: String,
    /// Names, as many as its last dimension is long.
    pub names: Vec<String>,
}

/// A known input and what ONNX Runtime makes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// File beside the manifest: a medium, or an Open Inference Protocol v2 request when it ends in `.json`.
    pub input: String,
    /// File beside the manifest: an Open Inference Protocol v2 response.
    pub output: String,
    /// Whether the outputs are interpreted or raw.
    pub interpret: bool,
    /// How far the result may be off.
    pub tolerance: Tolerance,
}

/// How far a result may be off its golden value: `|got − expected| ≤ absolute + relative × scale`, where `scale` is the
/// largest absolute value of the expected tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// In units of the output.
    pub absolute: f32,
    /// In parts of the output's scale.
    pub relative: f32,
    /// For boxes instead: least intersection over union with the expected box of the same label.
    pub overlap_min: f32,
}
