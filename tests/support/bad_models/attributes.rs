//! Attributes that the engine would divide by, index with, allocate, or silently take for something else.

use super::super::onnx::{FLOAT, Message, floats, integer, integers, node, tensor, with, word};
use super::{BadModel, bad, list, with_nodes};

pub(super) fn models() -> Vec<BadModel> {
    let mut all = windows();
    all.extend(axes());
    all.extend(others());
    all
}

/// A convolution of a picture of one pixel, with that attribute.
fn convolution(attribute: Message) -> Vec<u8> {
    let nodes = vec![
        node("Reshape", &["x", "pixel"], &["p"]),
        with(node("Conv", &["p", "w"], &["c"]), attribute),
        node("Reshape", &["c", "flat"], &["y"]),
    ];
    let weights = tensor("w", FLOAT, &[3, 1, 1, 1], &floats(&[1.0; 3]));
    with_nodes(nodes, vec![weights, list("pixel", &[1, 1, 1, 1]), list("flat", &[-1])])
}

fn pool(attribute: Message) -> Vec<u8> {
    let nodes = vec![
        node("Reshape", &["x", "pixel"], &["p"]),
        with(node("MaxPool", &["p"], &["c"]), attribute),
        node("Reshape", &["c", "flat"], &["y"]),
    ];
    with_nodes(nodes, vec![list("pixel", &[1, 1, 1, 1]), list("flat", &[-1])])
}

fn windows() -> Vec<BadModel> {
    let conv = |name: &str, values: &[u64]| convolution(integers(name, values));
    let negative = (-1_i64).cast_unsigned();
    vec![
        bad("stride-0", conv("strides", &[0, 1]), "model.attribute", "has 0 in strides, 1 to"),
        bad("stride-negative", conv("strides", &[1, negative]), "model.attribute", "has -1 in strides"),
        bad("strides-3", conv("strides", &[1; 3]), "model.attribute", "3 values in strides, its kernel needs 2"),
        bad("dilation-0", conv("dilations", &[1, 0]), "model.attribute", "has 0 in dilations"),
        bad("dilation-huge", conv("dilations", &[1 << 40, 1]), "model.attribute", "in dilations"),
        bad("kernel-0", pool(integers("kernel_shape", &[0, 0])), "model.attribute", "has 0 in kernel_shape"),
        bad("kernel-of-rank-1", pool(integers("kernel_shape", &[1])), "model.attribute", "a kernel of 1 axes"),
        bad("kernel-not-the-weights", conv("kernel_shape", &[3, 3]), "model.attribute", "weights for [1, 1]"),
        bad("pads-of-terabytes", conv("pads", &[1 << 21; 4]), "model.attribute", "has 2097152 in pads, 0 to 4096"),
        bad("pads-of-2-to-40", conv("pads", &[1 << 40; 4]), "model.attribute", "in pads"),
        bad("pads-negative", conv("pads", &[negative; 4]), "model.attribute", "has -1 in pads"),
        bad("pads-odd", conv("pads", &[1; 3]), "model.attribute", "3 values in pads, its kernel needs 4"),
        bad("group-0", convolution(integer("group", 0)), "model.attribute", "has group = 0"),
        bad("group-negative", convolution(integer("group", -4)), "model.attribute", "has group = -4"),
        bad("group-of-no-part", convolution(integer("group", 2)), "model.attribute", "do not divide"),
        bad("auto-pad-unknown", convolution(word("auto_pad", "SAME_SIDEWAYS")), "model.attribute", "SAME_SIDEWAYS"),
    ]
}

