//! When somebody speaks: probabilities of frames become segments of time.

use super::{Outputs, numbers, unexpected};
use crate::fault::Fault;
use crate::model::Manifest;
use crate::model::manifest::{Medium, Speech};
use crate::tensor::Tensor;
use crate::worker::prepare::Geometry;

pub(super) fn interpret(
    speech: &Speech,
    manifest: &Manifest,
    geometry: Option<&Geometry>,
    outputs: &Outputs,
) -> Result<Vec<Tensor>, Fault> {
    let output = outputs.numbers(&speech.probabilities)?;
    let clock = manifest.prepare.as_ref().and_then(|prepare| match &prepare.medium {
        Medium::Audio(audio) => audio.frames.map(|frames| (frames.hop, audio.sample_rate)),
        Medium::Picture(_) | Medium::Bytes(_) => None,
    });
    let Some((hop, rate)) = clock else {
        return Err(unexpected(&speech.probabilities, "cannot be timed without [prepare.audio] and its hop"));
    };
    let frame_s = time(hop, 1.0) / f64::from(rate);
    let end_s = match geometry {
        Some(Geometry::Audio { samples, sample_rate }) => time(*samples, 1.0) / f64::from(*sample_rate),
        Some(Geometry::Picture { .. } | Geometry::Bytes { .. }) | None => f64::INFINITY,
    };
    let mut times = Vec::new();
    let mut scores = Vec::new();
    for segment in segments(speech, &output.values, frame_s) {
        let moments = [time(segment.first, frame_s), time(segment.end, frame_s).min(end_s)];
        #[expect(clippy::cast_possible_truncation, reason = "seconds need no more than single precision")]
        times.extend(moments.map(|moment| moment as f32));
        scores.push(segment.mean(&output.values));
    }
    Ok(vec![numbers("segments", vec![scores.len(), 2], &times)?, numbers("scores", vec![scores.len()], &scores)?])
}

/// So many units of that many seconds.
#[expect(clippy::cast_precision_loss, reason = "positions in a sound are far below 2^53")]
fn time(count: usize, unit_s: f64) -> f64 {
    count as f64 * unit_s
}

/// Frames `first..end`, in which somebody speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    first: usize,
    end: usize,
}

impl Segment {
    fn mean(self, probabilities: &[f32]) -> f32 {
        let frames = &probabilities[self.first..self.end];
        let sum: f64 = frames.iter().copied().map(f64::from).sum();
        #[expect(clippy::cast_possible_truncation, reason = "a mean of f32 values")]
        let mean = (sum / time(frames.len(), 1.0).max(1.0)) as f32;
        mean
    }
}

/// A segment begins at `start_above` and ends where the probability fell below `end_below`, when it stays there for
/// `silence_min_ms` or the sound ends.
fn segments(speech: &Speech, probabilities: &[f32], frame_s: f64) -> Vec<Segment> {
    let long_enough = |frames: usize, ms: u32| time(frames, frame_s) * 1000.0 >= f64::from(ms);
    let mut segments = Vec::new();
    let mut first = None;
    let mut quiet_from = None;
    for (frame, probability) in probabilities.iter().enumerate() {
        match (first, quiet_from) {
            (None, _) if *probability >= speech.start_above => first = Some(frame),
            (Some(_), _) if *probability >= speech.end_below => quiet_from = None,
            (Some(from), quiet) => {
                let end = quiet.unwrap_or(frame);
                quiet_from = Some(end);
                if long_enough(frame + 1 - end, speech.silence_min_ms) {
                    segments.push(Segment { first: from, end });
                    (first, quiet_from) = (None, None);
                }
            }
            (None, _) => {}
        }
    }
    if let Some(first) = first {
        segments.push(Segment { first, end: quiet_from.unwrap_or(probabilities.len()) });
    }
    segments.retain(|segment| long_enough(segment.end - segment.first, speech.speech_min_ms));
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speech() -> Speech {
        Speech { probabilities: "p".into(), start_above: 0.5, end_below: 0.3, silence_min_ms: 200, speech_min_ms: 200 }
    }

    fn found(probabilities: &[f32]) -> Vec<(usize, usize)> {
        segments(&speech(), probabilities, 0.1).iter().map(|segment| (segment.first, segment.end)).collect()
    }

    #[test]
    fn a_short_pause_does_not_end_a_segment() {
        assert_eq!(found(&[0.1, 0.6, 0.9, 0.2, 0.9, 0.8, 0.1, 0.1, 0.1]), [(1, 6)]);
    }

    #[test]
    fn a_long_pause_ends_it_where_the_pause_began() {
        assert_eq!(found(&[0.9, 0.9, 0.1, 0.1, 0.9, 0.9]), [(0, 2), (4, 6)]);
    }

    #[test]
    fn between_the_thresholds_nothing_starts_and_nothing_ends() {
        assert_eq!(found(&[0.4, 0.4, 0.6, 0.4, 0.4, 0.4]), [(2, 6)]);
    }

    #[test]
    fn a_click_is_not_speech() {
        assert_eq!(found(&[0.1, 0.9, 0.1, 0.1, 0.1]), []);
    }

    #[test]
    fn silence_gives_no_segment() {
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[0.0; 9]), []);
    }
}
