use super::*;
use crate::fault::Code;
use crate::tensor::Tensor;

const OBJECTS: &str = include_str!("../../../models/objects/model.toml");
const FACES: &str = include_str!("../../../models/faces/model.toml");
const SPEECH: &str = include_str!("../../../models/speech/model.toml");
const FILE_TYPE: &str = include_str!("../../../models/file-type/model.toml");

/// A sentence embedder: integers in, any batch and length, nothing prepared, nothing interpreted.
const EMBEDDER: &str = r#"
name = "sentences"
version = 3
summary = "Embeds sentences."
licence = "Apache-2.0"
source = "somewhere"
file = "1/model.onnx"
digest = "sha256:abababababababababababababababababababababababababababababababab"

[[inputs]]
name = "input_ids"
datatype = "INT64"
shape = [-1, -1]

[[inputs]]
name = "attention_mask"
datatype = "INT64"
shape = [-1, -1]

[[inputs]]
name = "scale"
datatype = "FP32"
shape = []
default = 0.5

[[outputs]]
name = "hidden"
datatype = "FP32"
shape = [-1, -1, 384]
"#;

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// The error after one replacement, which must happen.
fn broken(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    error(&text.replacen(from, to, 1))
}

#[test]
fn a_network_of_any_family_needs_its_ports_only() {
    let manifest = parse(EMBEDDER).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.version), ("sentences", 3));
    assert_eq!(manifest.inputs[0].shape, [None, None]);
    assert_eq!(manifest.inputs[2].shape, []);
    assert_eq!((manifest.prepare, manifest.interpret, manifest.labels), (None, None, None));
}

#[test]
fn text_detection_and_recognition_are_written_without_code() {
    let recognition = r#"
name = "read"
version = 1
summary = "Reads a line."
licence = "Apache-2.0"
source = "PP-OCR"
file = "1/model.onnx"
digest = "sha256:abababababababababababababababababababababababababababababababab"
labels = "characters.txt"
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 3, 48, -1] }]
outputs = [{ name = "p", datatype = "FP32", shape = [-1, -1, 6625] }]

[prepare]
accepts = "image"
input = "x"
[prepare.picture]
height = 48
width_max = 960
multiple_of = 8
fit = "pad"
layout = "NCHW"
colour = "BGR"
scale = 0.00392156862745098
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[interpret.text]
scores = "p"
"#;
    let manifest = parse(recognition).unwrap();
    assert_eq!(manifest.interpret, Some(Interpret::Text(Text { scores: "p".into() })));
    let detection = recognition
        .replace("[-1, 3, 48, -1]", "[1, 3, -1, -1]")
        .replace("[-1, -1, 6625]", "[1, 1, -1, -1]")
        .replace("height = 48\nwidth_max = 960\nmultiple_of = 8", "side_max = 960\nmultiple_of = 32")
        .replace("[interpret.text]\nscores = \"p\"\n", "");
    assert_eq!(parse(&detection).unwrap().interpret, None);
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_what_is_allowed() {
    let text = broken(OBJECTS, "fit = \"letterbox\"", "fit = \"letterbox\"\nfitt = 1");
    let line = OBJECTS.lines().position(|line| line.starts_with("fit =")).unwrap() + 2;
    assert!(
        text.starts_with(&format!("{line}:1: prepare.picture.fitt: unknown field `fitt`, expected one of")),
        "{text}"
    );
    assert!(text.contains("`layout`"), "{text}");
}

#[test]
fn an_unknown_value_is_named_with_what_is_allowed() {
    let text = broken(OBJECTS, "letterbox", "leterbox");
    assert!(text.contains("prepare.picture.fit: unknown variant `leterbox`"), "{text}");
    assert!(text.contains("`stretch`, `letterbox`"), "{text}");
}

#[test]
fn a_missing_key_is_named() {
    assert!(broken(EMBEDDER, "licence = \"Apache-2.0\"", "").contains("missing field `licence`"));
    assert!(error("").contains("missing field"));
}

#[test]
fn what_is_no_toml_says_where() {
    assert!(error("name = \"a\"\nversion == 2\n").starts_with("2:"), "{}", error("name = \"a\"\nversion == 2\n"));
}

#[test]
fn a_file_cannot_lie_outside_the_folder() {
    for path in ["../model.onnx", "/etc/passwd", "1/../../x", "./a", "", "a\\b", "1/\\u0000"] {
        let text = broken(EMBEDDER, "1/model.onnx", path);
        assert!(
            text.contains("file: ") && text.contains("is not allowed: a file beside the manifest"),
            "{path}: {text}"
        );
    }
    assert!(broken(OBJECTS, "golden/coffee.json", "../coffee.json").contains("golden.output"));
}

#[test]
fn a_bad_digest_says_what_one_looks_like() {
    let text = broken(EMBEDDER, "sha256:abab", "sha256:zzab");
    assert!(text.contains("digest: digest") && text.contains("64 hexadecimal digits"), "{text}");
}

