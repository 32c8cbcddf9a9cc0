//! Is this a graph? Names are unique and say where a value comes from, nothing runs in a circle, nothing is missing.

use std::collections::{BTreeSet, HashMap};

use super::facts::{self, Fact, Node, Scope, Shape};
use super::text::{Named, refuse};
use super::{GRAPH_DEPTH_MAX, INITIALISERS_MAX, LINKS_MAX, NAME_BYTES_MAX, NODES_MAX, SYMBOL_BYTES_MAX};
use super::{Remark, attributes, onnx, operators, sizes, tensors};
use crate::fault::{Code, Fault};
use crate::units::MODEL_BYTES_MAX;

/// What is counted and collected on the way through the graphs of a model.
pub(super) struct Walk<'a> {
    /// Whether the engine has an operator.
    pub(super) knows: &'a dyn Fn(&str) -> bool,
    /// Operator sets that the model asks for: full name and version.
    pub(super) imports: HashMap<&'a str, i64>,
    pub(super) nodes: usize,
    pub(super) initialisers: usize,
    pub(super) tensor_bytes: u64,
    pub(super) remarks: Vec<Remark>,
}

impl<'a> Walk<'a> {
    /// Checks a graph and those inside it. `shapes` are those that its inputs are pinned to; `Ok` is the set of values
    /// that it takes from the graphs around it.
    pub(super) fn graph(
        &mut self,
        graph: &'a onnx::GraphProto,
        shapes: &[(&str, Shape)],
        outer: Option<&Scope<'a, '_>>,
        depth: usize,
    ) -> Result<BTreeSet<&'a str>, Fault> {
        self.count(graph, depth)?;
        let mut scope = Scope { facts: HashMap::with_capacity(graph.node.len() + graph.initializer.len()), outer };
        self.sources(graph, shapes, &mut scope)?;
        name_results(graph, &mut scope)?;
        // What each node takes from within: its own inputs and those of its inner graphs.
        let mut taken = Vec::with_capacity(graph.node.len());
        for node in &graph.node {
            let inner = self.node(node, &mut scope, depth)?;
            taken.push(node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).chain(inner).collect());
        }
        let captured = check_order(graph, &taken, &scope)?;
        check_outputs(graph, &scope)?;
        Ok(captured)
    }

    fn count(&mut self, graph: &onnx::GraphProto, depth: usize) -> Result<(), Fault> {
        if depth > GRAPH_DEPTH_MAX {
            let text = format!("inner graphs are nested deeper than {GRAPH_DEPTH_MAX}; simplify the model");
            return refuse(Code::ModelTooLarge, text);
        }
        self.nodes += graph.node.len();
        if self.nodes > NODES_MAX {
            let text = format!("{} operators are above the limit of {NODES_MAX}; simplify the model", self.nodes);
            return refuse(Code::ModelTooLarge, text);
        }
        self.initialisers += graph.initializer.len();
        if self.initialisers > INITIALISERS_MAX {
            let text = format!("{} constants are above the limit of {INITIALISERS_MAX}", self.initialisers);
            return refuse(Code::ModelTooLarge, text + "; simplify the model");
        }
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            let text = format!("constant {} is sparse, which is not served; save it as a plain tensor", Named(name));
            // Its data may be elsewhere: that is the graver reason.
            sparse.values.iter().chain(&sparse.indices).try_for_each(|tensor| tensors::check(tensor).map(|_| ()))?;
            return refuse(Code::ModelDatatype, text);
        }
        for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            check_symbols(value)?;
        }
        Ok(())
    }

    /// Inputs and constants.
    fn sources(
        &mut self,
        graph: &'a onnx::GraphProto,
        shapes: &[(&str, Shape)],
        scope: &mut Scope<'a, '_>,
    ) -> Result<(), Fault> {
        for input in &graph.input {
            check_name("input", &input.name)?;
            let shape = shapes.iter().find(|(name, _)| *name == input.name).map(|(_, shape)| shape.clone());
            if scope.facts.insert(&input.name, Fact { shape, ..Fact::default() }).is_some() {
                return twice("two inputs", &input.name);
            }
        }
        for tensor in &graph.initializer {
            check_name("constant", &tensor.name)?;
            self.tensor(tensor)?;
            let fact = Fact { constant: Some(tensor), shape: Some(facts::shape_of(tensor)), ..Fact::default() };
            // A constant may be the default of an input, but only one.
            if scope.facts.insert(&tensor.name, fact).is_some_and(|before| before.constant.is_some()) {
                return twice("two constants", &tensor.name);
            }
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &onnx::TensorProto) -> Result<(), Fault> {
        self.tensor_bytes = self.tensor_bytes.saturating_add(tensors::check(tensor)?);
        if self.tensor_bytes <= MODEL_BYTES_MAX {
            return Ok(());
        }
        let text =
            format!("its constants take more than {MODEL_BYTES_MAX} bytes, the most allowed; simplify the model");
        refuse(Code::ModelTooLarge, text)
    }

    /// Checks a node; `Ok` is what its inner graphs take from this one.
    fn node(
        &mut self,
        proto: &'a onnx::NodeProto,
        scope: &mut Scope<'a, '_>,
        depth: usize,
    ) -> Result<BTreeSet<&'a str>, Fault> {
        let (domain, version) = self.operator(proto)?;
        let links = proto.input.len().max(proto.output.len());
        let node = Node::new(proto, domain, version, scope);
        if links > LINKS_MAX {
            return node.refuse_size(format!("has {links} inputs or outputs, at most {LINKS_MAX} are allowed"));
        }
        attributes::check(&node)?;
        for tensor in proto.attribute.iter().flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors)) {
            self.tensor(tensor)?;
        }
        sizes::check(&node)?;
        let mut captured = BTreeSet::new();
        for graph in proto.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
            inner_ports(&node, graph)?;
            captured.append(&mut self.graph(graph, &[], Some(scope), depth + 1)?);
        }
        self.remark(&node);
        if let Some(first) = proto.output.first() {
            let (constant, integers) = constant_of(proto);
            let shape = constant.map(facts::shape_of).or_else(|| facts::output(&node));
            sizes::known(&node, shape.as_deref().unwrap_or_default())?;
            if let Some(fact) = scope.facts.get_mut(first.as_str()) {
                fact.constant = constant;
                fact.integers = integers;
                fact.shape = shape;
            }
        }
        Ok(captured)
    }

    /// Whether an operator is served under its domain; full domain and version.
    fn operator(&self, proto: &'a onnx::NodeProto) -> Result<(&'a str, i64), Fault> {
        let domain = operators::domain(&proto.domain);
        let set = operators::set(domain).filter(|set| set.has(&proto.op_type) && (self.knows)(&proto.op_type));
        if set.is_none() {
            let name = if proto.name.is_empty() { proto.output.first() } else { Some(&proto.name) };
            let full = format!("{domain}.{}", proto.op_type);
            let text = format!(
                "operator {} (node {}) is not supported; export the model without it",
                Named(&full),
                Named(name.map_or("", String::as_str))
            );
            return refuse(Code::ModelUnsupportedOp, text);
        }
        let Some(version) = self.imports.get(domain) else {
            let text = format!(
                "operator {} is of the operator set {domain}, which the model does not import; export it again",
                Named(&proto.op_type)
            );
            return refuse(Code::ModelOpset, text);
        };
        Ok((domain, *version))
    }

    fn remark(&mut self, node: &Node<'_>) {
        let quantises = matches!(
            node.op(),
            "QuantizeLinear"
                | "DynamicQuantizeLinear"
                | "QLinearConv"
                | "QLinearMatMul"
                | "ConvInteger"
                | "MatMulInteger"
        );
        if quantises && node.constant(0).is_none() && !self.remarks.contains(&Remark::QuantisedActivations) {
            self.remarks.push(Remark::QuantisedActivations);
        }
    }
}

