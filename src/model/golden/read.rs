//! Golden files as tensors.

use serde::Deserialize;
use serde_json::Value;

use super::{Expected, GoldenCase, Values};
use crate::fault::{Code, Fault};
use crate::model::Manifest;
use crate::model::manifest::{Golden, element};
use crate::tensor::{DataType, Tensor, elements};

#[derive(Deserialize)]
struct RawRequest {
    inputs: Vec<RawTensor>,
}

#[derive(Deserialize)]
struct RawResponse {
    outputs: Vec<RawTensor>,
}

#[derive(Deserialize)]
struct RawTensor {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    data: Vec<Value>,
    #[serde(default)]
    parameters: RawParameters,
}

#[derive(Default, Deserialize)]
struct RawParameters {
    every: Option<usize>,
}

/// Puts a golden case together; `file` gives the bytes of a file beside the manifest.
pub(in crate::model) fn read(
    manifest: &Manifest,
    golden: &Golden,
    file: impl Fn(&str) -> Result<Vec<u8>, Fault>,
) -> Result<GoldenCase, Fault> {
    let bad = |file: &str, why: String| Fault::new(Code::InputDecode, format!("golden file {file:?}: {why}"));
    let medium = file(&golden.input)?;
    let inputs = match &manifest.prepare {
        Some(prepare) if !golden.input.ends_with(".json") => vec![Tensor::bytes(prepare.accepts.clone(), &medium)],
        Some(_) | None => request(&medium).map_err(|why| bad(&golden.input, why))?,
    };
    let expected = response(&file(&golden.output)?).map_err(|why| bad(&golden.output, why))?;
    Ok(GoldenCase {
        name: golden.output.clone(),
        inputs,
        interpret: golden.interpret,
        expected,
        tolerance: golden.tolerance,
    })
}

fn request(json: &[u8]) -> Result<Vec<Tensor>, String> {
    let raw: RawRequest = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    raw.inputs.into_iter().map(tensor).collect()
}

fn tensor(raw: RawTensor) -> Result<Tensor, String> {
    let datatype = datatype(&raw)?;
    let name = raw.name.clone();
    if datatype == DataType::Bytes {
        let tensor = Tensor { shape: raw.shape.clone(), ..Tensor::strings(name, &texts(&raw)?) };
        return Tensor::new(tensor.name, datatype, tensor.shape, tensor.data).map_err(|error| error.to_string());
    }
    let mut data = Vec::new();
    for value in &raw.data {
        let bytes = value.as_f64().and_then(|value| element(datatype, value));
        data.extend(bytes.ok_or_else(|| format!("{name}: {value} is not a value of {datatype}"))?);
    }
    Tensor::new(name, datatype, raw.shape, data).map_err(|error| error.to_string())
}

fn response(json: &[u8]) -> Result<Vec<Expected>, String> {
    let raw: RawResponse = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    raw.outputs.into_iter().map(expected).collect()
}

fn expected(raw: RawTensor) -> Result<Expected, String> {
    let every = raw.parameters.every.unwrap_or(1).max(1);
    let datatype = datatype(&raw)?;
    let values = match datatype {
        DataType::Bytes => Values::Texts(texts(&raw)?),
        DataType::Fp32 => {
            #[expect(clippy::cast_possible_truncation, reason = "written from f32 values")]
            let number = |value: &Value| value.as_f64().map(|value| value as f32);
            let values: Option<Vec<f32>> = raw.data.iter().map(number).collect();
            Values::Numbers(values.ok_or_else(|| format!("{}: holds what is not a number", raw.name))?)
        }
        other @ (DataType::Bool
        | DataType::Uint8
        | DataType::Uint16
        | DataType::Uint32
        | DataType::Uint64
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Fp16
        | DataType::Fp64) => {
            return Err(format!("{}: {other} outputs are not compared, only FP32 and BYTES", raw.name));
        }
    };
    let given = match &values {
        Values::Numbers(values) => values.len(),
        Values::Texts(texts) => texts.len(),
    };
    if elements(&raw.shape).map(|count| count.div_ceil(every)) != Some(given) {
        return Err(format!("{}: {given} elements for shape {:?}, every {every}", raw.name, raw.shape));
    }
    Ok(Expected { name: raw.name, datatype, shape: raw.shape, every, values })
}

fn datatype(raw: &RawTensor) -> Result<DataType, String> {
    DataType::parse(&raw.datatype).ok_or_else(|| format!("{}: {:?} is not a datatype", raw.name, raw.datatype))
}

fn texts(raw: &RawTensor) -> Result<Vec<String>, String> {
    let texts: Option<Vec<String>> = raw.data.iter().map(|value| value.as_str().map(str::to_owned)).collect();
    texts.ok_or_else(|| format!("{}: holds what is not a string", raw.name))
}