#[test]
fn a_dimension_is_positive_or_any() {
    for shape in ["[0, -1]", "[-2, -1]", "[99999999, 99999999]", "[65536, 65536]"] {
        assert!(broken(EMBEDDER, "[-1, -1]", shape).contains("shape"), "{shape}");
    }
    assert!(broken(EMBEDDER, "[-1, -1]", "[1,1,1,1,1,1,1,1,1]").contains("9 dimensions are too many, at most 8"));
}

#[test]
fn a_default_must_be_a_value_of_the_input() {
    assert!(broken(EMBEDDER, "shape = []\n", "shape = [-1]\n").contains("a default needs a fixed shape"));
    let whole = EMBEDDER.replace("datatype = \"FP32\"\nshape = []", "datatype = \"INT32\"\nshape = []");
    assert!(error(&whole).contains("0.5 is not a value of INT32"));
    assert!(broken(EMBEDDER, "[-1, -1, 384]", "[-1, -1, 384]\ndefault = 1.0").contains("only inputs have defaults"));
}

#[test]
fn a_medium_must_fill_its_input_exactly() {
    assert!(
        broken(OBJECTS, "width = 416", "width = 320")
            .contains("the picture gives [1,3,416,320], input \"images\" takes [1,3,416,416]")
    );
    assert!(broken(OBJECTS, "\"BGR\"\n", "\"gray\"\n").contains("one a channel makes 1"));
    assert!(
        broken(FACES, "multiple_of = 32", "multiple_of = 33")
            .contains("640 pixels is not a multiple of multiple_of = 33")
    );
    assert!(
        broken(FACES, "side_max = 640", "side_max = 640\nwidth = 3").contains("the size must be width and height, or")
    );
    assert!(broken(SPEECH, "context = 64", "context = 32").contains("[-1,544]"));
    assert!(broken(SPEECH, "sample_rate = 16000", "sample_rate = 100").contains("it must be 4000 to 192000"));
    assert!(broken(FILE_TYPE, "begin = 1024", "begin = 1000").contains("[1,2024]"));
    assert!(broken(FILE_TYPE, "INT32", "FP32").contains("bytes fill INT32 or INT64"));
    assert!(broken(OBJECTS, "std = [57.375", "std = [0").contains("divided by"));
    assert!(broken(OBJECTS, "input = \"images\"", "input = \"image\"").contains("must be one of images"));
}

#[test]
fn one_medium_and_one_interpretation_only() {
    let both = format!("{SPEECH}\n[prepare.bytes]\nbegin=1\nend=1\nblock=9\nstrip=true\npadding=0\n");
    assert!(error(&both).contains("needs exactly one of [prepare.picture]"), "{}", error(&both));
    let both = format!("{SPEECH}\n[interpret.alarm]\nscore=\"hn\"\nabove=1.0\nalarm=\"a\"\nnormal=\"n\"\n");
    assert!(error(&both).contains("needs exactly one of [interpret.detections]"), "{}", error(&both));
}

#[test]
fn an_interpretation_must_fit_the_outputs() {
    assert!(
        broken(OBJECTS, "\"cls_s8\", \"cls_s16\"", "\"cls_s9\", \"cls_s16\"")
            .contains("\"cls_s9\" is not an output, it must be one of cls_s8")
    );
    assert!(broken(OBJECTS, "strides = [8, 16, 32]", "strides = [8, 16]").contains("[3, 3, 2]"));
    assert!(broken(OBJECTS, "score_min = 0.4", "score_min = 1.4").contains("1.4 is not allowed, it must be 0.01 to 1"));
    assert!(broken(OBJECTS, "score_min = 0.4", "score_min = nan").contains("NaN is not allowed"));
    assert!(broken(OBJECTS, "count_max = 100", "count_max = 100000").contains("it must be 1 to 1000"));
    assert!(broken(OBJECTS, "labels = \"labels.txt\"\n", "").contains("needs the names of the classes"));
    assert!(broken(FACES, "heatmap = \"537\"", "heatmap = \"538\"").contains("its second dimension must be 1"));
    assert!(broken(SPEECH, "hop = 512\ncontext = 64\n", "").contains("the sound gives [1,-1]"));
    assert!(broken(SPEECH, "end_below = 0.35", "end_below = 0.6").contains("it must be 0 to 0.5"));
}

#[test]
fn too_much_of_anything_is_refused() {
    assert!(error(&" ".repeat(MANIFEST_TOML_BYTES_MAX + 1)).contains("bytes are too many"));
    let cases: String = (0..17).map(|_| "[[golden]]\ninput = \"a.json\"\noutput = \"b.json\"\n").collect();
    assert!(error(&format!("{EMBEDDER}{cases}")).contains("17 golden cases are too many"));
    assert!(broken(EMBEDDER, "Embeds sentences.", &"x".repeat(2001)).contains("2001 characters"));
}

fn tensor(name: &str, datatype: DataType, shape: &[usize], bytes: usize) -> Tensor {
    Tensor { name: name.into(), datatype, shape: shape.to_vec(), data: vec![0; bytes] }
}

