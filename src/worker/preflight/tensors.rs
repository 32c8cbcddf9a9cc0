//! Is a tensor inside the file what it says it is? Type, dimensions and the bytes there fit together.

use super::onnx;
use super::text::{Named, refuse};
use crate::fault::{Code, Fault};
use crate::tensor::DataType;
use crate::units::MODEL_BYTES_MAX;

/// Longest dimension: 2^31 - 1.
pub const DIMENSION_MAX: u64 = i32::MAX as u64;
/// Most dimensions of a tensor inside a model; requests have fewer.
pub const AXES_MAX: usize = 16;
/// Most integers that are read of a constant to judge shapes, axes and the like: more than any rank or split needs.
const INTEGERS_READ_MAX: usize = 1024;

/// The type of the protocol for an element type of ONNX; `None` for one that is not served.
pub(super) fn served(data_type: i32) -> Option<DataType> {
    use onnx::tensor_proto::DataType as Onnx;
    match Onnx::try_from(data_type).ok()? {
        Onnx::Float => Some(DataType::Fp32),
        Onnx::Uint8 => Some(DataType::Uint8),
        Onnx::Int8 => Some(DataType::Int8),
        Onnx::Uint16 => Some(DataType::Uint16),
        Onnx::Int16 => Some(DataType::Int16),
        Onnx::Int32 => Some(DataType::Int32),
        Onnx::Int64 => Some(DataType::Int64),
        Onnx::String => Some(DataType::Bytes),
        Onnx::Bool => Some(DataType::Bool),
        Onnx::Float16 => Some(DataType::Fp16),
        Onnx::Double => Some(DataType::Fp64),
        Onnx::Uint32 => Some(DataType::Uint32),
        Onnx::Uint64 => Some(DataType::Uint64),
        Onnx::Undefined
        | Onnx::Complex64
        | Onnx::Complex128
        | Onnx::Bfloat16
        | Onnx::Float8e4m3fn
        | Onnx::Float8e4m3fnuz
        | Onnx::Float8e5m2
        | Onnx::Float8e5m2fnuz
        | Onnx::Uint4
        | Onnx::Int4
        | Onnx::Float4e2m1 => None,
    }
}

/// What an element type is called in a sentence.
pub(super) fn type_name(data_type: i32) -> String {
    match onnx::tensor_proto::DataType::try_from(data_type) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => format!("number {data_type}"),
    }
}

/// Checks one tensor; `Ok` is what its elements take, in bytes.
pub(super) fn check(tensor: &onnx::TensorProto) -> Result<u64, Fault> {
    let name = Named(&tensor.name);
    inside(tensor)?;
    let Some(datatype) = served(tensor.data_type) else {
        let text = format!(
            "tensor {name} has elements of type {}, which is not served; convert it to float or an integer type",
            type_name(tensor.data_type)
        );
        return refuse(Code::ModelDatatype, text);
    };
    let element_bytes = datatype.element_bytes().unwrap_or(1) as u64;
    let elements = product(&tensor.dims).filter(|elements| *elements <= MODEL_BYTES_MAX / element_bytes);
    let Some(elements) = elements else {
        let text = format!(
            "tensor {name} of dimensions {:?} cannot be inside a file of at most {MODEL_BYTES_MAX} bytes; export the \
             model again",
            &tensor.dims[..tensor.dims.len().min(AXES_MAX + 1)]
        );
        return refuse(Code::ModelShape, text);
    };
    let (stored, what) = if tensor.raw_data.is_empty() {
        (typed(tensor, datatype) as u64, "elements")
    } else if datatype == DataType::Bytes {
        let text = format!("tensor {name} holds text as raw bytes, which ONNX forbids; export the model again");
        return refuse(Code::ModelDatatype, text);
    } else {
        (tensor.raw_data.len() as u64, "bytes")
    };
    let expected = if tensor.raw_data.is_empty() { elements } else { elements * element_bytes };
    if stored != expected {
        let text = format!(
            "tensor {name} of dimensions {:?} and type {datatype} holds {stored} {what}, expected {expected}; export the \
             model again",
            tensor.dims
        );
        return refuse(Code::ModelShape, text);
    }
    Ok(elements * element_bytes)
}

