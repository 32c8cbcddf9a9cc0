//! How are integers, texts and tensors written into a frame, and read from one that may be hostile?

use std::time::Duration;

use super::{BadFrame, NOTE_BYTES_MAX, NOTES_MAX, PREFIX_BYTES, STRINGS_MAX};
use crate::fault::{Code, Fault};
use crate::tensor::{DataType, Tensor};
use crate::units::{Digest, FAULT_TEXT_BYTES_MAX, FRAME_BYTES_MAX, RANK_MAX, TENSORS_MAX};

/// Writes one frame.
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn new(kind: u8) -> Self {
        Self { bytes: vec![0, 0, 0, 0, kind] }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A length; one that u32 cannot hold makes the frame too long, which [`Writer::finish`] refuses.
    pub(super) fn length(&mut self, value: usize) {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }

    pub(super) fn span(&mut self, span: Duration) {
        self.u64(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn digest(&mut self, digest: Digest) {
        self.bytes.extend_from_slice(&digest.0);
    }

    pub(super) fn blob(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.blob(text.as_bytes());
    }

    pub(super) fn tensors(&mut self, tensors: &[Tensor]) {
        self.length(tensors.len());
        for tensor in tensors {
            self.text(&tensor.name);
            self.text(tensor.datatype.as_str());
            self.length(tensor.shape.len());
            for dimension in &tensor.shape {
                self.u64(*dimension as u64);
            }
            self.blob(&tensor.data);
        }
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, BadFrame> {
        let length = self.bytes.len() - PREFIX_BYTES;
        let prefix = u32::try_from(length).ok().filter(|_| length <= FRAME_BYTES_MAX);
        let Some(prefix) = prefix else { return Err(BadFrame::TooLong { bytes: length as u64 }) };
        self.bytes[..PREFIX_BYTES].copy_from_slice(&prefix.to_le_bytes());
        Ok(self.bytes)
    }
}

/// Reads one frame; every step says what it was reading when the bytes ran out.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Result<(u8, Self), BadFrame> {
        let (kind, rest) = frame.split_first().ok_or(BadFrame::Kind { kind: 0 })?;
        Ok((*kind, Self { rest }))
    }

    pub(super) fn take(&mut self, bytes: usize, field: &'static str) -> Result<&'a [u8], BadFrame> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(BadFrame::Short { field })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], BadFrame> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(BadFrame::Short { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, BadFrame> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, BadFrame> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, BadFrame> {
        match self.array(field)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(BadFrame::Field { field, why: format!("{other} is neither 0 nor 1") }),
        }
    }

    pub(super) fn span(&mut self, field: &'static str) -> Result<Duration, BadFrame> {
        Ok(Duration::from_nanos(self.u64(field)?))
    }

    pub(super) fn digest(&mut self) -> Result<Digest, BadFrame> {
        Ok(Digest(self.array("digest")?))
    }

    /// A count or length of at most `most`.
    pub(super) fn length(&mut self, field: &'static str, most: usize) -> Result<usize, BadFrame> {
        let length = self.u32(field)? as usize;
        if length > most {
            return Err(BadFrame::Field { field, why: format!("{length} is above {most}") });
        }
        Ok(length)
    }

    pub(super) fn blob(&mut self, field: &'static str, most: usize) -> Result<&'a [u8], BadFrame> {
        let length = self.length(field, most)?;
        self.take(length, field)
    }

    pub(super) fn text(&mut self, field: &'static str, most: usize) -> Result<String, BadFrame> {
        let bytes = self.blob(field, most)?;
        let text = str::from_utf8(bytes).map_err(|error| BadFrame::Field { field, why: error.to_string() })?;
        Ok(text.to_owned())
    }

    pub(super) fn notes(&mut self) -> Result<Vec<String>, BadFrame> {
        let count = self.length("notes", NOTES_MAX)?;
        (0..count).map(|_| self.text("note", NOTE_BYTES_MAX)).collect()
    }

    pub(super) fn fault(&mut self) -> Result<Fault, BadFrame> {
        let code = self.text("code", NOTE_BYTES_MAX)?;
        let message = self.text("message", FAULT_TEXT_BYTES_MAX)?;
        let known = Code::parse(&code);
        let code = known.ok_or_else(|| refused("code", &format!("{code:?} is unknown")))?;
        Ok(Fault::new(code, message))
    }

    pub(super) fn tensors(&mut self) -> Result<Vec<Tensor>, BadFrame> {
        let count = self.length("tensors", TENSORS_MAX)?;
        (0..count).map(|_| self.tensor()).collect()
    }

    pub(super) fn tensor(&mut self) -> Result<Tensor, BadFrame> {
        let name = self.text("tensor name", FRAME_BYTES_MAX)?;
        let datatype = self.text("datatype", NOTE_BYTES_MAX)?;
        let known = DataType::parse(&datatype);
        let datatype = known.ok_or_else(|| refused("datatype", &format!("{datatype:?} is unknown")))?;
        let rank = self.length("rank", RANK_MAX)?;
        let mut shape = Vec::with_capacity(rank);
        for _ in 0..rank {
            let dimension = self.u64("dimension")?;
            shape.push(usize::try_from(dimension).map_err(|error| refused("dimension", &error.to_string()))?);
        }
        let data = self.blob("data", FRAME_BYTES_MAX)?;
        if datatype == DataType::Bytes && !few_strings(data) {
            return Err(refused("data", &format!("it has more than {STRINGS_MAX} BYTES elements")));
        }
        Tensor::new(name, datatype, shape, data.to_vec()).map_err(|error| refused("tensor", &error.to_string()))
    }

    pub(super) fn finish(self) -> Result<(), BadFrame> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadFrame::Long { bytes: self.rest.len() }) }
    }
}

/// Whether a BYTES tensor has at most [`STRINGS_MAX`] elements. Whether they fill it is for [`Tensor::new`] to say.
fn few_strings(mut data: &[u8]) -> bool {
    for _ in 0..STRINGS_MAX {
        let Some((length, rest)) = data.split_first_chunk::<4>() else { return true };
        let Some(rest) = rest.get(u32::from_le_bytes(*length) as usize..) else { return true };
        data = rest;
    }
    data.is_empty()
}

/// A field that is not acceptable. The reason repeats what the other side wrote, so it is cut.
fn refused(field: &'static str, why: &str) -> BadFrame {
    BadFrame::Field { field, why: cut(why, NOTE_BYTES_MAX).to_owned() }
}

/// At most `bytes` bytes of a text, cut between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
