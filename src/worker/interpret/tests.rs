use super::*;
use crate::model::manifest::parse;
use crate::tensor::DataType;

const OBJECTS: &str = include_str!("../../../models/objects/model.toml");
const FACES: &str = include_str!("../../../models/faces/model.toml");
const SPEECH: &str = include_str!("../../../models/speech/model.toml");
const FILE_TYPE: &str = include_str!("../../../models/file-type/model.toml");
const FORECAST: &str = include_str!("../../../models/prb-forecast/model.toml");
const ANOMALY: &str = include_str!("../../../models/kpi-anomaly/model.toml");

fn tensor(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::f32s(name, shape.to_vec(), values).unwrap()
}

fn texts(tensor: &Tensor) -> Vec<String> {
    tensor.to_strings().unwrap().iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

fn named<'a>(results: &'a [Tensor], name: &str) -> &'a Tensor {
    results.iter().find(|result| result.name == name).unwrap()
}

/// Outputs of `objects` with one box of class 2 around cell 5 × 5 of stride 32, four strides to each side.
fn one_object() -> Vec<Tensor> {
    let mut outputs = Vec::new();
    for (stride, cells) in [(8, 2704), (16, 676), (32, 169)] {
        let (mut scores, mut logits) = (vec![0.0; cells * 80], vec![0.0; cells * 44]);
        if stride == 32 {
            let cell = 5 * 13 + 5;
            scores[cell * 80 + 2] = 0.75;
            (0..4).for_each(|side| logits[cell * 44 + side * 11 + 4] = 90.0);
        }
        outputs.push(tensor(&format!("cls_s{stride}"), &[1, cells, 80], &scores));
        outputs.push(tensor(&format!("dis_s{stride}"), &[1, cells, 44], &logits));
    }
    outputs
}

fn labels() -> Vec<&'static str> {
    include_str!("../../../models/objects/labels.txt").lines().collect()
}

/// A picture of 832 × 600 in the 416 × 416 that the network sees.
const LETTERBOX: Geometry = Geometry::Picture {
    width: 832,
    height: 600,
    network_width: 416,
    network_height: 416,
    scale_x: 0.5,
    scale_y: 0.5,
    left: 0.0,
    top: 58.0,
};

#[test]
fn boxes_are_in_pixels_of_the_original_and_cut_at_its_edges() {
    let manifest = parse(OBJECTS).unwrap();
    let results = interpret(&manifest, &labels(), Some(&LETTERBOX), one_object()).unwrap();
    // Centre 176, reach 128: 48 to 304 in the network's pixels; above its row 58 there is only border.
    assert_eq!(named(&results, "boxes").to_f32s().unwrap(), [96.0, 0.0, 608.0, 492.0]);
    assert_eq!(named(&results, "boxes").shape, [1, 4]);
    assert_eq!(named(&results, "scores").to_f32s().unwrap(), [0.75]);
    assert_eq!(texts(named(&results, "labels")), ["car"]);
}

#[test]
fn boxes_of_raw_tensors_are_in_the_network_s_pixels() {
    let manifest = parse(OBJECTS).unwrap();
    let results = interpret(&manifest, &labels(), None, one_object()).unwrap();
    assert_eq!(named(&results, "boxes").to_f32s().unwrap(), [48.0, 48.0, 304.0, 304.0]);
}

#[test]
fn a_picture_with_nothing_in_it_gives_empty_results() {
    let manifest = parse(OBJECTS).unwrap();
    let mut outputs = one_object();
    outputs[4] = tensor("cls_s32", &[1, 169, 80], &vec![0.39; 169 * 80]);
    let results = interpret(&manifest, &labels(), Some(&LETTERBOX), outputs).unwrap();
    assert_eq!(
        (named(&results, "boxes").shape.clone(), named(&results, "labels").shape.clone()),
        (vec![0, 4], vec![0])
    );
}