/// What a `Constant` gives: a tensor, or plain integers.
fn constant_of(proto: &onnx::NodeProto) -> (Option<&onnx::TensorProto>, Option<&[i64]>) {
    let is_constant = proto.op_type == "Constant";
    let find = |name| proto.attribute.iter().find(|attribute| is_constant && attribute.name == name);
    let integers = find("value_ints").map(|attribute| attribute.ints.as_slice());
    let integers = integers.or_else(|| find("value_int").map(|attribute| std::slice::from_ref(&attribute.i)));
    (find("value").and_then(|attribute| attribute.t.as_ref()), integers)
}

/// Every result has a name of its own.
fn name_results<'a>(graph: &'a onnx::GraphProto, scope: &mut Scope<'a, '_>) -> Result<(), Fault> {
    for (at, node) in graph.node.iter().enumerate() {
        check_text("node", &node.name)?;
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            check_name("value", name)?;
            if scope.facts.insert(name, Fact { node: Some(at), ..Fact::default() }).is_some() {
                return twice("two values", name);
            }
        }
    }
    Ok(())
}

/// Every input is defined, and not by what comes after it; `Ok` are the names from outside.
fn check_order<'a>(
    graph: &'a onnx::GraphProto,
    taken: &[Vec<&'a str>],
    scope: &Scope<'a, '_>,
) -> Result<BTreeSet<&'a str>, Fault> {
    let mut captured = BTreeSet::new();
    let mut in_order = true;
    for (at, names) in taken.iter().enumerate() {
        for name in names {
            match scope.facts.get(name) {
                Some(fact) => in_order &= fact.node.is_none_or(|maker| maker < at),
                None if scope.find(name).is_some() => _ = captured.insert(*name),
                None => {
                    let text = format!(
                        "{} node {} takes {}, which nothing gives; export the model again",
                        Named(&graph.node[at].op_type),
                        Named(&graph.node[at].name),
                        Named(name)
                    );
                    return refuse(Code::ModelGraph, text);
                }
            }
        }
    }
    if !in_order {
        check_acyclic(graph, taken, scope)?;
    }
    Ok(captured)
}

