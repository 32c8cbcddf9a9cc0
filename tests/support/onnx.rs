//! A writer of small ONNX files, enough for tests: good models and hostile ones, without files in the tree.
//!
//! Field numbers are those of `onnx.proto3`.

/// ONNX element type FLOAT.
pub(crate) const FLOAT: u64 = 1;
/// ONNX element type INT64.
pub(crate) const INT64: u64 = 7;

/// A protobuf message being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// An integer field.
    pub(crate) fn int(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    /// A field of bytes, text or an inner message.
    pub(crate) fn bytes(mut self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes as they are, which need not make sense.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// What was written.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// An inner message.
    pub(crate) fn message(self, field: u64, message: Self) -> Self {
        self.bytes(field, message.0)
    }
}

/// One operator: `op(inputs) -> outputs`.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let mut node = Message::default();
    for input in inputs {
        node = node.bytes(1, input);
    }
    for output in outputs {
        node = node.bytes(2, output);
    }
    node.bytes(3, outputs.first().copied().unwrap_or(op)).bytes(4, op)
}

/// An attribute with several integers, for [`with`].
pub(crate) fn integers(name: &str, values: &[u64]) -> Message {
    values.iter().fold(Message::default().bytes(1, name).int(20, 7), |attribute, value| attribute.int(8, *value))
}

/// An attribute with one integer.
pub(crate) fn integer(name: &str, value: i64) -> Message {
    Message::default().bytes(1, name).int(20, 2).int(3, value.cast_unsigned())
}

/// An attribute with a word.
pub(crate) fn word(name: &str, value: &str) -> Message {
    Message::default().bytes(1, name).int(20, 3).bytes(4, value)
}

/// An attribute with a tensor.
pub(crate) fn holding(name: &str, tensor: Message) -> Message {
    Message::default().bytes(1, name).int(20, 4).message(5, tensor)
}

/// An attribute with an inner graph.
pub(crate) fn inner(name: &str, graph: Graph) -> Message {
    Message::default().bytes(1, name).int(20, 5).message(6, graph.message())
}

/// An operator with an attribute.
pub(crate) fn with(node: Message, attribute: Message) -> Message {
    node.message(5, attribute)
}

/// A constant.
pub(crate) fn tensor(name: &str, datatype: u64, dims: &[u64], data: &[u8]) -> Message {
    tensor_head(name, datatype, dims).bytes(9, data)
}

/// A constant whose data is in another file.
pub(crate) fn external_tensor(name: &str, dims: &[u64], location: &str) -> Message {
    let entry = Message::default().bytes(1, "location").bytes(2, location);
    tensor_head(name, FLOAT, dims).message(13, entry).int(14, 1)
}

fn tensor_head(name: &str, datatype: u64, dims: &[u64]) -> Message {
    let mut tensor = Message::default();
    for dim in dims {
        tensor = tensor.int(1, *dim);
    }
    tensor.int(2, datatype).bytes(8, name)
}

/// An input or output; a dimension of 0 is open.
pub(crate) fn value(name: &str, datatype: u64, dims: &[u64]) -> Message {
    let mut shape = Message::default();
    for dim in dims {
        let open = Message::default().bytes(2, format!("n{name}"));
        shape = shape.message(1, if *dim == 0 { open } else { Message::default().int(1, *dim) });
    }
    let kind = Message::default().int(1, datatype).message(2, shape);
    Message::default().bytes(1, name).message(2, Message::default().message(1, kind))
}

/// A graph.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    /// Operators in order.
    pub(crate) nodes: Vec<Message>,
    /// Constants.
    pub(crate) constants: Vec<Message>,
    /// Inputs.
    pub(crate) inputs: Vec<Message>,
    /// Outputs.
    pub(crate) outputs: Vec<Message>,
}

impl Graph {
    /// The graph alone.
    pub(crate) fn message(self) -> Message {
        let mut graph = Message::default();
        for node in self.nodes {
            graph = graph.message(1, node);
        }
        graph = graph.bytes(2, "g");
        for constant in self.constants {
            graph = graph.message(5, constant);
        }
        for input in self.inputs {
            graph = graph.message(11, input);
        }
        for output in self.outputs {
            graph = graph.message(12, output);
        }
        graph
    }

    /// The ONNX file, of operator set 13.
    pub(crate) fn file(self) -> Vec<u8> {
        self.file_of(8, &[("", 13)]).into_bytes()
    }

    /// The ONNX file, of that format and those operator sets.
    pub(crate) fn file_of(self, ir_version: u64, sets: &[(&str, i64)]) -> Message {
        let mut file = Message::default().int(1, ir_version).message(7, self.message());
        for (domain, version) in sets {
            file = file.message(8, Message::default().bytes(1, domain).int(2, version.cast_unsigned()));
        }
        file
    }
}

/// `y = relu(x)`, one open dimension: a good model.
pub(crate) fn relu() -> Graph {
    Graph {
        nodes: vec![node("Relu", &["x"], &["y"])],
        constants: vec![],
        inputs: vec![value("x", FLOAT, &[0])],
        outputs: vec![value("y", FLOAT, &[0])],
    }
}

/// Little-endian bytes of some floats.
pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Little-endian bytes of some integers.
pub(crate) fn ints(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
