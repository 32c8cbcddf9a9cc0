//! Checks of `[interpret]`: the outputs it names must exist and have the form that its kind reads.

use std::ops::Range;

use toml::Spanned;

use super::super::raw::{RawAlarm, RawColumns, RawDetections, RawFaces, RawInterpret, RawLabels, RawSpeech, RawText};
use super::super::{
    Alarm, Columns, DETECTIONS_MAX, Detections, Faces, Interpret, Keep, Labels, Medium, PORTS_MAX, Port, Prepare,
    Speech, Text,
};
use super::{At, ManifestError};
use crate::tensor::DataType;

/// Most strides of one detector.
const STRIDES_MAX: usize = 8;
/// Largest stride, in pixels.
const STRIDE_PIXELS_MAX: u32 = 1024;
/// Most classes that are named.
const TOP_MAX: usize = 1000;

/// What the rest of the manifest says.
pub(super) struct Context<'a> {
    pub(super) outputs: &'a [Port],
    pub(super) prepare: Option<&'a Prepare>,
    pub(super) labelled: bool,
}

pub(super) fn check(
    at: &At<'_>,
    raw: &Spanned<RawInterpret>,
    context: &Context<'_>,
) -> Result<Interpret, ManifestError> {
    let span = raw.span();
    let raw = raw.get_ref();
    let mut found = Vec::new();
    if let Some(raw) = &raw.detections {
        found.push(Interpret::Detections(detections(at, raw, context)?));
    }
    if let Some(raw) = &raw.faces {
        found.push(Interpret::Faces(faces(at, raw.get_ref(), context)?));
    }
    if let Some(raw) = &raw.labels {
        found.push(Interpret::Labels(labels(at, raw, context)?));
    }
    if let Some(raw) = &raw.text {
        found.push(Interpret::Text(text(at, raw, context)?));
    }
    if let Some(raw) = &raw.speech {
        found.push(Interpret::Speech(speech(at, raw, context)?));
    }
    if let Some(raw) = &raw.alarm {
        found.push(Interpret::Alarm(alarm(at, raw.get_ref(), context)?));
    }
    if let Some(raw) = &raw.columns {
        found.push(Interpret::Columns(columns(at, raw.get_ref(), context)?));
    }
    match (found.pop(), found.is_empty()) {
        (Some(interpret), true) => Ok(interpret),
        (_, _) => {
            let problem = "needs exactly one of [interpret.detections], [interpret.faces], [interpret.labels], \
                           [interpret.text], [interpret.speech], [interpret.alarm], [interpret.columns]";
            Err(at.bad(&span, problem))
        }
    }
}

impl Context<'_> {
    /// The FP32 output of that name, when it has one of these ranks.
    fn output(&self, at: &At<'_>, raw: &Spanned<String>, ranks: &[usize]) -> Result<&Port, ManifestError> {
        let name = raw.get_ref();
        let Some(port) = self.outputs.iter().find(|port| port.name == *name) else {
            let names: Vec<&str> = self.outputs.iter().map(|port| port.name.as_str()).collect();
            let problem = format!("{name:?} is not an output, it must be one of {}", names.join(", "));
            return Err(at.bad(&raw.span(), problem));
        };
        if port.datatype != DataType::Fp32 || !ranks.contains(&port.shape.len()) {
            let problem = format!(
                "output {name:?} is {} with {} dimensions, it must be FP32 with {ranks:?}",
                port.datatype,
                port.shape.len()
            );
            return Err(at.bad(&raw.span(), problem));
        }
        Ok(port)
    }

    fn needs_labels(&self, at: &At<'_>, span: &Range<usize>) -> Result<(), ManifestError> {
        if self.labelled {
            return Ok(());
        }
        Err(at.bad(span, "needs the names of the classes: labels = \"labels.txt\" at the top, one name a line"))
    }

    fn needs_picture(&self, at: &At<'_>, span: &Range<usize>) -> Result<(), ManifestError> {
        match self.prepare.map(|prepare| &prepare.medium) {
            Some(Medium::Picture(_)) => Ok(()),
            Some(Medium::Audio(_) | Medium::Bytes(_)) | None => {
                Err(at.bad(span, "needs [prepare.picture]: boxes are in its pixels"))
            }
        }
    }
}

fn detections(at: &At<'_>, raw: &Spanned<RawDetections>, context: &Context<'_>) -> Result<Detections, ManifestError> {
    let span = raw.span();
    let raw = raw.get_ref();
    context.needs_labels(at, &span)?;
    context.needs_picture(at, &span)?;
    let strides = raw.strides.get_ref();
    let counts = [raw.scores.len(), raw.distances.len(), strides.len()];
    if counts.iter().any(|count| *count != strides.len()) || !(1..=STRIDES_MAX).contains(&strides.len()) {
        let problem = format!(
            "scores, distances and strides have {counts:?} entries, each must have the same, 1 to {STRIDES_MAX}"
        );
        return Err(at.bad(&raw.strides.span(), problem));
    }
    if let Some(stride) = strides.iter().find(|stride| !(1..=STRIDE_PIXELS_MAX).contains(*stride)) {
        let problem = format!("stride {stride} is not allowed, it must be 1 to {STRIDE_PIXELS_MAX}");
        return Err(at.bad(&raw.strides.span(), problem));
    }
    for name in &raw.scores {
        context.output(at, name, &[3])?;
    }
    for name in &raw.distances {
        let port = context.output(at, name, &[3])?;
        let bins = port.shape.last().copied().flatten().filter(|length| length % 4 == 0 && *length >= 8);
        if bins.is_none() {
            let problem = format!("output {:?}: its last dimension must be 4 × bins, 2 bins or more", port.name);
            return Err(at.bad(&name.span(), problem));
        }
    }
    let names = |raw: &[Spanned<String>]| raw.iter().map(|name| name.get_ref().clone()).collect();
    let keep = keep(at, &raw.score_min, &raw.overlap_max, &raw.count_max)?;
    Ok(Detections { scores: names(&raw.scores), distances: names(&raw.distances), strides: strides.clone(), keep })
}