fn refused(manifest: &Manifest, inputs: &[Tensor]) -> (Code, String) {
    let fault = manifest.check_inputs(inputs).unwrap_err();
    (fault.code, fault.message)
}

#[test]
fn raw_inputs_are_checked_one_by_one() {
    let manifest = parse(EMBEDDER).unwrap();
    let ids = tensor("input_ids", DataType::Int64, &[1, 4], 32);
    let mask = tensor("attention_mask", DataType::Int64, &[1, 4], 32);
    assert_eq!(manifest.check_inputs(&[mask.clone(), ids.clone()]), Ok(Kind::Raw));

    let (code, text) = refused(&manifest, std::slice::from_ref(&ids));
    assert_eq!(code, Code::InputCount);
    assert_eq!(
        text,
        "model sentences needs input \"attention_mask\", which is not among the 1 given; it takes \"input_ids\" INT64 \
         [-1,-1], \"attention_mask\" INT64 [-1,-1], \"scale\" FP32 []"
    );
    assert_eq!(refused(&manifest, &[ids.clone(), ids.clone(), mask.clone()]).0, Code::InputName);
    assert_eq!(
        refused(&manifest, &[ids.clone(), mask.clone(), tensor("x", DataType::Fp32, &[1], 4)]).0,
        Code::InputName
    );
    let single = tensor("input_ids", DataType::Int32, &[1, 4], 16);
    let (code, text) = refused(&manifest, &[single, mask.clone()]);
    assert_eq!((code, text.as_str()), (Code::InputDatatype, "input \"input_ids\": expected INT64, got INT32"));
    for shape in [&[4][..], &[1, 0], &[1, 2, 2]] {
        let odd = tensor("input_ids", DataType::Int64, shape, 32);
        assert_eq!(refused(&manifest, &[odd, mask.clone()]).0, Code::InputShape, "{shape:?}");
    }
    let short = tensor("input_ids", DataType::Int64, &[1, 4], 31);
    assert_eq!(refused(&manifest, &[short, mask]).0, Code::InputLength);
}

#[test]
fn a_medium_stands_for_its_input() {
    let manifest = parse(SPEECH).unwrap();
    let medium = Tensor::bytes("audio", b"RIFF");
    assert_eq!(manifest.check_inputs(std::slice::from_ref(&medium)), Ok(Kind::Media));
    let state = tensor("h", DataType::Fp32, &[1, 1, 128], 512);
    assert_eq!(manifest.check_inputs(&[medium.clone(), state]), Ok(Kind::Media));
    let frames = tensor("input", DataType::Fp32, &[1, 576], 2304);
    assert_eq!(refused(&manifest, &[medium, frames]).0, Code::InputName);
    let two = Tensor::strings("audio", &["a", "b"]);
    let (code, text) = refused(&manifest, &[two]);
    assert_eq!(code, Code::InputShape);
    assert!(text.contains("send several as items of the job"), "{text}");
    assert_eq!(refused(&manifest, &[tensor("audio", DataType::Uint8, &[1], 1)]).0, Code::InputDatatype);
    let lying = Tensor { data: vec![9, 0, 0, 0, 1], ..Tensor::bytes("audio", b"") };
    assert_eq!(refused(&manifest, &[lying]).0, Code::InputLength);
}

#[test]
fn inputs_that_are_left_out_take_their_defaults() {
    let manifest = parse(EMBEDDER).unwrap();
    let ids = tensor("input_ids", DataType::Int64, &[1, 4], 32);
    let mask = tensor("attention_mask", DataType::Int64, &[1, 4], 32);
    let complete = manifest.complete(vec![mask.clone(), ids.clone()]).unwrap();
    assert_eq!(complete[..2], [ids.clone(), mask]);
    assert_eq!((complete[2].shape.len(), complete[2].to_f32s()), (0, Some(vec![0.5])));
    assert_eq!(manifest.complete(vec![ids]).unwrap_err().code, Code::InputCount);
}

#[test]
fn defaults_are_exact_or_refused() {
    assert_eq!(element(DataType::Int8, -3.0), Some(vec![253]));
    assert_eq!(element(DataType::Uint8, -3.0), None);
    assert_eq!(element(DataType::Uint8, 256.0), None);
    assert_eq!(element(DataType::Int64, 16_000.0), Some(16_000_i64.to_le_bytes().to_vec()));
    assert_eq!(element(DataType::Int32, f64::NAN), None);
    assert_eq!(element(DataType::Bool, 1.0), Some(vec![1]));
    assert_eq!(element(DataType::Bool, 2.0), None);
    assert_eq!(element(DataType::Bytes, 0.0), None);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        drop(parse(&text));
    }

    #[test]
    fn no_damage_makes_the_parser_panic(at in 0..OBJECTS.len(), cut in 0..40_usize, with in "\\PC{0,8}") {
        let end = (at + cut).min(OBJECTS.len());
        if OBJECTS.is_char_boundary(at) && OBJECTS.is_char_boundary(end) {
            let damaged = format!("{}{with}{}", &OBJECTS[..at], &OBJECTS[end..]);
            drop(parse(&damaged));
        }
    }
}
