//! How does a tensor travel? Open Inference Protocol v2 JSON and Triton's binary tensors, to and from [`Tensor`].
//!
//! A number that its type cannot hold is a fault, never rounded or wrapped; shape and length are checked before
//! anything is allocated for them. What a request may not carry (NaN, infinities) a response may: JSON has no such
//! numbers, so they are written as `null` and read back as NaN.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::json;
use crate::fault::{Code, Fault};
use crate::tensor::{DataType, Tensor, TensorError, elements};
use crate::units::RANK_MAX;

#[cfg(test)]
mod tests;

/// The only `content_encoding` there is.
const BASE64: &str = "base64";

/// Who wrote a tensor, so how strictly it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A controller: unknown parameters and values that are not finite are refused.
    Request,
    /// A node, perhaps a newer one: unknown parameters are skipped, `null` is NaN.
    Response,
}

/// One tensor as it stands in JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct TensorJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestParameters {
    binary_data_size: Option<usize>,
    content_encoding: Option<String>,
}

#[derive(Default, Deserialize)]
struct ResponseParameters {
    binary_data_size: Option<usize>,
    content_encoding: Option<String>,
}

/// Turns the JSON form into a tensor; a binary tensor takes its bytes from the front of `binary`.
///
/// # Errors
/// `input.*` or `job.malformed` with the tensor's name, what was expected and what was got.
pub fn decode(wire: &TensorJson<'_>, binary: &mut &[u8], side: Side) -> Result<Tensor, Fault> {
    let context = Context { name: &wire.name, side };
    let datatype = DataType::parse(&wire.datatype).ok_or_else(|| {
        let known = DataType::ALL.map(DataType::as_str).join(", ");
        context.fault(Code::InputDatatype, format!("datatype {:?} is unknown; use one of {known}", wire.datatype))
    })?;
    let shape = context.shape(&wire.shape)?;
    let parameters = context.parameters(wire.parameters)?;
    let encoded = match parameters.content_encoding.as_deref() {
        None => false,
        Some(BASE64) if datatype == DataType::Bytes => true,
        Some(other) => {
            let text = format!("content_encoding {other:?} is not served; only \"base64\" of BYTES data is");
            return Err(context.fault(Code::JobUnsupported, text));
        }
    };
    match (wire.data, parameters.binary_data_size) {
        (Some(data), None) => {
            let data = context.read(datatype, &shape, data.get(), encoded)?;
            Tensor::new(&*wire.name, datatype, shape, data).map_err(|error| tensor_fault(&error))
        }
        (None, Some(size)) => context.take(datatype, shape, size, binary),
        (Some(_), Some(_)) => Err(context.fault(Code::JobMalformed, "has both data and binary_data_size; keep one")),
        (None, None) => Err(context.fault(Code::JobMalformed, "has neither data nor binary_data_size; add one")),
    }
}

/// The fault that says what a [`TensorError`] says.
pub fn tensor_fault(error: &TensorError) -> Fault {
    let code = match error {
        TensorError::Rank { .. } | TensorError::Elements { .. } => Code::InputShape,
        TensorError::Length { .. } | TensorError::Strings { .. } => Code::InputLength,
    };
    Fault::new(code, error.to_string())
}

struct Context<'a> {
    name: &'a str,
    side: Side,
}

