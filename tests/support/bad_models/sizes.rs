//! Constants that ask for more than there is, or for nothing that makes sense.

use super::super::onnx::{FLOAT, INT64, Message, floats, holding, integer, integers, ints, node, tensor, with};
use super::{BadModel, bad, list, with_constants, with_nodes};

pub(super) fn models() -> Vec<BadModel> {
    let mut all = shapes();
    all.extend(counts());
    all.extend(values());
    all
}

/// Something large that is made of constants and added to `x`.
fn made(op: Message, constants: Vec<Message>) -> Vec<u8> {
    let nodes = vec![op, node("ReduceMax", &["big"], &["top"]), node("Add", &["x", "top"], &["y"])];
    with_nodes(nodes, constants)
}

fn filled(dims: &[i64]) -> Vec<u8> {
    made(node("ConstantOfShape", &["shape"], &["big"]), vec![list("shape", dims)])
}

/// Doubles itself in every step: 30 operators ask for 4 GiB.
fn doubling() -> Vec<u8> {
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("d{at}") };
    let mut nodes: Vec<_> = (0..30).map(|at| node("Tile", &[&name(at), "two"], &[&name(at + 1)])).collect();
    nodes.push(node("Relu", &[&name(30)], &["y"]));
    with_nodes(nodes, vec![list("two", &[2])])
}

fn shapes() -> Vec<BadModel> {
    let by = |op: &str, values: &[i64]| with_constants(node(op, &["x", "c"], &["y"]), vec![list("c", values)]);
    let fill = with(
        node("ConstantOfShape", &["shape"], &["big"]),
        holding("value", tensor("", FLOAT, &[2], &floats(&[1.0; 2]))),
    );
    let plain = with(node("Constant", &[], &["shape"]), integers("value_ints", &[1 << 30]));
    let hidden = [
        vec![plain, node("ConstantOfShape", &["shape"], &["big"])],
        vec![node("ReduceMax", &["big"], &["top"]), node("Add", &["x", "top"], &["y"])],
    ];
    let noise = with(node("RandomNormal", &[], &["big"]), integers("shape", &[1 << 30]));
    vec![
        bad("fill-4-gigabytes", filled(&[1 << 30]), "model.too_large", "1073741824 elements, at most 16777216"),
        bad("fill-negative", filled(&[-5]), "model.too_large", "has [-5]"),
        bad("fill-all-there-is", filled(&[i64::MAX]), "model.too_large", "9223372036854775807"),
        bad("fill-by-product", filled(&[5000, 5000]), "model.too_large", "25000000 elements"),
        bad("fill-by-plain-integers", with_nodes(hidden.concat(), vec![]), "model.too_large", "1073741824 elements"),
        bad("fill-with-two-values", made(fill, vec![list("shape", &[4])]), "model.attribute", "not one element"),
        bad("noise-4-gigabytes", made(noise, vec![]), "model.too_large", "1073741824 elements"),
        bad("expand-to-2-to-40", by("Expand", &[1 << 20, 1 << 20]), "model.too_large", "1099511627776 elements"),
        bad("tile-2-to-31", by("Tile", &[(1 << 31) - 1]), "model.too_large", "2147483647 elements"),
        bad("tile-negative", by("Tile", &[-3]), "model.too_large", "has [-3]"),
        bad("tile-in-thirty-steps", doubling(), "model.too_large", "makes 33554432 elements"),
        bad("reshape-to-two-open", by("Reshape", &[-1, -1]), "model.attribute", "only one dimension may be -1"),
        bad("reshape-to-negative", by("Reshape", &[-7]), "model.too_large", "has [-7]"),
        bad("reshape-to-2-to-40", by("Reshape", &[1 << 20, 1 << 20]), "model.too_large", "1099511627776"),
        bad("pad-by-2-to-40", by("Pad", &[0, 1 << 40]), "model.attribute", "pads by 1099511627776"),
        bad("pad-one-side", by("Pad", &[1]), "model.attribute", "has 1 pads"),
    ]
}