/// Whether all data is in the tensor itself, as one piece.
fn inside(tensor: &onnx::TensorProto) -> Result<(), Fault> {
    let name = Named(&tensor.name);
    let elsewhere = tensor.data_location.is_some_and(|location| location != 0);
    if elsewhere || !tensor.external_data.is_empty() {
        let text = format!("tensor {name} keeps its data in another file; save the model with all data inside");
        return refuse(Code::ModelExternalData, text);
    }
    if tensor.segment.is_some() {
        return refuse(Code::ModelParse, format!("tensor {name} is one segment of a tensor; save the model whole"));
    }
    Ok(())
}

/// The number of elements; `None` when a dimension or the rank is out of range, or the product does not fit.
pub(super) fn product(dims: &[i64]) -> Option<u64> {
    if dims.len() > AXES_MAX {
        return None;
    }
    let length = |dim: i64| u64::try_from(dim).ok().filter(|dim| *dim <= DIMENSION_MAX);
    let mut product = 1_u64;
    for dim in dims {
        product = product.checked_mul(length(*dim)?)?;
    }
    Some(product)
}

/// How many elements are stored one by one, in the field that belongs to the type.
fn typed(tensor: &onnx::TensorProto, datatype: DataType) -> usize {
    match datatype {
        DataType::Fp32 => tensor.float_data.len(),
        DataType::Fp64 => tensor.double_data.len(),
        DataType::Int64 => tensor.int64_data.len(),
        DataType::Bytes => tensor.string_data.len(),
        DataType::Uint32 | DataType::Uint64 => tensor.uint64_data.len(),
        DataType::Bool
        | DataType::Uint8
        | DataType::Uint16
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Fp16 => tensor.int32_data.len(),
    }
}

/// The values of a small tensor of signed integers that was found right; `None` for others.
pub(super) fn integers(tensor: &onnx::TensorProto) -> Option<Vec<i64>> {
    let elements = product(&tensor.dims)?;
    if elements > INTEGERS_READ_MAX as u64 {
        return None;
    }
    let raw = &tensor.raw_data;
    match served(tensor.data_type)? {
        DataType::Int64 if raw.is_empty() => Some(tensor.int64_data.clone()),
        DataType::Int64 => Some(raw.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
        DataType::Int32 if raw.is_empty() => Some(tensor.int32_data.iter().copied().map(i64::from).collect()),
        DataType::Int32 => {
            Some(raw.as_chunks::<4>().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect())
        }
        DataType::Bool
        | DataType::Uint8
        | DataType::Uint16
        | DataType::Uint32
        | DataType::Uint64
        | DataType::Int8
        | DataType::Int16
        | DataType::Fp16
        | DataType::Fp32
        | DataType::Fp64
        | DataType::Bytes => None,
    }
}

/// The values of a small tensor of numbers, integers included; `None` for others.
pub(super) fn numbers(tensor: &onnx::TensorProto) -> Option<Vec<f64>> {
    if let Some(integers) = integers(tensor) {
        // Beyond 2^53 the exact value does not matter to any limit here.
        #[expect(clippy::cast_precision_loss, reason = "only compared with limits far below 2^53")]
        return Some(integers.into_iter().map(|integer| integer as f64).collect());
    }
    let elements = product(&tensor.dims)?;
    if elements > INTEGERS_READ_MAX as u64 {
        return None;
    }
    let raw = &tensor.raw_data;
    let datatype = served(tensor.data_type)?;
    if datatype == DataType::Fp32 && raw.is_empty() {
        Some(tensor.float_data.iter().copied().map(f64::from).collect())
    } else if datatype == DataType::Fp32 {
        Some(raw.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
    } else if datatype == DataType::Fp64 && raw.is_empty() {
        Some(tensor.double_data.clone())
    } else if datatype == DataType::Fp64 {
        Some(raw.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    } else {
        None
    }
}

/// Whether a tensor of integers that was found right has an element 0.
pub(super) fn has_zero_integer(tensor: &onnx::TensorProto) -> bool {
    let Some(datatype) = served(tensor.data_type) else { return false };
    let is_integer =
        !matches!(datatype, DataType::Bool | DataType::Fp16 | DataType::Fp32 | DataType::Fp64 | DataType::Bytes);
    let Some(bytes) = datatype.element_bytes().filter(|_| is_integer) else { return false };
    tensor.raw_data.chunks_exact(bytes).any(|element| element.iter().all(|byte| *byte == 0))
        || tensor.int32_data.contains(&0)
        || tensor.int64_data.contains(&0)
        || tensor.uint64_data.contains(&0)
}