fn faces(at: &At<'_>, raw: &RawFaces, context: &Context<'_>) -> Result<Faces, ManifestError> {
    context.needs_picture(at, &raw.heatmap.span())?;
    let output = |name: &Spanned<String>, channels: usize| {
        let port = context.output(at, name, &[4])?;
        if port.shape[1].is_some_and(|length| length != channels) {
            let problem = format!("output {:?}: its second dimension must be {channels}", port.name);
            return Err(at.bad(&name.span(), problem));
        }
        Ok(port.name.clone())
    };
    Ok(Faces {
        heatmap: output(&raw.heatmap, 1)?,
        sizes: output(&raw.sizes, 2)?,
        offsets: output(&raw.offsets, 2)?,
        landmarks: output(&raw.landmarks, 10)?,
        stride: at.within(&raw.stride, 1, STRIDE_PIXELS_MAX)?,
        keep: keep(at, &raw.score_min, &raw.overlap_max, &raw.count_max)?,
    })
}

fn keep(
    at: &At<'_>,
    score_min: &Spanned<f32>,
    overlap_max: &Spanned<f32>,
    count_max: &Spanned<usize>,
) -> Result<Keep, ManifestError> {
    Ok(Keep {
        // Not 0: every cell of the network would be a box.
        score_min: at.within(score_min, 0.01, 1.0)?,
        overlap_max: at.within(overlap_max, 0.0, 1.0)?,
        count_max: at.within(count_max, 1, DETECTIONS_MAX)?,
    })
}

fn labels(at: &At<'_>, raw: &Spanned<RawLabels>, context: &Context<'_>) -> Result<Labels, ManifestError> {
    context.needs_labels(at, &raw.span())?;
    let raw = raw.get_ref();
    let scores = context.output(at, &raw.scores, &[1, 2])?.name.clone();
    let score_min = raw.score_min.as_ref().map_or(Ok(f32::MIN), |least| at.within(least, 0.0, 1.0))?;
    Ok(Labels { scores, softmax: raw.softmax, top: at.within(&raw.top, 1, TOP_MAX)?, score_min })
}

fn text(at: &At<'_>, raw: &Spanned<RawText>, context: &Context<'_>) -> Result<Text, ManifestError> {
    context.needs_labels(at, &raw.span())?;
    let scores = context.output(at, &raw.get_ref().scores, &[2, 3])?.name.clone();
    Ok(Text { scores })
}

fn speech(at: &At<'_>, raw: &Spanned<RawSpeech>, context: &Context<'_>) -> Result<Speech, ManifestError> {
    let span = raw.span();
    let raw = raw.get_ref();
    let framed = match context.prepare.map(|prepare| &prepare.medium) {
        Some(Medium::Audio(audio)) => audio.frames.is_some(),
        Some(Medium::Picture(_) | Medium::Bytes(_)) | None => false,
    };
    if !framed {
        return Err(at.bad(&span, "needs [prepare.audio] with hop: its frames tell the time"));
    }
    let start_above = at.within(&raw.start_above, 0.0, 1.0)?;
    let speech = Speech {
        probabilities: context.output(at, &raw.probabilities, &[1, 2])?.name.clone(),
        start_above,
        end_below: at.within(&raw.end_below, 0.0, start_above)?,
        silence_min_ms: raw.silence_min_ms,
        speech_min_ms: raw.speech_min_ms,
    };
    Ok(speech)
}

fn alarm(at: &At<'_>, raw: &RawAlarm, context: &Context<'_>) -> Result<Alarm, ManifestError> {
    let score = context.output(at, &raw.score, &[0, 1, 2, 3, 4])?.name.clone();
    let above = at.within(&raw.above, f32::MIN, f32::MAX)?;
    Ok(Alarm { score, above, alarm: raw.alarm.clone(), normal: raw.normal.clone() })
}

fn columns(at: &At<'_>, raw: &RawColumns, context: &Context<'_>) -> Result<Columns, ManifestError> {
    let port = context.output(at, &raw.output, &[1, 2, 3, 4])?;
    let names = raw.names.get_ref();
    let length = port.shape.last().copied().flatten();
    if length != Some(names.len()) || names.len() > PORTS_MAX {
        let problem = format!(
            "{} names are given, the last dimension of output {:?} must be fixed, as long, and at most {PORTS_MAX}",
            names.len(),
            port.name
        );
        return Err(at.bad(&raw.names.span(), problem));
    }
    Ok(Columns { output: port.name.clone(), names: names.clone() })
}
