use super::*;

const TOLERANCE: Tolerance = Tolerance { absolute: 0.05, relative: 0.001, overlap_min: 0.9 };

fn numbers(name: &str, shape: &[usize], values: &[f32]) -> Expected {
    let values = Values::Numbers(values.to_vec());
    Expected { name: name.into(), datatype: DataType::Fp32, shape: shape.to_vec(), every: 1, values }
}

fn texts(name: &str, values: &[&str]) -> Expected {
    let texts = Values::Texts(values.iter().map(|text| (*text).to_owned()).collect());
    Expected { name: name.into(), datatype: DataType::Bytes, shape: vec![values.len()], every: 1, values: texts }
}

fn tensor(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::f32s(name, shape.to_vec(), values).unwrap()
}

fn two_boxes() -> Vec<Expected> {
    vec![
        numbers("boxes", &[2, 4], &[0., 0., 10., 10., 20., 20., 40., 40.]),
        numbers("scores", &[2], &[0.9, 0.6]),
        texts("labels", &["cat", "dog"]),
    ]
}

fn got(boxes: &[f32], scores: &[f32], labels: &[&str]) -> Vec<Tensor> {
    let count = scores.len();
    vec![tensor("boxes", &[count, 4], boxes), tensor("scores", &[count], scores), Tensor::strings("labels", labels)]
}

#[test]
fn boxes_may_come_in_another_order() {
    let result = got(&[20., 20., 40., 39., 0., 0., 10., 10.], &[0.62, 0.9], &["dog", "cat"]);
    let report = compare(&two_boxes(), &result, &TOLERANCE).unwrap();
    assert_eq!((report.compared, report.overlap_min), (2, 0.95));
}

#[test]
fn a_box_elsewhere_or_of_another_kind_is_a_mismatch() {
    let moved = got(&[0., 0., 10., 10., 20., 20., 40., 35.], &[0.9, 0.6], &["cat", "dog"]);
    let problem = compare(&two_boxes(), &moved, &TOLERANCE).unwrap_err().to_string();
    assert!(
        problem.starts_with("output \"boxes\": no dog overlaps [20, 20, 40, 40] by 0.9 or more; got cat 0.90"),
        "{problem}"
    );
    let renamed = got(&[0., 0., 10., 10., 20., 20., 40., 40.], &[0.9, 0.6], &["cat", "cow"]);
    assert_eq!(compare(&two_boxes(), &renamed, &TOLERANCE).unwrap_err().output, "boxes");
}

#[test]
fn one_box_does_not_stand_for_two() {
    let mut expected = two_boxes();
    expected[0] = numbers("boxes", &[2, 4], &[0., 0., 10., 10., 0., 0., 10., 10.]);
    expected[2] = texts("labels", &["cat", "cat"]);
    let single = got(&[0., 0., 10., 10.], &[0.9], &["cat"]);
    assert!(compare(&expected, &single, &TOLERANCE).is_err());
}

#[test]
fn a_box_too_many_is_a_mismatch() {
    let extra =
        got(&[0., 0., 10., 10., 20., 20., 40., 40., 50., 50., 60., 60.], &[0.9, 0.6, 0.5], &["cat", "dog", "cat"]);
    assert!(compare(&two_boxes(), &extra, &TOLERANCE).is_err());
}

#[test]
fn scores_and_landmarks_are_held_to_their_slack() {
    let far = got(&[0., 0., 10., 10., 20., 20., 40., 40.], &[0.9, 0.66], &["cat", "dog"]);
    assert_eq!(compare(&two_boxes(), &far, &TOLERANCE).unwrap_err().output, "scores");
    let face = |point: f32| {
        let mut points = vec![5.0; 10];
        points[3] = point;
        points
    };
    let expected = vec![
        numbers("boxes", &[1, 4], &[0., 0., 10., 10.]),
        numbers("scores", &[1], &[0.9]),
        numbers("landmarks", &[1, 10], &face(5.0)),
    ];
    let result = |point| {
        vec![
            tensor("boxes", &[1, 4], &[0., 0., 10., 10.]),
            tensor("scores", &[1], &[0.9]),
            tensor("landmarks", &[1, 10], &face(point)),
        ]
    };
    assert!(compare(&expected, &result(5.5), &TOLERANCE).is_ok());
    assert_eq!(compare(&expected, &result(6.5), &TOLERANCE).unwrap_err().output, "landmarks");
}

#[test]
fn values_are_held_to_a_part_of_the_output_s_scale() {
    let tolerance = Tolerance { absolute: 0.0, relative: 0.001, overlap_min: 0.9 };
    let expected = [numbers("y", &[3], &[0.0, 1.0, -100.0])];
    let report = compare(&expected, &[tensor("y", &[3], &[0.09, 1.0, -100.0])], &tolerance).unwrap();
    assert!((report.relative_max - 0.0009).abs() < 1e-6 && report.compared == 3);
    let problem = compare(&expected, &[tensor("y", &[3], &[0.11, 1.0, -100.0])], &tolerance).unwrap_err().to_string();
    assert!(problem.starts_with("output \"y\": element 0 is 0.11, expected 0: 0.11 apart"), "{problem}");
    assert!(compare(&expected, &[tensor("y", &[3], &[f32::NAN, 1.0, -100.0])], &tolerance).is_err());
    assert!(compare(&expected, &[tensor("y", &[1, 3], &[0.0, 1.0, -100.0])], &tolerance).is_err());
    assert!(compare(&expected, &[tensor("x", &[3], &[0.0; 3])], &tolerance).unwrap_err().problem.contains("missing"));
}

#[test]
fn a_thinned_out_output_is_compared_at_its_places() {
    let thin = Expected { shape: vec![5], every: 2, ..numbers("y", &[5], &[1.0, 3.0, 5.0]) };
    assert!(compare(std::slice::from_ref(&thin), &[tensor("y", &[5], &[1.0, 9.0, 3.0, 9.0, 5.0])], &TOLERANCE).is_ok());
    assert!(compare(&[thin], &[tensor("y", &[5], &[1.0, 9.0, 3.0, 9.0, 9.0])], &TOLERANCE).is_err());
}

#[test]
fn texts_must_be_equal() {
    let expected = [texts("labels", &["zip"])];
    assert!(compare(&expected, &[Tensor::strings("labels", &["zip"])], &TOLERANCE).is_ok());
    assert!(compare(&expected, &[Tensor::strings("labels", &["jar"])], &TOLERANCE).is_err());
    assert!(compare(&expected, &[tensor("labels", &[1], &[1.0])], &TOLERANCE).is_err());
}
