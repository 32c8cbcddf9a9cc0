"""Trains prb-forecast and kpi-anomaly on the synthetic traces of ran_traces.py and writes them as ONNX.

Needs numpy, jax, scikit-learn, onnx and onnxruntime. Prints how good they are on cells that were not trained on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPRegressor

from ran_traces import cell_features, kpi_table

PAST, FUTURE = 48, 12  # bins of 5 minutes: four hours back, one hour ahead
CHANNELS = 24
QUANTILES = np.array([0.5, 0.9, 0.99], np.float32)
DILATIONS = (1, 2, 4, 8)


def windows(seeds, stride):
    past, future = [], []
    for seed in seeds:
        features = cell_features(14, seed)
        for at in range(PAST, features.shape[1] - FUTURE, stride):
            past.append(features[:, at - PAST : at])
            future.append(features[0, at : at + FUTURE])
    return np.array(past), np.array(future)


# ---- prb-forecast: dilated causal convolutions, pinball loss ----


def initial_weights():
    keys = jax.random.split(jax.random.PRNGKey(0), 9)

    def normal(key, shape, fan_in):
        return np.asarray(jax.random.normal(key, shape)) * np.sqrt(2 / fan_in)

    weights = {"w0": normal(keys[0], (CHANNELS, 5, 3), 15), "b0": np.zeros(CHANNELS)}
    for at in (1, 2, 3):
        weights[f"w{at}"] = normal(keys[at], (CHANNELS, CHANNELS, 3), 3 * CHANNELS)
        weights[f"b{at}"] = np.zeros(CHANNELS)
    weights["wo"] = normal(keys[4], (CHANNELS, FUTURE * 3), CHANNELS) * 0.3
    weights["bo"] = np.zeros(FUTURE * 3)
    return {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}


def convolve(x, weight, bias, dilation):
    x = jnp.pad(x, ((0, 0), (0, 0), (2 * dilation, 0)))
    return jax.lax.conv_general_dilated(x, weight, (1,), "VALID", rhs_dilation=(dilation,)) + bias[None, :, None]


def forecast(weights, x):
    hidden = jax.nn.relu(convolve(x, weights["w0"], weights["b0"], 1))
    for at, dilation in enumerate(DILATIONS[1:], 1):
        hidden = hidden + jax.nn.relu(convolve(hidden, weights[f"w{at}"], weights[f"b{at}"], dilation))
    out = hidden[:, :, -1] @ weights["wo"] + weights["bo"]
    return jax.nn.sigmoid(out.reshape(-1, FUTURE, 3))


def pinball(weights, x, y):
    error = y[:, :, None] - forecast(weights, x)
    return jnp.mean(jnp.maximum(QUANTILES * error, (QUANTILES - 1) * error))


@jax.jit
def adam(weights, first, second, step, x, y):
    loss, gradient = jax.value_and_grad(pinball)(weights, x, y)
    first = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, first, gradient)
    second = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, second, gradient)
    weights = jax.tree.map(
        lambda w, a, b: w - 2e-3 * (a / (1 - 0.9**step)) / (jnp.sqrt(b / (1 - 0.999**step)) + 1e-8),
        weights,
        first,
        second,
    )
    return weights, first, second, loss


def train_forecast():
    past, future = windows(range(10), 6)
    past_new, future_new = windows(range(100, 106), 7)
    random = np.random.default_rng(3)
    weights = initial_weights()
    first = second = jax.tree.map(jnp.zeros_like, weights)
    step = 0
    for _ in range(5):
        order = random.permutation(len(past))
        for at in range(0, len(past) - 256, 256):
            step += 1
            batch = order[at : at + 256]
            weights, first, second, _ = adam(weights, first, second, float(step), past[batch], future[batch])
    given = np.asarray(forecast(weights, past_new))
    persistence = np.repeat(past_new[:, 0, -1:], FUTURE, 1)
    print("mean error of q50", np.abs(given[:, :, 0] - future_new).mean(), "of persistence", np.abs(persistence - future_new).mean())
    print("covered by q90", (future_new <= given[:, :, 1]).mean(), "by q99", (future_new <= given[:, :, 2]).mean())
    write_forecast({name: np.asarray(value, np.float32) for name, value in weights.items()})
    got = ort.InferenceSession("prb-forecast.onnx").run(None, {"kpi": past_new[:500]})[0]
    print("ONNX Runtime against JAX", np.abs(got - given[:500]).max())


def write_forecast(weights):
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    nodes = []

    def convolution(source, at, dilation, target):
        attributes = {"kernel_shape": [3], "dilations": [dilation], "pads": [2 * dilation, 0]}
        nodes.append(helper.make_node("Conv", [source, f"w{at}", f"b{at}"], [target + "c"], **attributes))
        nodes.append(helper.make_node("Relu", [target + "c"], [target]))

    convolution("kpi", 0, 1, "h0")
    last = "h0"
    for at, dilation in enumerate(DILATIONS[1:], 1):
        convolution(last, at, dilation, f"r{at}")
        nodes.append(helper.make_node("Add", [last, f"r{at}"], [f"h{at}"]))
        last = f"h{at}"
    constants.append(numpy_helper.from_array(np.array(PAST - 1, np.int64), "last"))
    nodes.append(helper.make_node("Gather", [last, "last"], ["hl"], axis=2))
    nodes.append(helper.make_node("Gemm", ["hl", "wo", "bo"], ["g"]))
    constants.append(numpy_helper.from_array(np.array([-1, FUTURE, 3], np.int64), "shp"))
    nodes.append(helper.make_node("Reshape", ["g", "shp"], ["gr"]))
    nodes.append(helper.make_node("Sigmoid", ["gr"], ["prb_quantiles"]))
    write("prb-forecast", nodes, constants, ("kpi", ["N", 5, PAST]), ("prb_quantiles", ["N", FUTURE, 3]))


# ---- kpi-anomaly: an autoencoder's error ----


def train_anomaly():
    table = np.concatenate([kpi_table(seed) for seed in range(8)])
    mean, spread = table.mean(0), table.std(0)
    normal = (table - mean) / spread
    network = MLPRegressor(hidden_layer_sizes=(12, 4, 12), activation="tanh", max_iter=25, early_stopping=True, random_state=0)
    network.fit(normal, normal)
    constants = [numpy_helper.from_array(mean.astype(np.float32), "mu")]
    constants.append(numpy_helper.from_array((1 / spread).astype(np.float32), "isd"))
    nodes = [helper.make_node("Sub", ["kpi", "mu"], ["d0"]), helper.make_node("Mul", ["d0", "isd"], ["z"])]
    last = "z"
    for at, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_)):
        constants.append(numpy_helper.from_array(weight.astype(np.float32), f"w{at}"))
        constants.append(numpy_helper.from_array(bias.astype(np.float32), f"b{at}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{at}", f"b{at}"], [f"g{at}"]))
        last = f"g{at}"
        if at < len(network.coefs_) - 1:
            nodes.append(helper.make_node("Tanh", [last], [f"t{at}"]))
            last = f"t{at}"
    nodes.append(helper.make_node("Sub", ["z", last], ["e"]))
    nodes.append(helper.make_node("Mul", ["e", "e"], ["e2"]))
    nodes.append(helper.make_node("ReduceMean", ["e2"], ["score"], axes=[1], keepdims=0))
    write("kpi-anomaly", nodes, constants, ("kpi", ["N", 16]), ("score", ["N"]))
    healthy = kpi_table(50)
    bad = healthy.copy()
    bad[:, 3] += 0.15  # block errors
    bad[:, 2] *= 0.5  # modulation and coding
    net = ort.InferenceSession("kpi-anomaly.onnx")
    scores = [net.run(None, {"kpi": rows})[0] for rows in (healthy, bad)]
    truth = np.repeat([0, 1], [len(healthy), len(bad)])
    print("area under the curve of halved MCS and block errors + 0.15", roc_auc_score(truth, np.concatenate(scores)))


def write(name, nodes, constants, source, target):
    inputs = [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, source[1])]
    outputs = [helper.make_tensor_value_info(target[0], TensorProto.FLOAT, target[1])]
    title = {"prb-forecast": "prb_forecast", "kpi-anomaly": "kpi_ae"}[name]
    graph = helper.make_graph(nodes, title, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, f"{name}.onnx")


if __name__ == "__main__":
    train_forecast()
    train_anomaly()
