//! How much would this file become in memory? Walks the protobuf bytes without building anything.
//!
//! A file of two bytes a message would become hundreds of times its size when it is decoded; so the messages are counted
//! first. What is inside texts and tensors is passed over, so this takes microseconds a megabyte.

use super::text::refuse;
use crate::fault::{Code, Fault};

/// Most messages in a file: nodes, attributes, tensors, dimensions and so on.
pub const MESSAGES_MAX: usize = 250_000;
/// Most fields in a file.
pub const FIELDS_MAX: usize = 2_000_000;
/// Most bytes of packed integers, which become up to eight times as many.
pub const PACKED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Deepest nesting of messages. Four inner graphs need 23.
pub const DEPTH_MAX: usize = 40;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Value,
    Type,
    TypeOfTensor,
    Shape,
    Training,
    Function,
    Annotation,
    /// One that holds no others.
    Leaf,
}

impl Kind {
    /// What a field of this message holds, if it holds messages. Numbers are those of `onnx.proto3`.
    fn inner(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Some(Self::Graph),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Some(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::Sparse),
            (Self::Graph, 11..=13) | (Self::Function, 12) => Some(Self::Value),
            (Self::Value, 2) | (Self::Attribute, 14 | 15) => Some(Self::Type),
            (Self::Type, 1) => Some(Self::TypeOfTensor),
            (Self::TypeOfTensor, 2) => Some(Self::Shape),
            (Self::Model, 20) => Some(Self::Training),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 14) => Some(Self::Annotation),
            (Self::Model, 8 | 14)
            | (Self::Tensor, 3 | 13)
            | (Self::Shape, 1)
            | (Self::Training, 3 | 4)
            | (Self::Function, 9)
            | (Self::Annotation, 2) => Some(Self::Leaf),
            _ => None,
        }
    }

    /// Whether a field of bytes is a packed list of integers.
    fn is_packed(self, field: u64) -> bool {
        matches!((self, field), (Self::Tensor, 1 | 5 | 7 | 11) | (Self::Attribute, 8) | (Self::Sparse, 3))
    }
}

/// Refuses a file that is no protobuf, or that would become too much of it.
pub(super) fn check(file: &[u8]) -> Result<(), Fault> {
    if file.is_empty() {
        return refuse(Code::ModelParse, "the file is empty, 0 bytes long; export the model to ONNX again");
    }
    let packing =
        [(&[0x1f, 0x8b][..], "gzip"), (b"PK\x03\x04", "zip"), (b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd")];
    if let Some((_, name)) = packing.into_iter().find(|(magic, _)| file.starts_with(magic)) {
        return refuse(Code::ModelParse, format!("the file is packed ({name}); unpack it to the ONNX file inside"));
    }
    Walk { file, at: 0, messages: 0, fields: 0, packed_bytes: 0 }.message(Kind::Model, file.len(), 0)
}

struct Walk<'a> {
    file: &'a [u8],
    at: usize,
    messages: usize,
    fields: usize,
    packed_bytes: usize,
}

impl Walk<'_> {
    fn message(&mut self, kind: Kind, end: usize, depth: usize) -> Result<(), Fault> {
        self.messages += 1;
        limit("messages", self.messages, MESSAGES_MAX)?;
        if depth > DEPTH_MAX {
            let text = format!("its parts are nested deeper than {DEPTH_MAX} messages; simplify the model");
            return refuse(Code::ModelTooLarge, text);
        }
        if kind == Kind::Leaf {
            self.at = end;
            return Ok(());
        }
        while self.at < end {
            self.fields += 1;
            limit("fields", self.fields, FIELDS_MAX)?;
            let key = self.varint(end)?;
            let field = key >> 3;
            match (key & 7, field) {
                (_, 0) => return self.nonsense("a field of number 0"),
                (0, _) => _ = self.varint(end)?,
                (1, _) => _ = self.skip(8, end)?,
                (5, _) => _ = self.skip(4, end)?,
                (2, _) => {
                    let length = self.varint(end)?;
                    let from = self.at;
                    let inner_end = self.skip(length, end)?;
                    if let Some(inner) = kind.inner(field) {
                        self.at = from;
                        self.message(inner, inner_end, depth + 1)?;
                    } else if kind.is_packed(field) {
                        self.packed_bytes += inner_end - from;
                        limit("bytes of packed integers", self.packed_bytes, PACKED_BYTES_MAX)?;
                    }
                }
                (wire, _) => return self.nonsense(&format!("a field of wire type {wire}, which ONNX does not use")),
            }
        }
        Ok(())
    }

    /// Passes over some bytes; the position behind them.
    fn skip(&mut self, bytes: u64, end: usize) -> Result<usize, Fault> {
        let room = end - self.at;
        match usize::try_from(bytes) {
            Ok(bytes) if bytes <= room => {
                self.at += bytes;
                Ok(self.at)
            }
            Ok(_) | Err(_) => self.nonsense(&format!("a field of {bytes} bytes where only {room} are left")),
        }
    }

    fn varint(&mut self, end: usize) -> Result<u64, Fault> {
        let mut value = 0;
        for (nth, byte) in self.file[self.at..end].iter().take(10).enumerate() {
            // The tenth byte holds the one bit that is left.
            if nth == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                self.at += nth + 1;
                return Ok(value);
            }
        }
        self.nonsense("a number that does not end")
    }

    fn nonsense<T>(&self, what: &str) -> Result<T, Fault> {
        let text = format!(
            "this is not a readable ONNX file: at byte {} of {} is {what}; export the model again, or copy it again whole",
            self.at,
            self.file.len()
        );
        refuse(Code::ModelParse, text)
    }
}

fn limit(what: &str, count: usize, most: usize) -> Result<(), Fault> {
    if count <= most {
        return Ok(());
    }
    refuse(Code::ModelTooLarge, format!("the file holds more than {most} {what}, the most allowed; simplify the model"))
}