#[test]
fn outputs_of_another_shape_than_declared_are_a_fault_of_the_model() {
    let manifest = parse(OBJECTS).unwrap();
    let mut outputs = one_object();
    outputs[0] = tensor("cls_s8", &[1, 4, 80], &[0.0; 320]);
    let fault = interpret(&manifest, &labels(), Some(&LETTERBOX), outputs).unwrap_err();
    assert_eq!(fault.code, Code::ModelRun);
    assert!(
        fault.message.contains("\"cls_s8\" has shape [1, 4, 80], picture, stride and labels make it [1, 2704, 80]")
    );
    let mut outputs = one_object();
    outputs.remove(5);
    let fault = interpret(&manifest, &labels(), Some(&LETTERBOX), outputs).unwrap_err();
    assert!(fault.message.contains("\"dis_s32\" is missing"), "{fault}");
    let fault = interpret(&manifest, &["one"], Some(&LETTERBOX), one_object()).unwrap_err();
    assert!(fault.message.contains("make it [1, 2704, 1]"), "{fault}");
}

/// Outputs of `faces` for a picture of 16 × 8 cells with one face at row 2, column 3.
fn one_face() -> Vec<Tensor> {
    let cell = 2 * 16 + 3;
    let map = |name: &str, values: &[f32]| {
        let mut maps = vec![0.0; values.len() * 128];
        values.iter().enumerate().for_each(|(channel, value)| maps[channel * 128 + cell] = *value);
        tensor(name, &[1, values.len(), 8, 16], &maps)
    };
    let points = [0.5, 0.25, 0.5, 0.75, 0.75, 0.5, 1.0, 0.25, 1.0, 0.75];
    vec![map("537", &[0.9]), map("538", &[2.0_f32.ln(), 1.0_f32.ln()]), map("539", &[0.5, 0.25]), map("540", &points)]
}

#[test]
fn a_face_has_its_box_and_landmarks() {
    let manifest = parse(FACES).unwrap();
    let half = Geometry::Picture {
        width: 128,
        height: 64,
        network_width: 64,
        network_height: 32,
        scale_x: 0.5,
        scale_y: 0.5,
        left: 0.0,
        top: 0.0,
    };
    let results = interpret(&manifest, &[], Some(&half), one_face()).unwrap();
    // Centre (3.75, 3) cells, 1 cell wide and 2 high: 13 to 17 and 8 to 16 of the network's pixels.
    let corners = named(&results, "boxes").to_f32s().unwrap();
    let near = |got: &[f32], wanted: &[f32]| {
        got.len() == wanted.len() && got.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-3)
    };
    assert!(near(&corners, &[26.0, 16.0, 34.0, 32.0]), "{corners:?}");
    let points = named(&results, "landmarks").to_f32s().unwrap();
    assert!(near(&points, &[28., 24., 32., 24., 30., 28., 28., 32., 32., 32.]), "{points:?}");
    let plain = interpret(&manifest, &[], None, one_face()).unwrap();
    assert!(near(&named(&plain, "boxes").to_f32s().unwrap(), &[13.0, 8.0, 17.0, 16.0]));
}

#[test]
fn maps_that_do_not_match_are_a_fault() {
    let manifest = parse(FACES).unwrap();
    let mut outputs = one_face();
    outputs[3] = tensor("540", &[1, 10, 4, 4], &[0.0; 160]);
    let fault = interpret(&manifest, &[], None, outputs).unwrap_err();
    assert!(fault.message.contains("it must be [1, 10, 8, 16]"), "{fault}");
}

#[test]
fn the_best_classes_come_first_and_unlikely_ones_not_at_all() {
    let manifest = parse(FILE_TYPE).unwrap();
    let names: Vec<&str> = include_str!("../../../models/file-type/labels.txt").lines().collect();
    let mut scores = vec![0.0; 214];
    (scores[3], scores[7], scores[9], scores[11]) = (0.2, 0.7, 0.004, f32::NAN);
    let results = interpret(&manifest, &names, None, vec![tensor("target_label", &[1, 214], &scores)]).unwrap();
    assert_eq!(texts(named(&results, "labels")), ["asm", "aidl"]);
    assert_eq!(named(&results, "scores").to_f32s().unwrap(), [0.7, 0.2]);
    let short = vec![tensor("target_label", &[1, 3], &[0.0; 3])];
    assert!(interpret(&manifest, &names, None, short).unwrap_err().message.contains("names 214 classes"));
}

