//! From a WAV to samples: mixed to one channel, at the network's rate, cut into frames.

use std::io::Cursor;

use hound::{SampleFormat, WavReader};

use super::{Geometry, f32s, undecodable};
use crate::fault::Fault;
use crate::model::manifest::{Audio, Frames, Port};
use crate::tensor::Tensor;
use crate::units::ELEMENTS_MAX;

/// Most channels of a sound.
const CHANNELS_MAX: u16 = 8;
/// Bounds of a sound's own sample rate, in hertz.
const SAMPLE_RATES: std::ops::RangeInclusive<u32> = 4_000..=192_000;

pub(super) fn prepare(audio: &Audio, port: &Port, medium: &[u8]) -> Result<(Tensor, Geometry), Fault> {
    let (samples, rate) = decode(audio, medium)?;
    let samples = resample(&samples, rate, audio.sample_rate);
    let geometry = Geometry::Audio { samples: samples.len(), sample_rate: audio.sample_rate };
    let tensor = match audio.frames {
        None => f32s(port, vec![1, samples.len()], &samples)?,
        Some(frames) => {
            let window = frames.hop + frames.context;
            let count = samples.len().div_ceil(frames.hop);
            if count.saturating_mul(window) > ELEMENTS_MAX {
                let why = format!("{count} frames of {window} samples are more than {ELEMENTS_MAX}: send it in parts");
                return Err(undecodable("sound", why));
            }
            f32s(port, vec![count, window], &framed(&samples, frames))?
        }
    };
    Ok((tensor, geometry))
}

/// All channels as one, -1 to 1, and the sound's own rate.
fn decode(audio: &Audio, medium: &[u8]) -> Result<(Vec<f32>, u32), Fault> {
    check_format(medium)?;
    let broken = |error: hound::Error| undecodable("sound", format!("{error} (a PCM or float WAV is needed)"));
    let reader = WavReader::new(Cursor::new(medium)).map_err(broken)?;
    let spec = reader.spec();
    if !SAMPLE_RATES.contains(&spec.sample_rate) || spec.channels > CHANNELS_MAX {
        let why = format!(
            "{} channels at {} Hz; at most {CHANNELS_MAX} at {} to {} Hz are allowed",
            spec.channels,
            spec.sample_rate,
            SAMPLE_RATES.start(),
            SAMPLE_RATES.end()
        );
        return Err(undecodable("sound", why));
    }
    let longest = u64::from(audio.seconds_max) * u64::from(spec.sample_rate);
    if reader.duration() == 0 || u64::from(reader.duration()) > longest {
        let seconds = f64::from(reader.duration()) / f64::from(spec.sample_rate);
        let why = format!("{seconds:.1} s long; more than 0 and at most {} s are allowed", audio.seconds_max);
        return Err(undecodable("sound", why));
    }
    let samples: Vec<f32> = match spec.sample_format {
        SampleFormat::Float => reader.into_samples::<f32>().collect::<Result<_, _>>().map_err(broken)?,
        SampleFormat::Int => {
            let full = 2_f32.powi(i32::from(spec.bits_per_sample) - 1);
            #[expect(clippy::cast_precision_loss, reason = "more than 24 bits are below any network's resolution")]
            let value = |sample: Result<i32, hound::Error>| sample.map(|sample| sample as f32 / full);
            reader.into_samples::<i32>().map(value).collect::<Result<_, _>>().map_err(broken)?
        }
    };
    if samples.iter().any(|sample| !sample.is_finite()) {
        return Err(undecodable("sound", "it has samples that are not finite numbers"));
    }
    let channels = f32::from(spec.channels);
    let mixed = samples.chunks_exact(usize::from(spec.channels)).map(|frame| frame.iter().sum::<f32>() / channels);
    Ok((mixed.collect(), spec.sample_rate))
}

/// Refuses a format chunk that claims samples of no bytes: hound 3.5.1 divides by that size.
fn check_format(medium: &[u8]) -> Result<(), Fault> {
    let mut rest = medium.get(12..).unwrap_or_default();
    while let Some((kind, tail)) = rest.split_first_chunk::<4>() {
        let Some((length, body)) = tail.split_first_chunk::<4>() else { break };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if kind == b"fmt " {
            let field = |at: usize| body.get(at..at + 2).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]));
            let (channels, block, bits) = (field(2), field(12), field(14));
            if channels == 0 || block < channels || bits == 0 {
                let why = format!("{bits} bits a sample, {channels} channels in {block} bytes make no sense");
                return Err(undecodable("sound", why));
            }
        }
        rest = body.get(length..).unwrap_or_default();
    }
    Ok(())
}

/// Linear interpolation; when the rate falls, a triangle as wide as the new samples, against aliasing. Good enough for
/// speech; sounds whose treble matters should come at the network's rate.
fn resample(samples: &[f32], from: u32, to: u32) -> Vec<f32> {
    if from == to {
        return samples.to_vec();
    }
    let step = f64::from(from) / f64::from(to);
    let reach = step.max(1.0);
    let length = u64::try_from(samples.len()).unwrap_or(u64::MAX).saturating_mul(u64::from(to)).div_ceil(from.into());
    (0..length)
        .map(|at| {
            #[expect(clippy::cast_precision_loss, reason = "a position in a sound is far below 2^53")]
            let centre = at as f64 * step;
            weigh(samples, centre, reach)
        })
        .collect()
}

/// Mean of the samples around a position, weighed by a triangle that ends `reach` away on both sides.
fn weigh(samples: &[f32], centre: f64, reach: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0, below 2^53")]
    let (first, last) = ((centre - reach).ceil().max(0.0) as usize, (centre + reach).floor() as usize);
    let (mut sum, mut weights) = (0.0, 0.0);
    for (at, sample) in samples.iter().enumerate().take(last.saturating_add(1)).skip(first) {
        #[expect(clippy::cast_precision_loss, reason = "a position in a sound is far below 2^53")]
        let weight = 1.0 - (at as f64 - centre).abs() / reach;
        sum += f64::from(*sample) * weight;
        weights += weight;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a mean of f32 values")]
    let mean = if weights > 0.0 { (sum / weights) as f32 } else { 0.0 };
    mean
}

/// Rows of `context` samples before, then `hop` new ones; zeros before the beginning and after the end.
fn framed(samples: &[f32], frames: Frames) -> Vec<f32> {
    let count = samples.len().div_ceil(frames.hop);
    let mut values = Vec::with_capacity(count * (frames.hop + frames.context));
    for row in 0..count {
        let start = row * frames.hop;
        let missing = frames.context.saturating_sub(start);
        values.resize(values.len() + missing, 0.0);
        let before = &samples[start + missing - frames.context..start];
        let new = &samples[start..samples.len().min(start + frames.hop)];
        values.extend_from_slice(before);
        values.extend_from_slice(new);
        values.resize((row + 1) * (frames.hop + frames.context), 0.0);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_repeat_what_came_before() {
        let rows = framed(&[1.0, 2.0, 3.0, 4.0, 5.0], Frames { hop: 2, context: 3 });
        assert_eq!(rows, [0., 0., 0., 1., 2., 0., 1., 2., 3., 4., 2., 3., 4., 5., 0.]);
    }

    #[test]
    fn half_the_rate_takes_a_weighed_mean() {
        assert_eq!(resample(&[0.0, 1.0, 0.0, 1.0, 0.0, 1.0], 16_000, 8_000)[1..], [0.5, 0.5]);
    }

    #[test]
    fn twice_the_rate_interpolates() {
        assert_eq!(resample(&[0.0, 1.0, 2.0], 8_000, 16_000), [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]);
    }
}
