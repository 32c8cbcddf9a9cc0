//! A batch that takes some seconds of one core, and what must be true of it in the end.

use serde_json::{Value, json};

use super::controller::{Controller, media_job};
use super::emulation::{is_emulated, is_machine_emulated};
use super::node::{Node, Setup, models};

/// Items of a batch: some seconds of one core.
pub fn batch_items() -> usize {
    match (is_machine_emulated(), is_emulated()) {
        (true, _) => 16,
        (false, true) => 8,
        (false, false) => 24,
    }
}

/// A node in a trough, and its controller.
pub fn in_a_trough(setup: &Setup) -> (Node, Controller) {
    let node = Node::start(setup);
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    (node, controller)
}

/// A node in a trough with the job `batch` under way: at least one item is done, and most are not.
pub fn at_work(setup: &Setup) -> (Node, Controller) {
    at_work_on(setup, &json!({}))
}

/// The same, with further members of the job.
pub fn at_work_on(setup: &Setup, more: &Value) -> (Node, Controller) {
    let (node, controller) = in_a_trough(setup);
    submit(&controller, "batch", more);
    controller.wait_for_items("batch", 1);
    (node, controller)
}

/// Submits a batch. One item of `objects` alone would take minutes of a busy machine under emulation, and in a machine that
/// is emulated as a whole one of `faces` a minute.
pub fn submit(controller: &Controller, id: &str, more: &Value) {
    let (model, input, sample) = match (is_machine_emulated(), is_emulated()) {
        (true, _) => ("file-type", "content", "invoice.pdf"),
        (false, true) => ("faces", "image", "astronaut.jpg"),
        (false, false) => ("objects", "image", "chelsea.jpg"),
    };
    let file = std::fs::read(models().join(model).join("samples").join(sample)).expect("the sample is there");
    controller.publish(media_job(id, model, input, &vec![file; batch_items()], more));
}

/// A picture in which `objects` sees a cat.
pub fn picture() -> Vec<u8> {
    std::fs::read(models().join("objects/samples/chelsea.jpg")).expect("the sample is there")
}

/// The job `batch` ends well: every item once, in one result.
pub fn assert_whole(controller: &Controller, attempt: u64) -> Value {
    let last = controller.wait_for_state("batch", "SUCCEEDED");
    let result = controller.wait_for_result("batch");
    assert_eq!(last["progress"], json!({"done": batch_items(), "total": batch_items()}));
    assert_eq!((&last["attempt"], &result["parameters"]["attempt"]), (&json!(attempt), &json!(attempt)), "{last}");
    let items = result["items"].as_array().expect("a batch has items");
    assert_eq!(items.len(), batch_items());
    let first = &items[0]["outputs"];
    assert!(first.is_array() && items.iter().all(|item| item["outputs"] == *first), "every copy gives the same");
    assert_eq!(controller.results("batch").0, 1, "one result, told once or repeated");
    let done: Vec<u64> =
        controller.statuses("batch").iter().filter_map(|status| status["progress"]["done"].as_u64()).collect();
    assert!(done.is_sorted(), "{done:?}");
    result
}
