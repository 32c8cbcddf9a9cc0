"""Stores the weights of convolutions as int8 with one scale an output channel; the network still computes in f32.

    python shrink.py nanodet_g_416.onnx objects.onnx
    python shrink.py --any-size centerface.onnx faces.onnx

--any-size frees batch, rows and columns of the first input and of all outputs first. Needs onnx and numpy.
"""

import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter


def free_sizes(graph):
    for value in [graph.input[0], *graph.output]:
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"c{value.name.replace('.', '_')}_{axis}"


def shrink(model):
    if model.opset_import[0].version < 13:
        model = version_converter.convert_version(model, 13)
    graph = model.graph
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    constants, unpack = [], []
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        if constant.name not in weights or values.size <= 256:
            constants.append(constant)
            continue
        most = np.maximum(np.abs(values).reshape(values.shape[0], -1).max(1), 1e-8)
        scale = most / 127
        small = np.clip(np.round(values / scale.reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
        parts = {"_q": small, "_s": scale.astype(np.float32), "_z": np.zeros(values.shape[0], np.int8)}
        constants += [numpy_helper.from_array(part, constant.name + end) for end, part in parts.items()]
        names = [constant.name + end for end in parts]
        unpack.append(helper.make_node("DequantizeLinear", names, [constant.name], axis=0))
    unpacked = {node.output[0] for node in unpack}
    inputs = [value for value in graph.input if value.name not in unpacked]
    nodes = unpack + list(graph.node)
    for field, values in ((graph.input, inputs), (graph.initializer, constants), (graph.node, nodes)):
        del field[:]
        field.extend(values)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--any-size"]
    given = onnx.load(arguments[0])
    if "--any-size" in sys.argv:
        free_sizes(given.graph)
    onnx.save(shrink(given), arguments[1])
