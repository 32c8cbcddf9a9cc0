//! Do tensors survive the wire, and are wrong ones refused by name?

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Tensor, Fault> {
    read_with(text, &mut [].as_slice(), Side::Request)
}

fn read_with(text: &str, binary: &mut &[u8], side: Side) -> Result<Tensor, Fault> {
    let wire: TensorJson<'_> = json::parse("tensor", text)?;
    decode(&wire, binary, side)
}

fn of(datatype: &str, shape: &str, data: &str) -> Result<Tensor, Fault> {
    read(&format!(r#"{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}"#))
}

#[track_caller]
fn refused(outcome: Result<Tensor, Fault>, code: Code, words: &[&str]) {
    let fault = outcome.unwrap_err();
    assert_eq!(fault.code, code, "{fault}");
    for word in words {
        assert!(fault.message.contains(word), "{word:?} is not in: {fault}");
    }
}

#[test]
fn flat_and_nested_data_are_the_same_tensor() {
    let flat = of("FP32", "[2,3]", "[1,2,3,4,5,6]").unwrap();
    assert_eq!(flat, of("FP32", "[2,3]", "[[1,2,3], [4,5,6]]").unwrap());
    assert_eq!(flat.to_f32s().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(of("INT8", "[1,2,1]", "[[[-1],[127]]]").unwrap().data, [255, 127]);
}

#[test]
fn field_order_does_not_matter() {
    let tensor = read(r#"{"data":[7],"shape":[1],"datatype":"UINT8","name":"x"}"#).unwrap();
    assert_eq!((tensor.name.as_str(), tensor.data.as_slice()), ("x", [7].as_slice()));
}

#[test]
fn ragged_and_half_nested_data_are_refused() {
    for data in ["[[1,2],[3,4,5,6]]", "[[1,2,3],4,5,6]", "[1,[2,3,4,5,6]]", "[[[1]],[2],[3]]", "[[1,2],[3,4],[5,6]]"] {
        refused(of("FP32", "[2,3]", data), Code::InputShape, &["\"x\""]);
    }
    refused(of("FP32", "[1,2,2]", "[[1,2,3,4]]"), Code::InputShape, &["flat"]);
}

#[test]
fn empty_tensors_and_scalars_are_tensors() {
    assert_eq!(of("FP32", "[0]", "[]").unwrap().data, [0_u8; 0]);
    assert_eq!(of("FP32", "[2,0]", "[[],[]]").unwrap().data, [0_u8; 0]);
    assert_eq!(of("INT32", "[]", "[5]").unwrap().data, 5_i32.to_le_bytes());
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    refused(of("UINT8", "[1]", "[300]"), Code::InputValue, &["300", "UINT8", "0 to 255"]);
    refused(of("INT32", "[1]", "[1.5]"), Code::InputValue, &["1.5", "integer"]);
    refused(of("UINT64", "[1]", "[-1]"), Code::InputValue, &["-1"]);
    refused(of("UINT64", "[1]", "[18446744073709551616]"), Code::InputValue, &["18446744073709551615"]);
    refused(of("FP16", "[1]", "[70000]"), Code::InputValue, &["70000", "FP16"]);
    refused(of("FP32", "[1]", "[1e39]"), Code::InputValue, &["1e39"]);
    refused(of("FP64", "[1]", "[1e400]"), Code::InputValue, &["1e400"]);
    refused(of("BOOL", "[1]", "[1]"), Code::InputValue, &["true or false"]);
    refused(of("FP32", "[1]", "[null]"), Code::InputValue, &["null"]);
    refused(of("FP32", "[1]", "[\"NaN\"]"), Code::InputValue, &["NaN"]);
    refused(of("FP32", "[1]", "[NaN]"), Code::InputValue, &["NaN"]);
    refused(of("FP32", "[1]", "[-Infinity]"), Code::InputValue, &["Infinity"]);
    refused(of("BYTES", "[1]", "[1]"), Code::InputValue, &["string"]);
}

#[test]
fn the_whole_range_of_each_type_is_read() {
    assert_eq!(of("UINT64", "[1]", "[18446744073709551615]").unwrap().data, u64::MAX.to_le_bytes());
    assert_eq!(of("INT64", "[1]", "[-9223372036854775808]").unwrap().data, i64::MIN.to_le_bytes());
    assert_eq!(of("FP32", "[1]", "[3.4028235e38]").unwrap().data, f32::MAX.to_le_bytes());
    assert_eq!(of("BOOL", "[2]", "[true,false]").unwrap().data, [1, 0]);
}

#[test]
fn wrong_shapes_and_lengths_are_refused_before_anything_is_allocated() {
    refused(of("FP32", "[4000000000000]", "[1]"), Code::InputShape, &["4000000000000"]);
    refused(of("FP32", "[9999999999,9999999999,9999999999]", "[1]"), Code::InputShape, &["elements"]);
    refused(of("FP32", "[-1]", "[1]"), Code::InputShape, &["-1", "0 or more"]);
    refused(of("FP32", "[1,1,1,1,1,1,1,1,1]", "[1]"), Code::InputShape, &["9 dimensions"]);
    refused(of("FP32", "[16777216]", "[1]"), Code::InputLength, &["16777216", "data has 1"]);
    refused(of("FP32", "[1]", "[1,2]"), Code::InputLength, &["has more"]);
    refused(of("FP32", "[1]", "1"), Code::InputShape, &["array"]);
    refused(of("FP32", "[1]", "{\"a\":1}"), Code::JobMalformed, &["array"]);
}

#[test]
fn unknown_types_and_fields_are_refused_by_name() {
    refused(of("FP8", "[1]", "[1]"), Code::InputDatatype, &["FP8", "FP16", "BYTES"]);
    let field = r#"{"name":"x","datatype":"FP32","shape":[1],"data":[1],"dta":1}"#;
    refused(read(field), Code::JobMalformed, &["dta"]);
    let twice = r#"{"name":"x","name":"y","datatype":"FP32","shape":[1],"data":[1]}"#;
    refused(read(twice), Code::JobMalformed, &["duplicate", "name"]);
    let parameter = r#"{"name":"x","datatype":"FP32","shape":[1],"data":[1],"parameters":{"clasification":1}}"#;
    refused(read(parameter), Code::JobMalformed, &["clasification"]);
    assert!(read_with(parameter, &mut [].as_slice(), Side::Response).is_ok(), "a newer node may say more");
}

#[test]
fn bytes_travel_as_text_or_base64() {
    assert_eq!(
        of("BYTES", "[2]", r#"["a","ü\n"]"#).unwrap().to_strings().unwrap(),
        [b"a".as_slice(), "ü\n".as_bytes()]
    );
    let encoded =
        r#"{"name":"x","datatype":"BYTES","shape":[1],"parameters":{"content_encoding":"base64"},"data":["/9j/"]}"#;
    assert_eq!(read(encoded).unwrap().to_strings().unwrap(), [[0xff, 0xd8, 0xff]]);
    refused(read(&encoded.replace("/9j/", "*")), Code::InputValue, &["base64"]);
    refused(read(&encoded.replace("base64", "gzip")), Code::JobUnsupported, &["gzip"]);
}

#[test]
fn binary_tensors_take_their_bytes_in_order() {
    let text = |size: usize| {
        format!(r#"{{"name":"x","datatype":"UINT16","shape":[2],"parameters":{{"binary_data_size":{size}}}}}"#)
    };
    let mut binary = [1, 0, 2, 0, 9].as_slice();
    assert_eq!(read_with(&text(4), &mut binary, Side::Request).unwrap().data, [1, 0, 2, 0]);
    assert_eq!(binary, [9]);
    refused(read_with(&text(4), &mut binary, Side::Request), Code::InputLength, &["4", "1 bytes are left"]);
    refused(read_with(&text(1), &mut binary, Side::Request), Code::InputLength, &["needs 4 bytes, got 1"]);
    refused(read(r#"{"name":"x","datatype":"UINT8","shape":[1]}"#), Code::JobMalformed, &["neither"]);
}

#[test]
fn binary_values_are_checked_too() {
    let text = r#"{"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}"#;
    let nan = f32::NAN.to_le_bytes();
    refused(read_with(text, &mut nan.as_slice(), Side::Request), Code::InputValue, &["element 0", "finite"]);
    assert!(read_with(text, &mut nan.as_slice(), Side::Response).is_ok());
}

#[test]
fn nan_in_a_response_is_null() {
    let tensor = Tensor::f32s("y", vec![2], &[f32::NAN, 1.0]).unwrap();
    let text = serde_json::to_string(&Inline(&tensor)).unwrap();
    assert!(text.ends_with(r#""data":[null,1.0]}"#), "{text}");
    let back = read_with(&text, &mut [].as_slice(), Side::Response).unwrap().to_f32s().unwrap();
    assert!(back[0].is_nan() && back[1] == 1.0);
}

/// Any tensor that both sides may send.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    let shape = prop::collection::vec(0_usize..4, 0..4);
    (0..DataType::ALL.len(), shape, any::<u64>()).prop_map(|(kind, shape, seed)| {
        let datatype = DataType::ALL[kind];
        let count: usize = shape.iter().product();
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.rotate_left(17)
        };
        if datatype == DataType::Bytes {
            let elements: Vec<Vec<u8>> = (0..count)
                .map(|_| {
                    let word = next();
                    word.to_le_bytes()[..usize::try_from(word % 8).unwrap()].to_vec()
                })
                .collect();
            let mut tensor = Tensor::strings("t", &elements);
            tensor.shape = shape;
            return tensor;
        }
        let mut data = Vec::new();
        for _ in 0..count {
            let word = next();
            let bytes = word.to_le_bytes();
            match datatype {
                DataType::Bool => data.push(bytes[0] & 1),
                DataType::Fp16 => {
                    let value = f16::from_le_bytes([bytes[0], bytes[1]]);
                    data.extend((if value.is_finite() { value } else { f16::ONE }).to_le_bytes());
                }
                DataType::Fp32 => {
                    let value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                    data.extend((if value.is_finite() { value } else { 1.0 }).to_le_bytes());
                }
                DataType::Fp64 => {
                    let value = f64::from_le_bytes(bytes);
                    data.extend((if value.is_finite() { value } else { 1.0 }).to_le_bytes());
                }
                DataType::Uint8 | DataType::Int8 => data.extend(&bytes[..1]),
                DataType::Uint16 | DataType::Int16 => data.extend(&bytes[..2]),
                DataType::Uint32 | DataType::Int32 => data.extend(&bytes[..4]),
                DataType::Uint64 | DataType::Int64 => data.extend(bytes),
                DataType::Bytes => unreachable!("BYTES was built above"),
            }
        }
        Tensor::new("t", datatype, shape, data).unwrap()
    })
}

proptest! {
    #[test]
    fn every_tensor_survives_json(tensor in any_tensor()) {
        let text = serde_json::to_string(&Inline(&tensor)).unwrap();
        for side in [Side::Request, Side::Response] {
            prop_assert_eq!(&read_with(&text, &mut [].as_slice(), side).unwrap(), &tensor, "{}", text);
        }
    }

    #[test]
    fn every_tensor_survives_binary(tensor in any_tensor()) {
        let text = serde_json::to_string(&Detached(&tensor)).unwrap();
        let mut binary = tensor.data.as_slice();
        prop_assert_eq!(&read_with(&text, &mut binary, Side::Request).unwrap(), &tensor);
        prop_assert!(binary.is_empty());
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]{}\",:0-9a-zA-Z.+\\\\ -]{0,80}") {
        let _ = read(&text);
        let _ = of("FP32", "[2]", &text);
        let _ = of("BYTES", "[1,2]", &text);
    }
}
