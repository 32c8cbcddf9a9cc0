//! What is tried without a golden case, and what several cases come to. Real workers: `tests/appraisal.rs`.

use super::*;
use crate::model::golden::{Expected, Values};
use crate::model::manifest::{self, Tolerance};
use crate::tensor::DataType;

const MS: Duration = Duration::from_millis(1);

fn entry(inputs: &str) -> Entry {
    let text = format!(
        "name = \"m\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
         digest = \"sha256:{}\"\ninputs = [{inputs}]\noutputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n",
        "ab".repeat(32)
    );
    let manifest = manifest::parse(&text).unwrap();
    Entry { manifest, manifest_text: text.into(), labels: "".into(), folder: "/m".into(), standing: Default::default() }
}

fn appraised(worst: Duration, runs: &[u32]) -> Appraised {
    Appraised {
        token: 1,
        preflight: MS,
        plan_bytes: 10,
        nodes: 3,
        worst_name: format!("node\u{7}{}", worst.as_millis()),
        worst_op: "Op".into(),
        worst,
        runs: runs.iter().map(|run| MS * *run).collect(),
    }
}

fn case(expected: Vec<f32>) -> GoldenCase {
    let values = Values::Numbers(expected);
    let expected = Expected { name: "y".into(), datatype: DataType::Fp32, shape: vec![1], every: 1, values };
    let tolerance = Tolerance { absolute: 0.0, relative: 0.0, overlap_min: 0.0 };
    GoldenCase { name: "g.json".into(), inputs: vec![], interpret: false, expected: vec![expected], tolerance }
}

#[test]
fn open_dimensions_are_guessed_and_closed_ones_kept() {
    let entry = entry(
        "{ name = \"x\", datatype = \"FP32\", shape = [-1, 3, -1] }, { name = \"n\", datatype = \"INT64\", shape = [2] }",
    );
    let case = guess(&entry, 32).unwrap();
    assert_eq!((&case.inputs[0].shape[..], case.inputs[0].data.len()), (&[32, 3, 32][..], 32 * 3 * 32 * 4));
    assert_eq!(case.inputs[1].data, [0; 16]);
}

#[test]
fn inputs_larger_than_any_frame_are_not_guessed() {
    let entry = entry("{ name = \"x\", datatype = \"FP32\", shape = [-1, -1, -1] }");
    assert!(guess(&entry, 1).is_some());
    assert!(guess(&entry, 320).is_none());
}

#[test]
fn the_case_that_costs_most_counts() {
    let mut sums = Sums::default();
    sums.load(Some(80 * MS));
    sums.load(None);
    sums.load(Some(20 * MS));
    sums.appraised(appraised(4 * MS, &[9, 5, 7]));
    sums.appraised(appraised(2 * MS, &[1, 30, 2]));
    let cost = sums.cost(99);
    assert_eq!((cost.load, cost.run_p50, cost.run_max, cost.rss_bytes), (80 * MS, 7 * MS, 30 * MS, 99));
    assert_eq!((cost.worst_node.name.as_str(), cost.worst_node.time), ("node 4", 4 * MS));
}

#[test]
fn golden_cases_are_counted_and_the_first_mismatch_is_named() {
    let mut sums = Sums::default();
    let output = [Tensor::f32s("y", vec![1], &[1.0]).unwrap()];
    sums.golden(&case(vec![1.0]), &output);
    sums.golden(&case(vec![2.0]), &output);
    sums.golden(&case(vec![3.0]), &output);
    let goldens = sums.cost(0).goldens;
    assert_eq!((goldens.passed, goldens.of, goldens.all_passed()), (1, 3, false));
    assert!(goldens.mismatch.as_ref().is_some_and(|text| text.starts_with("g.json: ")), "{goldens:?}");
}
