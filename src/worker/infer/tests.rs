//! Which models are computed rightly, and which are refused before they can do harm?

#[allow(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../../../tests/support/onnx.rs"]
pub(in crate::worker) mod onnx;

use self::onnx::{FLOAT, Graph, INT64, external_tensor, floats, ints, node, tensor, value};
use super::*;
use crate::units::FAULT_TEXT_BYTES_MAX;
use crate::worker::preflight::NODES_MAX;

fn port(name: &str, datatype: DataType, shape: &[Option<usize>]) -> Port {
    Port { name: name.to_owned(), datatype, shape: shape.to_vec(), default: None }
}

fn pinned(name: &str, datatype: DataType, shape: &[usize]) -> Pinned {
    Pinned { name: name.to_owned(), datatype, shape: shape.to_vec() }
}

/// `y = op(x)`, one open dimension.
fn unary(op: &str, datatype: u64) -> Graph {
    Graph {
        nodes: vec![node(op, &["x"], &["y"])],
        constants: vec![],
        inputs: vec![value("x", datatype, &[0])],
        outputs: vec![value("y", datatype, &[0])],
    }
}

fn load(file: Vec<u8>, inputs: &[Pinned], outputs: &[Port]) -> Result<Box<dyn Plan>, Fault> {
    engine().load(file, inputs, outputs)
}

/// Loads a model with input `x` and output `y`, both FP32 of one dimension of 3.
fn load_floats(file: Vec<u8>) -> Result<Box<dyn Plan>, Fault> {
    load(file, &[pinned("x", DataType::Fp32, &[3])], &[port("y", DataType::Fp32, &[None])])
}

fn refusal(file: Vec<u8>) -> Fault {
    load_floats(file).err().expect("this model must be refused")
}

#[test]
fn numbers_are_right() {
    let plan = load_floats(unary("Relu", FLOAT).file()).unwrap();
    let x = Tensor::f32s("x", vec![3], &[-1.5, 0.0, 2.25]).unwrap();
    assert_eq!(plan.run(vec![x]).unwrap(), [Tensor::f32s("y", vec![3], &[0.0, 0.0, 2.25]).unwrap()]);
}

#[test]
fn inputs_go_by_name_and_outputs_come_in_the_order_asked_for() {
    let graph = Graph {
        nodes: vec![node("Sub", &["a", "b"], &["difference"]), node("Mul", &["a", "b"], &["product"])],
        constants: vec![],
        inputs: vec![value("a", FLOAT, &[0]), value("b", FLOAT, &[0])],
        outputs: vec![value("difference", FLOAT, &[0]), value("product", FLOAT, &[0])],
    };
    // The other way round than the graph has them.
    let inputs = ["b", "a"].map(|name| pinned(name, DataType::Fp32, &[1]));
    let outputs = ["product", "difference"].map(|name| port(name, DataType::Fp32, &[Some(1)]));
    let plan = load(graph.file(), &inputs, &outputs).unwrap();
    let tensors = [("b", 3.0), ("a", 5.0)].map(|(name, value)| Tensor::f32s(name, vec![1], &[value]).unwrap());
    let answer = plan.run(tensors.to_vec()).unwrap();
    let answer: Vec<_> = answer.iter().map(|tensor| (tensor.name.as_str(), tensor.to_f32s().unwrap()[0])).collect();
    assert_eq!(answer, [("product", 15.0), ("difference", 2.0)]);
}

#[test]
fn every_element_type_passes_unchanged() {
    // Numbers of the types in onnx.proto3, in the order of `DataType::ALL`.
    let numbers = [9, 2, 4, 12, 13, 3, 5, 6, 7, 10, 1, 11, 8];
    for (datatype, number) in DataType::ALL.into_iter().zip(numbers) {
        let inputs = [pinned("x", datatype, &[2])];
        let outputs = [port("y", datatype, &[Some(2)])];
        let plan = load(unary("Identity", number).file(), &inputs, &outputs).unwrap();
        let x = match datatype.element_bytes() {
            Some(1) if datatype == DataType::Bool => Tensor::new("x", datatype, vec![2], vec![1, 0]).unwrap(),
            Some(bytes) => Tensor::new("x", datatype, vec![2], (1..).take(2 * bytes).collect()).unwrap(),
            None => Tensor::strings("x", &["ebb", "flood"]),
        };
        let y = plan.run(vec![x.clone()]).unwrap();
        assert_eq!((&y[0].data, y[0].datatype, &y[0].shape), (&x.data, datatype, &x.shape), "{datatype}");
    }
}