impl Context<'_> {
    fn fault(&self, code: Code, text: impl AsRef<str>) -> Fault {
        let name: String = self.name.chars().take(64).collect();
        Fault::new(code, format!("tensor {name:?}: {}", text.as_ref()))
    }

    fn shape(&self, wire: &[i64]) -> Result<Vec<usize>, Fault> {
        if wire.len() > RANK_MAX {
            return Err(tensor_fault(&TensorError::Rank { name: self.name.to_owned(), rank: wire.len() }));
        }
        let dimension = |length: &i64| {
            usize::try_from(*length).map_err(|_| {
                self.fault(Code::InputShape, format!("dimension {length} is not allowed; each must be 0 or more"))
            })
        };
        let shape = wire.iter().map(dimension).collect::<Result<Vec<usize>, Fault>>()?;
        if elements(&shape).is_none() {
            return Err(tensor_fault(&TensorError::Elements { name: self.name.to_owned(), shape }));
        }
        Ok(shape)
    }

    fn parameters(&self, wire: Option<&RawValue>) -> Result<ResponseParameters, Fault> {
        let Some(wire) = wire else { return Ok(ResponseParameters::default()) };
        let parsed = match self.side {
            Side::Request => serde_json::from_str(wire.get()).map(|strict: RequestParameters| ResponseParameters {
                binary_data_size: strict.binary_data_size,
                content_encoding: strict.content_encoding,
            }),
            Side::Response => serde_json::from_str(wire.get()),
        };
        parsed.map_err(|error| self.fault(Code::JobMalformed, format!("parameters: {error}")))
    }

    /// A binary tensor: the next `size` bytes.
    fn take(&self, datatype: DataType, shape: Vec<usize>, size: usize, binary: &mut &[u8]) -> Result<Tensor, Fault> {
        let Some((data, rest)) = binary.split_at_checked(size) else {
            let text = format!(
                "binary_data_size is {size}, but only {} bytes are left after the JSON; send all of it, \
                 or correct binary_data_size and inference-header-content-length",
                binary.len()
            );
            return Err(self.fault(Code::InputLength, text));
        };
        *binary = rest;
        let tensor = Tensor::new(self.name, datatype, shape, data.to_vec()).map_err(|error| tensor_fault(&error))?;
        match self.side {
            Side::Request => self.check_values(&tensor)?,
            Side::Response => {}
        }
        Ok(tensor)
    }

    fn check_values(&self, tensor: &Tensor) -> Result<(), Fault> {
        let data = tensor.data.as_slice();
        let bad = match tensor.datatype {
            DataType::Bool => data.iter().position(|byte| *byte > 1),
            DataType::Fp16 => data.as_chunks().0.iter().position(|bytes| !f16::from_le_bytes(*bytes).is_finite()),
            DataType::Fp32 => data.as_chunks().0.iter().position(|bytes| !f32::from_le_bytes(*bytes).is_finite()),
            DataType::Fp64 => data.as_chunks().0.iter().position(|bytes| !f64::from_le_bytes(*bytes).is_finite()),
            DataType::Uint8
            | DataType::Uint16
            | DataType::Uint32
            | DataType::Uint64
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Bytes => None,
        };
        let Some(at) = bad else { return Ok(()) };
        let is_bool = tensor.datatype == DataType::Bool;
        let (is, need) = if is_bool { ("neither 0 nor 1", "0 or 1") } else { ("NaN or infinite", "a finite number") };
        Err(self.fault(Code::InputValue, format!("element {at} of {} is {is}: {need} is needed", tensor.datatype)))
    }

    /// The little-endian elements of a JSON array.
    fn read(&self, datatype: DataType, shape: &[usize], text: &str, encoded: bool) -> Result<Vec<u8>, Fault> {
        // A JSON element takes two characters at least, so the text bounds what its shape may claim.
        let expected = elements(shape).unwrap_or(0).min(text.len());
        let mut data = Vec::with_capacity(expected * datatype.element_bytes().unwrap_or(4));
        self.walk(shape, text, |token| self.push(&mut data, datatype, token, encoded))?;
        Ok(data)
    }

    fn push(&self, data: &mut Vec<u8>, datatype: DataType, token: &str, encoded: bool) -> Result<(), Fault> {
        macro_rules! integer {
            ($type:ty) => {
                data.extend_from_slice(
                    &token
                        .parse::<$type>()
                        .map_err(|_| {
                            let need = format!("an integer from {} to {}", <$type>::MIN, <$type>::MAX);
                            self.bad_value(token, datatype, &need)
                        })?
                        .to_le_bytes(),
                )
            };
        }
        match datatype {
            DataType::Bool => match token {
                "true" => data.push(1),
                "false" => data.push(0),
                _ => return Err(self.bad_value(token, datatype, "true or false")),
            },
            DataType::Uint8 => integer!(u8),
            DataType::Uint16 => integer!(u16),
            DataType::Uint32 => integer!(u32),
            DataType::Uint64 => integer!(u64),
            DataType::Int8 => integer!(i8),
            DataType::Int16 => integer!(i16),
            DataType::Int32 => integer!(i32),
            DataType::Int64 => integer!(i64),
            DataType::Fp16 => {
                let half = |token: &str| token.parse().ok().map(f16::from_f64).filter(|value| value.is_finite());
                let value = self.float(token, datatype, f16::NAN, half)?;
                data.extend_from_slice(&value.to_le_bytes());
            }
            DataType::Fp32 => {
                let single = |token: &str| token.parse().ok().filter(|value: &f32| value.is_finite());
                data.extend_from_slice(&self.float(token, datatype, f32::NAN, single)?.to_le_bytes());
            }
            DataType::Fp64 => {
                let double = |token: &str| token.parse().ok().filter(|value: &f64| value.is_finite());
                data.extend_from_slice(&self.float(token, datatype, f64::NAN, double)?.to_le_bytes());
            }
            DataType::Bytes => {
                let element = self.string(token, encoded)?;
                let length = u32::try_from(element.len())
                    .map_err(|_| self.fault(Code::InputLength, "an element is longer than 4 GiB"))?;
                data.extend_from_slice(&length.to_le_bytes());
                data.extend_from_slice(&element);
            }
        }
        Ok(())
    }

    fn float<T>(
        &self,
        token: &str,
        datatype: DataType,
        nan: T,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        if token == "null" && self.side == Side::Response {
            return Ok(nan);
        }
        // Rust reads words such as `inf` as numbers, JSON does not.
        let number = token.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        parse(token).filter(|_| number).ok_or_else(|| self.bad_value(token, datatype, "a finite number in its range"))
    }

    fn string(&self, token: &str, encoded: bool) -> Result<Vec<u8>, Fault> {
        let text: String = serde_json::from_str(token)
            .map_err(|_| self.bad_value(token, DataType::Bytes, "a string, or base64 with content_encoding"))?;
        if !encoded {
            return Ok(text.into_bytes());
        }
        STANDARD.decode(&text).map_err(|error| self.fault(Code::InputValue, format!("not base64: {error}")))
    }

    fn bad_value(&self, token: &str, datatype: DataType, need: &str) -> Fault {
        let token: String = token.chars().take(40).collect();
        self.fault(Code::InputValue, format!("{token} is not a {datatype}: {need} is needed"))
    }

    /// Hands each element of a flat or nested array to `each`. The text is valid JSON; nesting is checked against
    /// the shape.
    fn walk<'t>(
        &self,
        shape: &[usize],
        text: &'t str,
        mut each: impl FnMut(&'t str) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let bytes = text.as_bytes();
        let limit = elements(shape).unwrap_or(0);
        let mut nesting = Nesting::new(shape);
        let (mut at, mut count) = (0, 0_usize);
        while let Some(byte) = bytes.get(at) {
            let start = at;
            at += 1;
            match byte {
                b'[' => nesting.open().map_err(|text| self.fault(Code::InputShape, text))?,
                b']' => nesting.close().map_err(|text| self.fault(Code::InputShape, text))?,
                b',' | b' ' | b'\n' | b'\r' | b'\t' => {}
                b'{' => return Err(self.fault(Code::JobMalformed, "data must be an array of numbers or strings")),
                _ => {
                    at = token_end(bytes, start);
                    nesting.element().map_err(|text| self.fault(Code::InputShape, text))?;
                    count += 1;
                    if count > limit {
                        let text = format!("shape {shape:?} holds {limit} elements, data has more");
                        return Err(self.fault(Code::InputLength, text));
                    }
                    each(&text[start..at])?;
                }
            }
        }
        if count != limit {
            let text = format!("shape {shape:?} holds {limit} elements, data has {count}");
            return Err(self.fault(Code::InputLength, text));
        }
        Ok(())
    }
}