fn counts() -> Vec<BadModel> {
    let range = |numbers: [i64; 3]| {
        let names = ["from", "to", "by"];
        let constants = names.iter().zip(numbers).map(|(name, number)| tensor(name, INT64, &[], &ints(&[number])));
        made(node("Range", &names, &["big"]), constants.collect())
    };
    let resized = |scale: f32| {
        let resize = node("Resize", &["x", "", "scales"], &["y"]);
        with_constants(resize, vec![tensor("scales", FLOAT, &[1], &floats(&[scale]))])
    };
    let sized = |size: i64| {
        let resize = node("Resize", &["x", "", "", "sizes"], &["y"]);
        with_constants(resize, vec![list("sizes", &[size])])
    };
    let top = |k: i64| {
        let names = vec![node("Expand", &["x", "four"], &["four_x"]), node("TopK", &["four_x", "k"], &["y", "i"])];
        with_nodes(names, vec![list("four", &[4]), list("k", &[k])])
    };
    let hot = vec![tensor("depth", INT64, &[], &ints(&[1 << 40])), list("of", &[0]), list("values", &[0, 1])];
    vec![
        bad("range-by-0", range([0, 10, 0]), "model.attribute", "delta of 0"),
        bad("range-to-10-to-12", range([0, 1_000_000_000_000, 1]), "model.too_large", "counts from 0 to 1000000000000"),
        bad("resize-by-10-to-9", resized(1e9), "model.attribute", "has scales [1000000000.0]"),
        bad("resize-by-0", resized(0.0), "model.attribute", "has scales [0.0]"),
        bad("resize-by-no-number", resized(f32::NAN), "model.attribute", "has scales [NaN]"),
        bad("resize-to-2-to-30", sized(1 << 30), "model.too_large", "1073741824 elements"),
        bad("resize-to-0", sized(0), "model.attribute", "a length of 0"),
        bad("top-100-of-4", top(100), "model.attribute", "the 100 largest of 4"),
        bad("top-negative", top(-1), "model.attribute", "has k = -1"),
        bad("top-10-to-12", top(1_000_000_000_000), "model.too_large", "has k = 1000000000000"),
        bad(
            "one-hot-of-2-to-40",
            made(node("OneHot", &["of", "depth", "values"], &["big"]), hot),
            "model.too_large",
            "depth",
        ),
        bad(
            "window-of-2-to-40",
            made(node("HannWindow", &["n"], &["big"]), vec![tensor("n", INT64, &[], &ints(&[1 << 40]))]),
            "model.too_large",
            "has size = 1099511627776",
        ),
    ]
}

fn values() -> Vec<BadModel> {
    let by_zero = |op: &str| {
        let nodes = vec![node(op, &["one", "zero"], &["q"]), node("Reshape", &["x", "q"], &["y"])];
        with_nodes(nodes, vec![list("one", &[1]), list("zero", &[0])])
    };
    let sliced = {
        let names = ["x", "starts", "ends", "axes", "steps"];
        let constants = [0, 1, 0, 0].iter().zip(&names[1..]).map(|(number, name)| list(name, &[*number]));
        with_constants(node("Slice", &names, &["y"]), constants.collect())
    };
    let gathered = with_constants(node("Gather", &["x", "at"], &["y"]), vec![list("at", &[5])]);
    let parts = |parts: &[i64]| with_constants(node("Split", &["x", "parts"], &["y", "z"]), vec![list("parts", parts)]);
    let summed = with_constants(node("CumSum", &["x", "axis"], &["y"]), vec![list("axis", &[7])]);
    let squeezed = with_constants(node("Squeeze", &["x", "axes"], &["y"]), vec![list("axes", &[7])]);
    let unsqueezed = with(node("Gather", &["x", "at"], &["y"]), integer("axis", 3));
    vec![
        bad("divided-by-0", by_zero("Div"), "model.attribute", "divides integers by a constant"),
        bad("rest-of-0", by_zero("Mod"), "model.attribute", "divides integers by a constant"),
        bad("slice-by-0", sliced, "model.attribute", "a step of 0"),
        bad("gather-beyond", gathered, "model.attribute", "takes element 5 of an axis of 1"),
        bad("gather-on-no-axis", with_constants(unsqueezed, vec![list("at", &[0])]), "model.attribute", "has axis = 3"),
        bad("parts-of-0", parts(&[0, 1]), "model.attribute", "a part of 0"),
        bad("parts-too-many", parts(&[1, 1, 1]), "model.attribute", "3 parts but has 2 outputs"),
        bad("sum-on-no-axis", summed, "model.attribute", "has axis = 7"),
        bad("squeeze-no-axis", squeezed, "model.attribute", "has 7 in axes"),
    ]
}