#[test]
fn a_bool_that_is_neither_0_nor_1_counts_as_1() {
    let plan =
        load(unary("Not", 9).file(), &[pinned("x", DataType::Bool, &[3])], &[port("y", DataType::Bool, &[Some(3)])]);
    let x = Tensor::new("x", DataType::Bool, vec![3], vec![0, 1, 77]).unwrap();
    assert_eq!(plan.unwrap().run(vec![x]).unwrap()[0].data, [1, 0, 0]);
}

#[test]
fn dimensions_computed_by_the_graph_come_out_as_int64() {
    let mut graph = unary("Shape", FLOAT);
    graph.outputs = vec![value("y", INT64, &[1])];
    let plan = load(graph.file(), &[pinned("x", DataType::Fp32, &[3])], &[port("y", DataType::Int64, &[Some(1)])]);
    let x = Tensor::f32s("x", vec![3], &[0.0; 3]).unwrap();
    assert_eq!(plan.unwrap().run(vec![x]).unwrap()[0].data, ints(&[3]));
}

#[test]
fn one_file_serves_several_shapes() {
    let file = unary("Relu", FLOAT).file();
    for length in [1, 7, 1000] {
        let plan = load(file.clone(), &[pinned("x", DataType::Fp32, &[length])], &[port("y", DataType::Fp32, &[None])]);
        let x = Tensor::f32s("x", vec![length], &vec![1.0; length]).unwrap();
        assert_eq!(plan.unwrap().run(vec![x]).unwrap()[0].shape, [length]);
    }
}

#[test]
fn a_file_that_is_no_model_is_a_parse_fault() {
    let whole = unary("Relu", FLOAT).file();
    for file in [vec![], b"not a model at all, only text".to_vec(), vec![0xff; 100], whole[..whole.len() / 2].to_vec()]
    {
        assert_eq!(refusal(file).code, Code::ModelParse);
    }
}

#[test]
fn an_unknown_operator_is_named() {
    let fault = refusal(unary("Frobnicate", FLOAT).file());
    assert_eq!(fault.code, Code::ModelUnsupportedOp);
    assert!(fault.message.contains("\"ai.onnx.Frobnicate\" (node \"y\")"), "{fault}");
}

#[test]
fn an_operator_of_a_strange_domain_is_not_mistaken_for_its_namesake() {
    let mut graph = unary("Relu", FLOAT);
    graph.nodes = vec![node("Relu", &["x"], &["y"]).bytes(7, "corp.example")];
    let fault = refusal(graph.file());
    assert_eq!(fault.code, Code::ModelUnsupportedOp);
    assert!(fault.message.contains("corp.example.Relu"), "{fault}");
}

#[test]
fn data_in_another_file_is_refused() {
    let mut graph = unary("Relu", FLOAT);
    graph.nodes = vec![node("Add", &["x", "w"], &["y"])];
    graph.constants = vec![external_tensor("w", &[3], "../../etc/passwd")];
    let fault = refusal(graph.file());
    assert_eq!(fault.code, Code::ModelExternalData);
    assert!(fault.message.contains("\"w\""), "{fault}");
}

#[test]
fn an_input_that_only_one_side_knows_is_named() {
    let file = unary("Relu", FLOAT).file();
    let outputs = [port("y", DataType::Fp32, &[None])];
    let message = |inputs: &[Pinned]| {
        let fault = load(file.clone(), inputs, &outputs).err().unwrap();
        assert_eq!(fault.code, Code::ModelShape);
        fault.message
    };
    let text = message(&[]);
    assert!(text.contains("takes an input \"x\" that model.toml does not declare"), "{text}");
    let both = ["x", "z"].map(|name| pinned(name, DataType::Fp32, &[3]));
    let text = message(&both);
    assert!(text.contains("an input \"z\" that the model does not take; it takes [\"x\"]"), "{text}");
}