/// Some nodes stand before those they need: that is no harm unless they run in a circle.
fn check_acyclic(graph: &onnx::GraphProto, taken: &[Vec<&str>], scope: &Scope<'_, '_>) -> Result<(), Fault> {
    let count = taken.len();
    let mut missing = vec![0_usize; count];
    let mut users = vec![Vec::new(); count];
    for (at, names) in taken.iter().enumerate() {
        for maker in names.iter().filter_map(|name| scope.facts.get(name)?.node) {
            missing[at] += 1;
            users[maker].push(at);
        }
    }
    let mut ready: Vec<usize> = (0..count).filter(|at| missing[*at] == 0).collect();
    let mut done = 0;
    while let Some(at) = ready.pop() {
        done += 1;
        for user in &users[at] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                ready.push(*user);
            }
        }
    }
    let Some(stuck) = missing.iter().position(|missing| *missing > 0) else { return Ok(()) };
    let text = format!(
        "{} of {count} operators run in a circle or behind one, among them node {}; export the model again",
        count - done,
        Named(&graph.node[stuck].name)
    );
    refuse(Code::ModelGraph, text)
}

/// There is an output, every output is made in this graph, and none is named twice.
fn check_outputs(graph: &onnx::GraphProto, scope: &Scope<'_, '_>) -> Result<(), Fault> {
    if graph.output.is_empty() {
        return refuse(Code::ModelGraph, "a graph gives no output, at least 1 is needed; export the model again");
    }
    let mut names = BTreeSet::new();
    for output in &graph.output {
        check_name("output", &output.name)?;
        if !scope.facts.contains_key(output.name.as_str()) {
            let text = format!("nothing in its graph makes the output {}; export the model again", Named(&output.name));
            return refuse(Code::ModelGraph, text);
        }
        if !names.insert(output.name.as_str()) {
            return twice("two outputs", &output.name);
        }
    }
    Ok(())
}

