//! Checks of `[prepare]`: the medium must give exactly what the input takes.

use std::ops::Range;

use toml::Spanned;

use super::super::raw::{RawAudio, RawBytes, RawColour, RawFit, RawLayout, RawPicture, RawPrepare};
use super::super::{
    Audio, ByteWindow, Colour, Fit, Frames, Layout, Medium, NETWORK_SIDE_MAX, Picture, Port, Prepare,
    SOUND_SECONDS_MAX, Size,
};
use super::{At, ManifestError, prose};
use crate::tensor::DataType;
use crate::units::ELEMENTS_MAX;

/// Bounds of a sound's sample rate, in hertz.
const SAMPLE_RATES: (u32, u32) = (4_000, 192_000);
/// Longest frame of a sound, in samples.
const FRAME_SAMPLES_MAX: usize = 1 << 20;
/// Most bytes that are looked at, at either end of a file.
const BLOCK_BYTES_MAX: usize = 1 << 20;

pub(super) fn check(at: &At<'_>, raw: &Spanned<RawPrepare>, inputs: &[Port]) -> Result<Prepare, ManifestError> {
    let span = raw.span();
    let raw = raw.get_ref();
    let accepts = prose(at, &raw.accepts)?;
    if inputs.iter().any(|port| port.name == accepts) {
        let problem = format!("{accepts:?} is also an input of the network: give the medium another name");
        return Err(at.bad(&raw.accepts.span(), problem));
    }
    let input = raw.input.get_ref();
    let port = inputs.iter().find(|port| port.name == *input).ok_or_else(|| {
        let names: Vec<&str> = inputs.iter().map(|port| port.name.as_str()).collect();
        at.bad(&raw.input.span(), format!("{input:?} is not an input, it must be one of {}", names.join(", ")))
    })?;
    let medium = match (&raw.picture, &raw.audio, &raw.bytes) {
        (Some(raw), None, None) => Medium::Picture(picture(at, raw, port)?),
        (None, Some(raw), None) => Medium::Audio(audio(at, raw, port)?),
        (None, None, Some(raw)) => Medium::Bytes(bytes(at, raw, port)?),
        _ => {
            let problem = "needs exactly one of [prepare.picture], [prepare.audio], [prepare.bytes]";
            return Err(at.bad(&span, problem));
        }
    };
    Ok(Prepare { accepts, input: input.clone(), medium })
}

fn picture(at: &At<'_>, raw: &Spanned<RawPicture>, port: &Port) -> Result<Picture, ManifestError> {
    let span = raw.span();
    let raw = raw.get_ref();
    let size = size(at, raw, &span)?;
    let fit = match raw.fit {
        RawFit::Stretch => Fit::Stretch,
        RawFit::Letterbox => Fit::Letterbox,
        RawFit::Pad => Fit::Pad,
    };
    let layout = match raw.layout {
        RawLayout::Nchw => Layout::Nchw,
        RawLayout::Nhwc => Layout::Nhwc,
    };
    let colour = match raw.colour {
        RawColour::Rgb => Colour::Rgb,
        RawColour::Bgr => Colour::Bgr,
        RawColour::Gray => Colour::Gray,
    };
    let scale = raw.scale.as_ref().map_or(Ok(1.0), |scale| at.within(scale, -1e6, 1e6))?;
    let mean = per_channel(at, raw.mean.as_ref(), colour, 0.0)?;
    let std = per_channel(at, raw.std.as_ref(), colour, 1.0)?;
    if let Some(raw) = raw.std.as_ref().filter(|_| std.contains(&0.0)) {
        return Err(at.bad(&raw.span(), "0 is not allowed: values are divided by it"));
    }
    let picture = Picture { size, fit, layout, colour, scale, mean, std, border: raw.border };
    let plain = scale.to_bits() == 1.0_f32.to_bits() && mean == [0.0; 3] && std == [1.0; 3];
    if port.datatype == DataType::Uint8 && !plain {
        let problem = format!("input {:?} is UINT8: scale, mean and std are not allowed", port.name);
        return Err(at.bad(&span, problem));
    }
    if !matches!(port.datatype, DataType::Fp32 | DataType::Uint8) {
        let problem = format!("input {:?} is {}, a picture fills FP32 or UINT8", port.name, port.datatype);
        return Err(at.bad(&span, problem));
    }
    fits_picture(at, &picture, port, &span)?;
    Ok(picture)
}

fn size(at: &At<'_>, raw: &RawPicture, span: &Range<usize>) -> Result<Size, ManifestError> {
    let multiple_of = raw.multiple_of.unwrap_or(1);
    let size = match (raw.width, raw.height, raw.side_max, raw.width_max) {
        (Some(width), Some(height), None, None) if raw.multiple_of.is_none() => Size::Fixed { width, height },
        (None, None, Some(side_max), None) => Size::Within { side_max, multiple_of },
        (None, Some(height), None, Some(width_max)) => Size::Height { height, width_max, multiple_of },
        _ => {
            let problem = "the size must be width and height, or side_max and multiple_of, \
                           or height, width_max and multiple_of";
            return Err(at.bad(span, problem));
        }
    };
    let (sides, rounded) = match size {
        Size::Fixed { width, height } => ([width, height], 0),
        Size::Within { side_max, .. } => ([side_max, side_max], side_max),
        Size::Height { height, width_max, .. } => ([height, width_max], width_max),
    };
    if sides.iter().any(|side| !(1..=NETWORK_SIDE_MAX).contains(side)) {
        let problem = format!("sides of {sides:?} pixels are not allowed, each must be 1 to {NETWORK_SIDE_MAX}");
        return Err(at.bad(span, problem));
    }
    if multiple_of == 0 || rounded % multiple_of != 0 {
        let problem = format!("{rounded} pixels is not a multiple of multiple_of = {multiple_of}");
        return Err(at.bad(span, problem));
    }
    Ok(size)
}