/// One past the string, number or word that starts at `start`.
fn token_end(bytes: &[u8], start: usize) -> usize {
    if bytes[start] == b'"' {
        return (json::string_end(bytes, start) + 1).min(bytes.len());
    }
    let ends = |byte: &u8| matches!(byte, b',' | b']' | b' ' | b'\n' | b'\r' | b'\t');
    bytes[start..].iter().position(ends).map_or(bytes.len(), |length| start + length)
}

/// Where in a flat or nested array we are.
struct Nesting<'a> {
    shape: &'a [usize],
    /// Members seen so far in the open array of each depth, the outermost first.
    members: Vec<usize>,
    deepest: usize,
    leaf: Option<usize>,
}

impl<'a> Nesting<'a> {
    fn new(shape: &'a [usize]) -> Self {
        Self { shape, members: Vec::new(), deepest: 0, leaf: None }
    }

    fn open(&mut self) -> Result<(), String> {
        if let Some(parent) = self.members.last_mut() {
            *parent += 1;
        }
        let depth = self.members.len() + 1;
        if depth > self.shape.len().max(1) || self.leaf.is_some_and(|leaf| depth > leaf) {
            return Err(format!("data is nested {depth} deep where shape {:?} does not allow it", self.shape));
        }
        self.deepest = self.deepest.max(depth);
        self.members.push(0);
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let depth = self.members.len();
        let members = self.members.pop().unwrap_or(0);
        match self.shape.get(depth.wrapping_sub(1)) {
            Some(length) if self.deepest > 1 && *length != members => Err(format!(
                "a nested array has {members} members where dimension {depth} of shape {:?} is {length}",
                self.shape
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn element(&mut self) -> Result<(), String> {
        let depth = self.members.len();
        let Some(innermost) = self.members.last_mut() else {
            return Err("data must be an array".to_owned());
        };
        *innermost += 1;
        if *self.leaf.get_or_insert(depth) != depth || (depth != 1 && depth != self.shape.len()) {
            return Err(format!("data must be flat, or nested exactly as shape {:?}", self.shape));
        }
        Ok(())
    }
}

// ---- rendering ----

/// A tensor in its JSON form, with its data.
pub struct Inline<'a>(pub &'a Tensor);

/// A tensor in its JSON form, whose data follows the JSON as raw bytes.
pub struct Detached<'a>(pub &'a Tensor);

impl Serialize for Inline<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tensor = self.0;
        let strings = tensor.to_strings().unwrap_or_default();
        let encoded = strings.iter().any(|element| std::str::from_utf8(element).is_err());
        let mut map = head(tensor, serializer)?;
        if encoded {
            map.serialize_entry("parameters", &serde_json::json!({ "content_encoding": BASE64 }))?;
            let strings: Vec<String> = strings.iter().map(|element| STANDARD.encode(element)).collect();
            map.serialize_entry("data", &strings)?;
        } else {
            map.serialize_entry("data", &Elements(tensor))?;
        }
        map.end()
    }
}

