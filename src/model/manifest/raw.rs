//! The form of `model.toml`: what serde reads, before anything is checked.

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawManifest {
    pub(super) name: Spanned<String>,
    pub(super) version: Spanned<u32>,
    pub(super) summary: Spanned<String>,
    pub(super) licence: Spanned<String>,
    pub(super) source: Spanned<String>,
    pub(super) file: Spanned<String>,
    pub(super) digest: Spanned<String>,
    pub(super) labels: Option<Spanned<String>>,
    pub(super) expires: Option<Spanned<String>>,
    pub(super) inputs: Spanned<Vec<RawPort>>,
    pub(super) outputs: Spanned<Vec<RawPort>>,
    pub(super) prepare: Option<Spanned<RawPrepare>>,
    pub(super) interpret: Option<Spanned<RawInterpret>>,
    #[serde(default)]
    pub(super) golden: Vec<Spanned<RawGolden>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPort {
    pub(super) name: Spanned<String>,
    pub(super) datatype: Spanned<String>,
    pub(super) shape: Spanned<Vec<i64>>,
    pub(super) default: Option<Spanned<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrepare {
    pub(super) accepts: Spanned<String>,
    pub(super) input: Spanned<String>,
    pub(super) picture: Option<Spanned<RawPicture>>,
    pub(super) audio: Option<Spanned<RawAudio>>,
    pub(super) bytes: Option<Spanned<RawBytes>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPicture {
    pub(super) width: Option<u32>,
    pub(super) height: Option<u32>,
    pub(super) side_max: Option<u32>,
    pub(super) width_max: Option<u32>,
    pub(super) multiple_of: Option<u32>,
    pub(super) fit: RawFit,
    pub(super) layout: RawLayout,
    pub(super) colour: RawColour,
    pub(super) scale: Option<Spanned<f32>>,
    pub(super) mean: Option<Spanned<Vec<f32>>>,
    pub(super) std: Option<Spanned<Vec<f32>>>,
    #[serde(default)]
    pub(super) border: u8,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawFit {
    Stretch,
    Letterbox,
    Pad,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) enum RawLayout {
    #[serde(rename = "NCHW")]
    Nchw,
    #[serde(rename = "NHWC")]
    Nhwc,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) enum RawColour {
    #[serde(rename = "RGB")]
    Rgb,
    #[serde(rename = "BGR")]
    Bgr,
    #[serde(rename = "gray")]
    Gray,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAudio {
    pub(super) sample_rate: Spanned<u32>,
    pub(super) hop: Option<Spanned<usize>>,
    pub(super) context: Option<Spanned<usize>>,
    pub(super) seconds_max: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBytes {
    pub(super) begin: usize,
    pub(super) end: usize,
    pub(super) block: Spanned<usize>,
    pub(super) strip: bool,
    pub(super) padding: Spanned<u16>,
    #[serde(default)]
    pub(super) length_min: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInterpret {
    pub(super) detections: Option<Spanned<RawDetections>>,
    pub(super) faces: Option<Spanned<RawFaces>>,
    pub(super) labels: Option<Spanned<RawLabels>>,
    pub(super) text: Option<Spanned<RawText>>,
    pub(super) speech: Option<Spanned<RawSpeech>>,
    pub(super) alarm: Option<Spanned<RawAlarm>>,
    pub(super) columns: Option<Spanned<RawColumns>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDetections {
    pub(super) scores: Vec<Spanned<String>>,
    pub(super) distances: Vec<Spanned<String>>,
    pub(super) strides: Spanned<Vec<u32>>,
    pub(super) score_min: Spanned<f32>,
    pub(super) overlap_max: Spanned<f32>,
    pub(super) count_max: Spanned<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFaces {
    pub(super) heatmap: Spanned<String>,
    pub(super) sizes: Spanned<String>,
    pub(super) offsets: Spanned<String>,
    pub(super) landmarks: Spanned<String>,
    pub(super) stride: Spanned<u32>,
    pub(super) score_min: Spanned<f32>,
    pub(super) overlap_max: Spanned<f32>,
    pub(super) count_max: Spanned<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLabels {
    pub(super) scores: Spanned<String>,
    pub(super) softmax: bool,
    pub(super) top: Spanned<usize>,
    pub(super) score_min: Option<Spanned<f32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawText {
    pub(super) scores: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSpeech {
    pub(super) probabilities: Spanned<String>,
    pub(super) start_above: Spanned<f32>,
    pub(super) end_below: Spanned<f32>,
    pub(super) silence_min_ms: u32,
    pub(super) speech_min_ms: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAlarm {
    pub(super) score: Spanned<String>,
    pub(super) above: Spanned<f32>,
    pub(super) alarm: String,
    pub(super) normal: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawColumns {
    pub(super) output: Spanned<String>,
    pub(super) names: Spanned<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGolden {
    pub(super) input: Spanned<String>,
    pub(super) output: Spanned<String>,
    #[serde(default = "yes")]
    pub(super) interpret: bool,
    pub(super) tolerance: Option<Spanned<RawTolerance>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTolerance {
    pub(super) absolute: Option<f32>,
    pub(super) relative: Option<f32>,
    pub(super) overlap_min: Option<f32>,
}

fn yes() -> bool {
    true
}
