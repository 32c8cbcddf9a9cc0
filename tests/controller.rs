//! smoke
mod common;
use common::controller::read_json;
use common::node::{Node, Setup, models};
use serde_json::json;

#[test]
fn smoke() {
    let node = Node::start(&Setup::new());
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let input = read_json(models().join("kpi-anomaly/samples/healthy.json"));
    controller.submit("a", &json!({"model": "kpi-anomaly", "input": input}));
    controller.wait_for_state("a", "SUCCEEDED");
    eprintln!("{:?}\n{}", controller.statuses("a"), controller.wait_for_result("a"));
    eprintln!("{}", controller.ask("ping", &json!({})));
}
