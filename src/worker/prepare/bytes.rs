//! From the bytes of a file to a row of integers: its beginning and its end, white space taken off.

use super::{Geometry, filled, undecodable};
use crate::fault::Fault;
use crate::model::manifest::{ByteWindow, Port};
use crate::tensor::{DataType, Tensor};

pub(super) fn prepare(window: &ByteWindow, port: &Port, medium: &[u8]) -> Result<(Tensor, Geometry), Fault> {
    let tokens = tokens(window, medium)?;
    let shape = vec![1, tokens.len()];
    let data = if port.datatype == DataType::Int64 {
        tokens.iter().flat_map(|token| i64::from(*token).to_le_bytes()).collect()
    } else {
        tokens.iter().flat_map(|token| i32::from(*token).to_le_bytes()).collect()
    };
    let tensor = filled(port, port.datatype, shape, data)?;
    Ok((tensor, Geometry::Bytes { length: medium.len() }))
}

fn tokens(window: &ByteWindow, medium: &[u8]) -> Result<Vec<u16>, Fault> {
    let block = window.block.min(medium.len());
    let mut head = &medium[..block];
    let mut tail = &medium[medium.len() - block..];
    if window.strip {
        head = &head[head.iter().position(|byte| !is_space(*byte)).unwrap_or(head.len())..];
        tail = &tail[..tail.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1)];
    }
    if head.len() < window.length_min {
        let why = format!(
            "{} bytes without leading white space are too few to judge, at least {} are needed",
            head.len(),
            window.length_min
        );
        return Err(undecodable("content", why));
    }
    let head = &head[..head.len().min(window.begin)];
    let tail = &tail[tail.len() - tail.len().min(window.end)..];
    let mut tokens = Vec::with_capacity(window.begin + window.end);
    tokens.extend(head.iter().copied().map(u16::from));
    tokens.resize(window.begin + window.end - tail.len(), window.padding);
    tokens.extend(tail.iter().copied().map(u16::from));
    Ok(tokens)
}

/// White space as C knows it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: ByteWindow = ByteWindow { begin: 4, end: 3, block: 8, strip: true, padding: 256, length_min: 2 };

    #[test]
    fn both_ends_are_taken_without_white_space() {
        assert_eq!(tokens(&WINDOW, b" \x0babcdefgh \n").unwrap(), [97, 98, 99, 100, 102, 103, 104]);
    }

    #[test]
    fn what_is_short_is_padded_behind_the_beginning_and_before_the_end() {
        assert_eq!(tokens(&WINDOW, b"ab").unwrap(), [97, 98, 256, 256, 256, 97, 98]);
    }

    #[test]
    fn white_space_between_the_blocks_does_not_count() {
        let mut long = b"xy".to_vec();
        long.extend([b' '; 20]);
        assert_eq!(tokens(&WINDOW, &long).unwrap(), [120, 121, 32, 32, 256, 256, 256]);
    }

    #[test]
    fn too_little_to_judge_is_a_fault() {
        let fault = tokens(&WINDOW, b"   a").unwrap_err();
        assert_eq!(
            fault.to_string(),
            "input.decode: content: 1 bytes without leading white space are too few to judge, at least 2 are needed"
        );
        assert!(tokens(&WINDOW, b"").is_err());
    }
}
