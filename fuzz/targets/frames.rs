//! What agent and worker say to each other, when the other side has been taken over.

use neap::units::FRAME_BYTES_MAX;
use neap::worker::protocol::{BadFrame, Frames, FromWorker, PREFIX_BYTES, STRINGS_MAX, ToWorker, data_bytes};

use super::{bounded, fits, is_plain};

/// Memory for each byte of a frame: a tensor's bytes are copied, and four bytes of an empty string are sixteen while
/// they are counted.
const HELD_PER_BYTE: u64 = 16;
/// Longest sentence about a bad frame.
const SENTENCE_BYTES_MAX: usize = 2048;

/// A stream of frames with their length prefixes, and the same bytes as one frame without.
pub fn worker_frames(bytes: &[u8]) {
    frame(bytes);
    // In pieces of a length that the bytes choose: frames do not end where reads end.
    let piece = usize::from(bytes.last().copied().unwrap_or(0)) + 1;
    let mut frames = Frames::default();
    let mut taken = 0;
    for piece in bytes.chunks(piece) {
        frames.extend(piece);
        loop {
            match frames.next_frame() {
                Ok(Some(found)) => {
                    taken += found.len() + PREFIX_BYTES;
                    frame(found);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(matches!(error, BadFrame::TooLong { bytes } if bytes > FRAME_BYTES_MAX as u64), "{error}");
                    return;
                }
            }
        }
        frames.shrink();
    }
    assert!(taken <= bytes.len());
    assert_eq!(frames.is_empty(), taken == bytes.len(), "every byte is in a frame, or waits for the rest of its frame");
}

fn frame(frame: &[u8]) {
    match bounded(frame.len(), HELD_PER_BYTE, || ToWorker::decode(frame)) {
        Ok(message) => {
            let encoded = message.encode().expect("what fitted a frame fits one again");
            assert_eq!(&encoded[PREFIX_BYTES..], frame, "one message has one form");
            if let ToWorker::Run(run) = &message {
                run.tensors.iter().for_each(fits);
            }
        }
        Err(error) => is_plain(&error.to_string(), SENTENCE_BYTES_MAX),
    }
    match bounded(frame.len(), HELD_PER_BYTE, || FromWorker::decode(frame)) {
        Ok(message) => {
            let encoded = message.encode().expect("what fitted a frame fits one again");
            assert_eq!(FromWorker::decode(&encoded[PREFIX_BYTES..]).as_ref(), Ok(&message));
            if let FromWorker::Done(done) = &message {
                done.tensors.iter().for_each(fits);
                assert!(data_bytes(&done.tensors) <= frame.len() as u64);
                let strings = done.tensors.iter().filter_map(|tensor| tensor.to_strings());
                assert!(strings.map(|strings| strings.len()).all(|count| count <= STRINGS_MAX));
            }
            if let FromWorker::Failed(failed) = &message {
                super::is_plain_message(&failed.fault.message);
            }
        }
        Err(error) => is_plain(&error.to_string(), SENTENCE_BYTES_MAX),
    }
}