impl Serialize for Detached<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = head(self.0, serializer)?;
        map.serialize_entry("parameters", &serde_json::json!({ "binary_data_size": self.0.data.len() }))?;
        map.end()
    }
}

fn head<S: Serializer>(tensor: &Tensor, serializer: S) -> Result<S::SerializeMap, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("name", &tensor.name)?;
    map.serialize_entry("shape", &tensor.shape)?;
    map.serialize_entry("datatype", tensor.datatype.as_str())?;
    Ok(map)
}

struct Elements<'a>(&'a Tensor);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data = self.0.data.as_slice();
        let mut seq = serializer.serialize_seq(None)?;
        macro_rules! each {
            ($type:ty) => {
                for bytes in data.as_chunks().0 {
                    seq.serialize_element(&<$type>::from_le_bytes(*bytes))?;
                }
            };
        }
        match self.0.datatype {
            DataType::Bool => {
                for byte in data {
                    seq.serialize_element(&(*byte != 0))?;
                }
            }
            DataType::Uint8 => each!(u8),
            DataType::Uint16 => each!(u16),
            DataType::Uint32 => each!(u32),
            DataType::Uint64 => each!(u64),
            DataType::Int8 => each!(i8),
            DataType::Int16 => each!(i16),
            DataType::Int32 => each!(i32),
            DataType::Int64 => each!(i64),
            DataType::Fp16 => {
                for bytes in data.as_chunks().0 {
                    seq.serialize_element(&f16::from_le_bytes(*bytes).to_f32())?;
                }
            }
            DataType::Fp32 => each!(f32),
            DataType::Fp64 => each!(f64),
            DataType::Bytes => {
                for element in self.0.to_strings().unwrap_or_default() {
                    seq.serialize_element(std::str::from_utf8(element).map_err(S::Error::custom)?)?;
                }
            }
        }
        seq.end()
    }
}
