//! Files that are no models, or that would become far more than they are.

use super::super::onnx::{Graph, Message, inner, node, with};
use super::{BadModel, bad, relu};

/// Field 7 of a model: its graph.
const GRAPH: u64 = 7;

pub(super) fn models() -> Vec<BadModel> {
    let good = relu().file();
    let garbage: Vec<u8> = (0..4096_u32).flat_map(|at| (at.wrapping_mul(2_654_435_761)).to_be_bytes()).collect();
    let with_length = |length: &[u8]| [&[0x3a][..], length].concat();
    let whole = |graph: Message| Message::default().int(1, 8).message(GRAPH, graph).into_bytes();
    let empty_text = node("Relu", &[], &["y"]).raw(&[0x0a, 0].repeat(2_100_000));
    let packed = Message::default().bytes(7, vec![1; 17 << 20]);
    vec![
        bad("empty", vec![], "model.parse", "0 bytes"),
        bad("text", b"This is a letter to a friend, and not a network at all.\n".repeat(20), "model.parse", "at byte"),
        bad("gzip", [&[0x1f, 0x8b, 8, 0][..], &good].concat(), "model.parse", "gzip"),
        bad("zip", [b"PK\x03\x04", &good[..]].concat(), "model.parse", "zip"),
        bad("picture", [b"\x89PNG\r\n\x1a\n", &garbage[..]].concat(), "model.parse", "at byte"),
        bad("truncated", good[..good.len() / 2].to_vec(), "model.parse", "are left"),
        bad("truncated-head", good[..3].to_vec(), "model.parse", "does not end"),
        bad("truncated-last-byte", good[..good.len() - 1].to_vec(), "model.parse", "are left"),
        bad("garbage", garbage, "model.parse", "at byte 1 of 16384"),
        bad("zeros", vec![0; 1024], "model.parse", "a field of number 0"),
        bad("ones", vec![0xff; 1024], "model.parse", "does not end"),
        bad("groups", vec![0x0b; 5000], "model.parse", "wire type 3"),
        bad("end-of-no-group", vec![0x0c], "model.parse", "wire type 4"),
        bad("length-of-4-gigabytes", with_length(&[0xff, 0xff, 0xff, 0xff, 0x0f]), "model.parse", "4294967295 bytes"),
        bad("length-of-2-to-63", with_length(&[&[0xff; 9][..], &[1]].concat()), "model.parse", "0 are left"),
        bad("number-of-eleven-bytes", with_length(&[0x80; 11]), "model.parse", "does not end"),
        bad("rest-behind-the-end", [good, vec![0xff; 12]].concat(), "model.parse", "does not end"),
        bad("no-graph", Message::default().int(1, 8).into_bytes(), "model.parse", "no graph"),
        bad("graph-is-a-number", Message::default().int(GRAPH, 1).into_bytes(), "model.parse", "readable"),
        bad("name-is-not-utf8", whole(Message::default().bytes(2, [0xff, 0xfe])), "model.parse", "readable"),
        bad("nested-messages", nested(60), "model.too_large", "nested deeper than 40"),
        bad("empty-nodes", whole(Message::default().raw(&[0x0a, 0].repeat(300_000))), "model.too_large", "messages"),
        bad("empty-names", whole(Message::default().message(1, empty_text)), "model.too_large", "fields"),
        bad("packed-integers", whole(Message::default().message(5, packed)), "model.too_large", "packed integers"),
    ]
}

/// A graph in a node in a graph, and so on.
fn nested(depth: usize) -> Vec<u8> {
    let mut graph = relu();
    for _ in 0..depth {
        let branch = with(node("If", &["c"], &["y"]), inner("then_branch", graph));
        graph = Graph { nodes: vec![branch], ..relu() };
    }
    graph.file()
}