fn per_channel(
    at: &At<'_>,
    raw: Option<&Spanned<Vec<f32>>>,
    colour: Colour,
    default: f32,
) -> Result<[f32; 3], ManifestError> {
    let Some(raw) = raw else { return Ok([default; 3]) };
    match (raw.get_ref().as_slice(), colour.channels()) {
        (values, _) if values.iter().any(|value| !value.is_finite()) => {
            Err(at.bad(&raw.span(), "must be finite numbers"))
        }
        (&[a, b, c], 3) => Ok([a, b, c]),
        (&[a], 1) => Ok([a, default, default]),
        (values, channels) => {
            Err(at.bad(&raw.span(), format!("{} numbers are given, one a channel makes {channels}", values.len())))
        }
    }
}

fn fits_picture(at: &At<'_>, picture: &Picture, port: &Port, span: &Range<usize>) -> Result<(), ManifestError> {
    let (width, height) = match picture.size {
        Size::Fixed { width, height } => (Some(width), Some(height)),
        Size::Within { .. } => (None, None),
        Size::Height { height, .. } => (None, Some(height)),
    };
    let side = |side: Option<u32>| side.and_then(|side| usize::try_from(side).ok());
    let (width, height, channels) = (side(width), side(height), Some(picture.colour.channels()));
    let gives = match picture.layout {
        Layout::Nchw => [Some(1), channels, height, width],
        Layout::Nhwc => [Some(1), height, width, channels],
    };
    fits(at, &gives, port, span, "picture")
}

/// Whether a medium that gives that shape (`None`: varies) always fills the input.
fn fits(
    at: &At<'_>,
    gives: &[Option<usize>],
    port: &Port,
    span: &Range<usize>,
    what: &str,
) -> Result<(), ManifestError> {
    let fits = port.shape.len() == gives.len()
        && port.shape.iter().zip(gives).all(|(takes, gives)| takes.is_none() || takes == gives);
    if fits {
        return Ok(());
    }
    let write = |shape: &[Option<usize>]| {
        let sides: Vec<String> =
            shape.iter().map(|side| side.map_or_else(|| "-1".to_owned(), |side| side.to_string())).collect();
        format!("[{}]", sides.join(","))
    };
    let problem =
        format!("the {what} gives {}, input {:?} takes {}", write(gives), port.name, write(port.shape.as_slice()));
    Err(at.bad(span, problem))
}

fn audio(at: &At<'_>, raw: &Spanned<RawAudio>, port: &Port) -> Result<Audio, ManifestError> {
    let span = raw.span();
    let raw = raw.get_ref();
    let sample_rate = at.within(&raw.sample_rate, SAMPLE_RATES.0, SAMPLE_RATES.1)?;
    let seconds_max = at.within(&raw.seconds_max, 1, SOUND_SECONDS_MAX)?;
    let frames = match (&raw.hop, &raw.context) {
        (None, None) => None,
        (None, Some(context)) => return Err(at.bad(&context.span(), "context needs hop")),
        (Some(hop), context) => {
            let hop = at.within(hop, 1, FRAME_SAMPLES_MAX)?;
            let context = context.as_ref().map_or(Ok(0), |context| at.within(context, 0, FRAME_SAMPLES_MAX))?;
            Some(Frames { hop, context })
        }
    };
    if port.datatype != DataType::Fp32 {
        let problem = format!("input {:?} is {}, a sound fills FP32", port.name, port.datatype);
        return Err(at.bad(&span, problem));
    }
    let gives = match frames {
        Some(frames) => [None, Some(frames.hop + frames.context)],
        None => [Some(1), None],
    };
    fits(at, &gives, port, &span, "sound")?;
    Ok(Audio { sample_rate, frames, seconds_max })
}

fn bytes(at: &At<'_>, raw: &Spanned<RawBytes>, port: &Port) -> Result<ByteWindow, ManifestError> {
    let span = raw.span();
    let raw = raw.get_ref();
    let block = at.within(&raw.block, 1, BLOCK_BYTES_MAX)?;
    let (begin, end) = (raw.begin, raw.end);
    if begin.saturating_add(end) == 0 || begin.saturating_add(end) > ELEMENTS_MAX || begin.max(end) > block {
        let problem = format!("begin = {begin} and end = {end} must not both be 0, and neither above block = {block}");
        return Err(at.bad(&span, problem));
    }
    if !matches!(port.datatype, DataType::Int32 | DataType::Int64) {
        let problem = format!("input {:?} is {}, bytes fill INT32 or INT64", port.name, port.datatype);
        return Err(at.bad(&span, problem));
    }
    fits(at, &[Some(1), Some(begin + end)], port, &span, "byte window")?;
    let padding = *raw.padding.get_ref();
    Ok(ByteWindow { begin, end, block, strip: raw.strip, padding, length_min: raw.length_min })
}