#[test]
fn a_softmax_makes_probabilities_of_logits() {
    let text = FILE_TYPE.replace("softmax = false", "softmax = true").replace("214", "2");
    let results = interpret(
        &parse(&text).unwrap(),
        &["a", "b"],
        None,
        vec![tensor("target_label", &[1, 2], &[1000.0, 1000.0 + 3.0_f32.ln()])],
    );
    let scores = named(&results.unwrap(), "scores").to_f32s().unwrap();
    assert!((scores[0] - 0.75).abs() < 1e-4 && (scores[1] - 0.25).abs() < 1e-4, "{scores:?}");
}

#[test]
fn repeated_characters_need_a_blank_between_them() {
    let text = FILE_TYPE
        .replace("[interpret.labels]", "[interpret.text]")
        .replace("softmax = false\ntop = 3\nscore_min = 0.005\n", "");
    let manifest = parse(&text.replace("[1, 214]", "[1, -1, 3]")).unwrap();
    let step = |class: usize| (0..3).map(move |at| if at == class { 0.8 } else { 0.1 });
    let values: Vec<f32> = [0, 1, 1, 0, 1, 2, 2, 0].into_iter().flat_map(step).collect();
    let results = interpret(&manifest, &["a", "b"], None, vec![tensor("target_label", &[1, 8, 3], &values)]).unwrap();
    assert_eq!(texts(named(&results, "text")), ["aab"]);
    assert!((named(&results, "scores").to_f32s().unwrap()[0] - 0.8).abs() < 1e-6);
}

#[test]
fn speech_is_told_in_seconds_and_ends_with_the_sound() {
    let manifest = parse(SPEECH).unwrap();
    let mut probabilities = vec![0.0; 50];
    probabilities[40..].fill(0.75);
    let sound = Geometry::Audio { samples: 25_400, sample_rate: 16_000 };
    let outputs = vec![tensor("speech_probs", &[50], &probabilities)];
    let results = interpret(&manifest, &[], Some(&sound), outputs).unwrap();
    assert_eq!(named(&results, "segments").to_f32s().unwrap(), [1.28, 25_400.0 / 16_000.0]);
    assert_eq!(named(&results, "scores").to_f32s().unwrap(), [0.75]);
}

#[test]
fn a_score_above_its_limit_is_an_alarm_and_so_is_no_number() {
    let manifest = parse(ANOMALY).unwrap();
    let results = interpret(&manifest, &[], None, vec![tensor("score", &[3], &[0.1, 2.5, f32::NAN])]).unwrap();
    assert_eq!(texts(named(&results, "labels")), ["normal", "anomaly", "anomaly"]);
    assert_eq!(named(&results, "labels").datatype, DataType::Bytes);
}

#[test]
fn quantiles_are_split_into_named_columns() {
    let manifest = parse(FORECAST).unwrap();
    let values: Vec<f32> = (0..12_u8).flat_map(|at| [f32::from(at), 100.0, 200.0]).collect();
    let results = interpret(&manifest, &[], None, vec![tensor("prb_quantiles", &[1, 12, 3], &values)]).unwrap();
    let names: Vec<&str> = results.iter().map(|result| result.name.as_str()).collect();
    assert_eq!(names, ["q50", "q90", "q99"]);
    assert_eq!((results[0].shape.clone(), results[0].to_f32s().unwrap()[11]), (vec![1, 12], 11.0));
    assert_eq!(results[2].to_f32s().unwrap(), [200.0; 12]);
}

#[test]
fn without_an_interpretation_outputs_are_handed_through() {
    let text = FORECAST.split("[interpret.columns]").next().unwrap();
    let outputs = vec![tensor("anything", &[1], &[3.0])];
    assert_eq!(interpret(&parse(text).unwrap(), &[], None, outputs.clone()), Ok(outputs));
}