fn axes() -> Vec<BadModel> {
    let relu = || node("Relu", &["x"], &["y"]);
    let one = |op: Message, attribute: Message| with_nodes(vec![with(op, attribute)], vec![]);
    let on_x = |op: &str, attribute: Message| one(node(op, &["x"], &["y"]), attribute);
    let parts = |attribute: Message| one(node("Split", &["x"], &["y", "z"]), attribute);
    vec![
        bad("axis-77", on_x("Softmax", integer("axis", 77)), "model.attribute", "has axis = 77, -1 to 0 are allowed"),
        bad("axis-below", on_x("LogSoftmax", integer("axis", -2)), "model.attribute", "has axis = -2"),
        bad("axis-of-concat", on_x("Concat", integer("axis", 9)), "model.attribute", "has axis = 9"),
        bad("axis-of-flatten", on_x("Flatten", integer("axis", 5)), "model.attribute", "has axis = 5"),
        bad("axes-out-of-range", on_x("ReduceMax", integers("axes", &[3])), "model.attribute", "has 3 in axes"),
        bad(
            "axes-twice",
            on_x("ReduceMax", integers("axes", &[0, (-1_i64).cast_unsigned()])),
            "model.attribute",
            "twice in axes",
        ),
        bad("perm-out-of-range", on_x("Transpose", integers("perm", &[7])), "model.attribute", "no permutation"),
        bad("perm-twice", on_x("Transpose", integers("perm", &[0, 0])), "model.attribute", "no permutation"),
        bad("perm-too-long", on_x("Transpose", integers("perm", &[1, 0])), "model.attribute", "perm of 2 axes"),
        bad("split-0", parts(integers("split", &[0, 1])), "model.attribute", "has 0 in split"),
        bad("split-in-three", parts(integers("split", &[1, 1, 1])), "model.attribute", "split into 3 parts"),
        bad("split-too-much", parts(integers("split", &[3, 3])), "model.attribute", "the axis is 1 long"),
        bad("relu-of-5000-numbers", one(relu(), integers("more", &[1; 5000])), "model.attribute", "5000 values"),
    ]
}

fn others() -> Vec<BadModel> {
    let relu = || node("Relu", &["x"], &["y"]);
    let one = |op: Message, attribute: Message| with_nodes(vec![with(op, attribute)], vec![]);
    let on_x = |op: &str, attribute: Message| one(node(op, &["x"], &["y"]), attribute);
    let named = |name: &str| Message::default().bytes(1, name);
    let many = (0..65).fold(relu(), |node, at| with(node, integer(&format!("a{at}"), 1)));
    let twice = with(with(node("Softmax", &["x"], &["y"]), integer("axis", 0)), integer("axis", 0));
    let cells = |attribute: Message| one(node("LSTM", &["x", "x", "x"], &["y"]), attribute);
    vec![
        bad("attribute-twice", with_nodes(vec![twice], vec![]), "model.attribute", "two attributes \"axis\""),
        bad("attributes-65", with_nodes(vec![many], vec![]), "model.attribute", "has 65 attributes"),
        bad("attribute-without-name", one(relu(), integer("", 1)), "model.attribute", "name of 0 bytes"),
        bad("attribute-of-type-99", one(relu(), named("a").int(20, 99)), "model.attribute", "unknown type 99"),
        bad("attribute-of-a-function", one(relu(), named("a").bytes(21, "b")), "model.attribute", "local function"),
        bad("attribute-sparse", one(relu(), named("a").message(22, Message::default())), "model.attribute", "sparse"),
        bad("cast-to-99", on_x("Cast", integer("to", 99)), "model.datatype", "number 99"),
        bad("cast-to-bfloat16", on_x("Cast", integer("to", 16)), "model.datatype", "BFLOAT16"),
        bad("cast-to-a-negative", on_x("Cast", integer("to", -1)), "model.datatype", "number -1"),
        bad("block-of-0", on_x("DepthToSpace", integer("blocksize", 0)), "model.attribute", "has blocksize = 0"),
        bad("window-of-0", on_x("LRN", integer("size", 0)), "model.attribute", "has size = 0"),
        bad("cells-of-0", cells(integer("hidden_size", 0)), "model.attribute", "has hidden_size = 0"),
        bad("cells-sideways", cells(word("direction", "sideways")), "model.attribute", "direction = \"sideways\""),
    ]
}