/// Whether an inner graph takes and gives what its operator hands over and expects.
fn inner_ports(node: &Node<'_>, graph: &onnx::GraphProto) -> Result<(), Fault> {
    let (inputs, outputs) = (graph.input.len(), graph.output.len());
    let (given, expected) = (node.proto.input.len(), node.proto.output.len());
    match node.op() {
        "If" if inputs != 0 || outputs != expected => node
            .refuse(format!("has a branch of {inputs} inputs and {outputs} outputs, none and {expected} are expected")),
        "Scan" => {
            let scanned = node.attribute("num_scan_inputs").map_or(0, |attribute| attribute.i);
            let states = usize::try_from(scanned).ok().and_then(|scanned| given.checked_sub(scanned));
            if inputs != given || outputs != expected || states.is_none_or(|states| states > outputs) {
                return node.refuse(format!(
                    "has a body of {inputs} inputs and {outputs} outputs for {given} inputs, {scanned} of them scanned, \
                     and {expected} outputs"
                ));
            }
            let trips = (states.unwrap_or_default()..given).filter_map(|at| node.shape(at)?.first().copied().flatten());
            match trips.max() {
                Some(steps) if steps > sizes::STEPS_MAX => {
                    node.refuse_size(format!("takes {steps} steps, at most {} are allowed", sizes::STEPS_MAX))
                }
                Some(_) | None => Ok(()),
            }
        }
        "If" => Ok(()),
        _ => node.refuse("holds an inner graph, which only If and Scan may"),
    }
}

// ---- names ----

fn check_name(what: &str, name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return refuse(Code::ModelName, format!("a {what} has no name; export the model again"));
    }
    check_text(what, name)
}

fn check_text(what: &str, name: &str) -> Result<(), Fault> {
    if name.len() > NAME_BYTES_MAX {
        let text = format!(
            "the {what} {} has a name of {} bytes, at most {NAME_BYTES_MAX} are allowed; rename it",
            Named(name),
            name.len()
        );
        return refuse(Code::ModelName, text);
    }
    if name.chars().any(char::is_control) {
        let text =
            format!("the {what} {} has control characters in its name, which may hold none; rename it", Named(name));
        return refuse(Code::ModelName, text);
    }
    Ok(())
}

fn twice<T>(what: &str, name: &str) -> Result<T, Fault> {
    refuse(Code::ModelGraph, format!("{what} are called {}; names must be unique, export the model again", Named(name)))
}

/// Dimensions that are declared for a value are in range, and their symbols short and plain.
fn check_symbols(value: &onnx::ValueInfoProto) -> Result<(), Fault> {
    use onnx::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    let dims = super::ports::dims(value).unwrap_or_default();
    let name = Named(&value.name);
    if dims.len() > tensors::AXES_MAX {
        let text = format!("value {name} has {} dimensions, at most {} are allowed", dims.len(), tensors::AXES_MAX);
        return refuse(Code::ModelShape, text + "; simplify the model");
    }
    for dim in dims {
        match &dim.value {
            Some(DimParam(symbol))
                if symbol.len() > SYMBOL_BYTES_MAX || symbol.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) =>
            {
                let text = format!(
                    "value {name} has a symbolic dimension of {} bytes, {}; at most {SYMBOL_BYTES_MAX} bytes of ASCII \
                     are allowed: export the model with short names of dimensions",
                    symbol.len(),
                    Named(symbol)
                );
                return refuse(Code::ModelName, text);
            }
            Some(DimValue(length)) if *length > i64::from(i32::MAX) => {
                let text = format!(
                    "value {name} has a dimension of {length}, at most {} is allowed; correct the model",
                    tensors::DIMENSION_MAX
                );
                return refuse(Code::ModelShape, text);
            }
            Some(DimParam(_) | DimValue(_)) | None => {}
        }
    }
    Ok(())
}
