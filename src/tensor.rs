//! What goes into a model and what comes out: named tensors, as the Open Inference Protocol v2 types them.

use std::fmt;

use crate::units::{ELEMENTS_MAX, RANK_MAX};

/// Element type of a tensor, by its Open Inference Protocol v2 name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 1 byte.
    Uint8,
    /// Unsigned, 2 bytes.
    Uint16,
    /// Unsigned, 4 bytes.
    Uint32,
    /// Unsigned, 8 bytes.
    Uint64,
    /// Signed, 1 byte.
    Int8,
    /// Signed, 2 bytes.
    Int16,
    /// Signed, 4 bytes.
    Int32,
    /// Signed, 8 bytes.
    Int64,
    /// IEEE 754 half precision.
    Fp16,
    /// IEEE 754 single precision.
    Fp32,
    /// IEEE 754 double precision.
    Fp64,
    /// Strings of bytes: media, labels.
    Bytes,
}

impl DataType {
    /// All of them, in the order of the protocol's table.
    pub const ALL: [Self; 13] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// The protocol's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The type of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Bytes of one element; `None` for [`DataType::Bytes`], whose elements vary.
    pub const fn element_bytes(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A named tensor. `data` is row-major, little-endian; for [`DataType::Bytes`] each element is its length
/// (u32, little-endian) followed by that many bytes, as in Triton's binary tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name of the model's input or output.
    pub name: String,
    /// Type of the elements.
    pub datatype: DataType,
    /// Length of each dimension.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<u8>,
}

/// Why some bytes are not the tensor they claim to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Too many dimensions.
    #[error("tensor {name:?} has {rank} dimensions, at most {RANK_MAX} are allowed")]
    Rank {
        /// Which tensor.
        name: String,
        /// How many it has.
        rank: usize,
    },
    /// Too many elements.
    #[error("tensor {name:?} of shape {shape:?} has more than {ELEMENTS_MAX} elements")]
    Elements {
        /// Which tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The data is not as long as shape and type say.
    #[error("tensor {name:?} of shape {shape:?} and type {datatype} needs {expected} bytes, got {got}")]
    Length {
        /// Which tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its type.
        datatype: DataType,
        /// Bytes that shape and type ask for.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// The length prefixes of a BYTES tensor do not add up.
    #[error("tensor {name:?}: the {elements} length-prefixed BYTES elements do not fill its {got} bytes")]
    Strings {
        /// Which tensor.
        name: String,
        /// Elements by its shape.
        elements: usize,
        /// Bytes there are.
        got: usize,
    },
}

impl Tensor {
    /// A tensor whose bytes are checked against shape and type.
    ///
    /// # Errors
    /// When rank or element count exceed the limits, or the data is too short or too long.
    pub fn new(
        name: impl Into<String>,
        datatype: DataType,
        shape: Vec<usize>,
        data: Vec<u8>,
    ) -> Result<Self, TensorError> {
        let tensor = Self { name: name.into(), datatype, shape, data };
        tensor.check()?;
        Ok(tensor)
    }

    /// A single BYTES element, shape `[1]`: one picture, one sound, one text.
    pub fn bytes(name: impl Into<String>, content: &[u8]) -> Self {
        Self::strings(name, &[content])
    }

    /// A BYTES tensor of one dimension.
    pub fn strings(name: impl Into<String>, elements: &[impl AsRef<[u8]>]) -> Self {
        let mut data = Vec::new();
        for element in elements {
            let element = element.as_ref();
            data.extend_from_slice(&u32::try_from(element.len()).unwrap_or(u32::MAX).to_le_bytes());
            data.extend_from_slice(element);
        }
        Self { name: name.into(), datatype: DataType::Bytes, shape: vec![elements.len()], data }
    }

    /// An FP32 tensor; the shape must hold as many elements as there are values.
    ///
    /// # Errors
    /// When it does not.
    pub fn f32s(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Result<Self, TensorError> {
        Self::new(name, DataType::Fp32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Number of elements, or `None` when it exceeds [`ELEMENTS_MAX`].
    pub fn elements(&self) -> Option<usize> {
        elements(&self.shape)
    }

    /// The values of an FP32 tensor, `None` for another type.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        (self.datatype == DataType::Fp32)
            .then(|| self.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// The elements of a BYTES tensor, `None` for another type or bytes that do not add up.
    pub fn to_strings(&self) -> Option<Vec<&[u8]>> {
        if self.datatype != DataType::Bytes {
            return None;
        }
        let mut rest = self.data.as_slice();
        let mut strings = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (element, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            strings.push(element);
            rest = tail;
        }
        rest.is_empty().then_some(strings)
    }

    fn check(&self) -> Result<(), TensorError> {
        let name = || self.name.clone();
        if self.shape.len() > RANK_MAX {
            return Err(TensorError::Rank { name: name(), rank: self.shape.len() });
        }
        let Some(elements) = self.elements() else {
            return Err(TensorError::Elements { name: name(), shape: self.shape.clone() });
        };
        let got = self.data.len();
        match self.datatype.element_bytes() {
            Some(size) if size * elements != got => Err(TensorError::Length {
                name: name(),
                shape: self.shape.clone(),
                datatype: self.datatype,
                expected: size * elements,
                got,
            }),
            None if self.to_strings().map(|strings| strings.len()) != Some(elements) => {
                Err(TensorError::Strings { name: name(), elements, got })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Number of elements of a shape, or `None` when it exceeds [`ELEMENTS_MAX`].
pub fn elements(shape: &[usize]) -> Option<usize> {
    let product = shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length))?;
    (product <= ELEMENTS_MAX).then_some(product)
}
