//! Does a worker ever wait for the agent? Items are sent ahead, and what was sent ahead of a lost model is not lost.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "shared with tests that need more of it")]
#[path = "support/onnx.rs"]
mod onnx;
#[allow(dead_code, reason = "shared with tests that need more of it")]
#[path = "support/rig.rs"]
mod rig;

use std::time::Duration;

use neap::sys::{clock, signal};

use self::onnx::{FLOAT, node, relu, tensor};
use self::rig::{Model, Rig, input};

#[tokio::test]
async fn a_worker_goes_on_with_the_next_item_before_anybody_has_heard_its_answer() {
    let mut rig = Rig::start().await;
    let model = Model::new(relu().file());
    rig.ask(&model, input(&[0.0])).await.unwrap();
    signal::stop_process(rig.pid).unwrap();
    for value in [1.0, 2.0] {
        rig.handle.run(rig.work(&model, 7, input(&[value]))).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    // From here on this thread hears nothing: it is the only one that could send something.
    let before = clock::process_cpu(rig.pid).unwrap();
    signal::continue_process(rig.pid).unwrap();
    let mut waits = 0;
    while waits < 20 || clock::process_cpu(rig.pid).unwrap() == before {
        std::thread::sleep(Duration::from_millis(5));
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", rig.pid)).unwrap();
        waits = if stat.contains(") S ") { waits + 1 } else { 0 };
    }
    signal::stop_process(rig.pid).unwrap();
    for value in [1.0, 2.0] {
        let answer = tokio::time::timeout(Duration::from_secs(20), rig.answer()).await;
        let output = answer.expect("an answer of a worker that stands still now").unwrap();
        assert_eq!(output.tensors[0].to_f32s().unwrap(), [value]);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_model_that_the_worker_has_dropped_is_handed_over_again() {
    let mut rig = Rig::start().await;
    // More models than a worker keeps open; each adds another constant, so each has its own digest.
    let models: Vec<_> = (0..20_i16)
        .map(|number| {
            let mut graph = relu();
            graph.nodes = vec![node("Add", &["x", "w"], &["y"])];
            graph.constants = vec![tensor("w", FLOAT, &[1], &f32::from(number).to_le_bytes())];
            Model::new(graph.file())
        })
        .collect();
    for _round in 0..2 {
        for (number, model) in (0_i16..).zip(&models) {
            // The second is sent behind the first, before anybody knows that the model is missing.
            for value in [0.5, 0.25] {
                rig.handle.run(rig.work(model, 1, input(&[value]))).unwrap();
            }
            for value in [0.5, 0.25] {
                let output = rig.answer().await.unwrap();
                assert_eq!(output.tensors[0].to_f32s().unwrap(), [f32::from(number) + value]);
            }
        }
    }
    assert_eq!(rig.exits, 0, "the worker must not have been restarted for it");
    rig.stop().await;
}