#[test]
fn an_input_of_another_type_or_shape_than_the_models_is_refused() {
    let mut graph = unary("Relu", FLOAT);
    graph.inputs = vec![value("x", FLOAT, &[0, 4])];
    let file = graph.file();
    let code = |input| {
        load(file.clone(), &[input], &[port("y", DataType::Fp32, &[None, None])])
            .map(|_| ())
            .map_err(|fault| fault.code)
    };
    assert_eq!(code(pinned("x", DataType::Fp64, &[3, 4])), Err(Code::ModelShape));
    assert_eq!(code(pinned("x", DataType::Fp32, &[3, 5])), Err(Code::ModelShape));
    assert_eq!(code(pinned("x", DataType::Fp32, &[12])), Err(Code::ModelShape));
    assert_eq!(code(pinned("x", DataType::Fp32, &[3, 4])), Ok(()));
}

#[test]
fn an_output_that_is_not_the_declared_one_is_refused() {
    let file = unary("Relu", FLOAT).file();
    let inputs = [pinned("x", DataType::Fp32, &[3])];
    let fault = load(file.clone(), &inputs, &[port("z", DataType::Fp32, &[None])]).err().unwrap();
    assert_eq!(fault.code, Code::ModelShape);
    assert!(fault.message.contains("it gives [\"y\"]"), "{fault}");
    for wrong in [port("y", DataType::Fp64, &[None]), port("y", DataType::Fp32, &[Some(4)])] {
        let x = Tensor::f32s("x", vec![3], &[0.0; 3]).unwrap();
        let fault = load(file.clone(), &inputs, &[wrong]).unwrap().run(vec![x]).unwrap_err();
        assert_eq!(fault.code, Code::ModelShape);
        assert!(fault.message.contains("correct model.toml"), "{fault}");
    }
}

#[test]
fn a_chain_too_long_to_optimise_is_refused_at_once() {
    let mut graph = unary("Relu", FLOAT);
    graph.nodes = (0..=NODES_MAX).map(|_| node("Relu", &["x"], &["y"])).collect();
    let fault = refusal(graph.file());
    assert_eq!(fault.code, Code::ModelTooLarge);
    assert!(fault.message.contains("limit of 5000"), "{fault}");
}

#[test]
fn constants_larger_than_any_file_are_refused() {
    for dims in [vec![1 << 40], vec![1 << 32, 1 << 32], vec![u64::MAX]] {
        let mut graph = unary("Relu", FLOAT);
        graph.constants = vec![tensor("w", FLOAT, &dims, &floats(&[1.0]))];
        assert_eq!(refusal(graph.file()).code, Code::ModelShape, "{dims:?}");
    }
}

#[test]
fn a_symbolic_dimension_that_would_overrun_the_parsers_stack_is_refused() {
    let mut graph = unary("Relu", FLOAT);
    let name = format!("x{}", "(".repeat(50_000));
    graph.inputs = vec![value(&name, FLOAT, &[0])];
    let fault = load(graph.file(), &[pinned(&name, DataType::Fp32, &[3])], &[port("y", DataType::Fp32, &[None])]);
    assert_eq!(fault.err().unwrap().code, Code::ModelName);
}

#[test]
fn text_into_a_network_must_be_utf8() {
    let plan = load(
        unary("Identity", 8).file(),
        &[pinned("x", DataType::Bytes, &[1])],
        &[port("y", DataType::Bytes, &[Some(1)])],
    );
    let fault = plan.unwrap().run(vec![Tensor::bytes("x", &[0xff, 0xfe])]).unwrap_err();
    assert_eq!(fault.code, Code::InputDecode);
}

#[test]
fn a_long_error_text_is_cut_while_it_is_made() {
    let brief = Brief::of(&"x".repeat(10_000)).to_string();
    assert_eq!(brief.len(), FAULT_TEXT_BYTES_MAX / 2);
}

#[test]
fn the_engine_is_called_by_the_version_that_is_built_in() {
    let lock = include_str!("../../../Cargo.lock");
    let (name, version) = ENGINE.split_once(' ').unwrap();
    assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{ENGINE} is not in Cargo.lock");
}
