"""Makes the samples and golden files of every model with ONNX Runtime.

Needs onnxruntime, numpy, pillow, scikit-image (its sample pictures) and the program espeak-ng. Run it in models/make.
Everything here is written apart from src/worker: it is what the Rust code is measured against.
"""

import io
import json
import struct
import subprocess
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import skimage.data
from PIL import Image

from ran_traces import cell_features, kpi_table

MODELS = Path(__file__).resolve().parent.parent
PICTURES = Path(skimage.data.__file__).parent
ort.set_default_logger_severity(3)


# ---- writing ----


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(MODELS / model / "1/model.onnx", options)


def run(model, feeds):
    net = session(model)
    names = [output.name for output in net.get_outputs()]
    return dict(zip(names, net.run(names, feeds)))


def numbers(name, array, every=1):
    array = np.asarray(array, np.float32)
    shown = [float(f"{value:.6g}") for value in array.reshape(-1)[::every]]
    tensor = {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": shown}
    if every > 1:
        tensor["parameters"] = {"every": every}
    return tensor


def texts(name, values, shape=None):
    return {"name": name, "datatype": "BYTES", "shape": shape or [len(values)], "data": list(values)}


def write_golden(model, case, outputs):
    path = MODELS / model / "golden" / f"{case}.json"
    path.parent.mkdir(exist_ok=True)
    body = {"model_name": model, "model_version": "1", "outputs": outputs}
    path.write_text(json.dumps(body, separators=(",", ":")) + "\n")
    for output in outputs:
        print(f"{model:13} {case:20} {output['name']:14} {output['shape']} {str(output['data'][:8])}")


def write_request(model, case, name, array):
    path = MODELS / model / "samples" / f"{case}.json"
    path.parent.mkdir(exist_ok=True)
    array = np.asarray(array, np.float32)
    data = [float(f"{value:.6g}") for value in array.reshape(-1)]
    body = {"inputs": [{"name": name, "datatype": "FP32", "shape": list(array.shape), "data": data}]}
    path.write_text(json.dumps(body, separators=(",", ":")) + "\n")
    return np.array(data, np.float32).reshape(array.shape)


def thin(array):
    """About a hundred elements, at a stride that meets every column."""
    every = max(1, np.asarray(array).size // 97)
    return every + (every % 2 == 0) if every > 1 else 1


# ---- pictures ----


def picture(name, crop=None):
    image = Image.open(PICTURES / f"{name}.png").convert("RGB")
    return image.crop(crop) if crop else image


def write_jpeg(model, name, image, quality=85):
    path = MODELS / model / "samples" / f"{name}.jpg"
    path.parent.mkdir(exist_ok=True)
    image.save(path, quality=quality, optimize=True)
    assert path.stat().st_size <= 60_000, path
    return Image.open(path).convert("RGB")


def write_exact(model, image, side):
    """A picture of the network's own size without loss, so that both sides see the same pixels."""
    path = MODELS / model / "golden/exact.png"
    image.resize((side, side)).quantize(32, dither=Image.Dither.NONE).save(path, optimize=True)
    return Image.open(path).convert("RGB")


def round_half_up(value):
    return int(np.floor(value + 0.5))


def best_first(found, score_min, overlap_max):
    """found: (score, label, box, rest), greedy suppression within a label."""
    kept = []
    for candidate in sorted((f for f in found if f[0] >= score_min), key=lambda f: -f[0]):
        if all(candidate[1] != k[1] or intersection_over_union(candidate[2], k[2]) <= overlap_max for k in kept):
            kept.append(candidate)
    return kept


def intersection_over_union(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def objects_input(image):
    factor = 416 / max(image.size)
    width, height = (round_half_up(side * factor) for side in image.size)
    left, top = (416 - width) // 2, (416 - height) // 2
    canvas = Image.new("RGB", (416, 416))
    canvas.paste(image if image.size == (width, height) else image.resize((width, height), Image.BILINEAR), (left, top))
    blue_first = np.asarray(canvas, np.float32)[..., ::-1]
    normal = (blue_first - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]
    there = (width / image.size[0], height / image.size[1], left, top)
    return normal.transpose(2, 0, 1)[None].astype(np.float32), there


def objects(image):
    labels = (MODELS / "objects/labels.txt").read_text().splitlines()
    pixels, (scale_x, scale_y, left, top) = objects_input(image)
    raw = run("objects", {"images": pixels})
    found = []
    for stride in (8, 16, 32):
        scores, logits = raw[f"cls_s{stride}"][0], raw[f"dis_s{stride}"][0].reshape(-1, 4, 11)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        reach = (weights * np.arange(11)).sum(-1) / weights.sum(-1) * stride
        for cell in np.nonzero(scores.max(-1) >= 0.4)[0]:
            y, x = (np.array(divmod(cell, 416 // stride)) + 0.5) * stride
            corners = np.array([x, y, x, y]) + reach[cell] * [-1, -1, 1, 1]
            corners = (corners - [left, top, left, top]) / [scale_x, scale_y, scale_x, scale_y]
            corners = np.clip(corners, 0, [*image.size, *image.size])
            found.append((float(scores[cell].max()), labels[scores[cell].argmax()], corners, None))
    return raw, best_first(found, 0.4, 0.5)


def make_objects():
    samples = {
        "astronaut": (picture("astronaut"), 85),
        "camera": (picture("camera"), 85),
        "chelsea": (picture("chelsea"), 85),
        "coffee": (picture("coffee", (100, 0, 500, 400)), 85),
    }
    for name, (image, quality) in samples.items():
        _, kept = objects(write_jpeg("objects", name, image, quality))
        boxes = np.array([k[2] for k in kept], np.float32).reshape(-1, 4)
        outputs = [numbers("boxes", boxes), numbers("scores", [k[0] for k in kept]), texts("labels", [k[1] for k in kept])]
        write_golden("objects", name, outputs)
    raw, _ = objects(write_exact("objects", picture("astronaut"), 416))
    write_golden("objects", "exact", [numbers(name, array, thin(array)) for name, array in raw.items()])


def faces(image):
    factor = min(1, 640 / max(image.size))
    width, height = (round_half_up(side * factor) for side in image.size)
    canvas = Image.new("RGB", (-(-width // 32) * 32, -(-height // 32) * 32))
    canvas.paste(image if factor == 1 else image.resize((width, height), Image.BILINEAR), (0, 0))
    pixels = np.ascontiguousarray(np.asarray(canvas, np.float32).transpose(2, 0, 1)[None])
    raw = run("faces", {"input.1": pixels})
    heat, sizes, offsets, points = (raw[name][0] for name in ("537", "538", "539", "540"))
    back = np.array([image.size[0] / width, image.size[1] / height])
    found = []
    for row, column in zip(*np.nonzero(heat[0] >= 0.5)):
        size = np.exp(sizes[::-1, row, column]) * 4
        centre = (np.array([column, row]) + offsets[::-1, row, column] + 0.5) * 4
        corner = centre - size / 2
        marks = (corner + points[:, row, column].reshape(5, 2)[:, ::-1] * size) * back
        box = np.clip(np.concatenate([corner * back, (corner + size) * back]), 0, [*image.size, *image.size])
        found.append((float(heat[0, row, column]), "face", box, marks.reshape(10)))
    return raw, best_first(found, 0.5, 0.3)


def make_faces():
    for name in ("astronaut", "camera"):
        _, kept = faces(write_jpeg("faces", name, picture(name)))
        outputs = [
            numbers("boxes", np.array([k[2] for k in kept]).reshape(-1, 4)),
            numbers("scores", [k[0] for k in kept]),
            numbers("landmarks", np.array([k[3] for k in kept]).reshape(-1, 10)),
        ]
        write_golden("faces", name, outputs)
    raw, _ = faces(write_exact("faces", picture("astronaut"), 320))
    write_golden("faces", "exact", [numbers(name, array, thin(array)) for name, array in raw.items()])


# ---- file contents ----


def pcap():
    """A capture of three UDP packets between documentation addresses."""
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for at in range(3):
        payload = f"beacon {at}".encode()
        udp = struct.pack(">HHHH", 40000, 5000, 8 + len(payload), 0) + payload
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), at, 0, 64, 17, 0, bytes([192, 0, 2, 1]), bytes([198, 51, 100, 7]))
        frame = bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]) + ip + udp
        out += struct.pack("<IIII", 1_700_000_000 + at, 0, len(frame), len(frame)) + frame
    return out


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("readme.txt", "table.csv"):
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, f"{name}: " + "cell,prb,late\n" * 200)
    return out.getvalue()


# Names that tell the truth, and names that do not: only the content counts.
CONTENTS = {
    "capture.pcap": pcap,
    "invoice.pdf": zipped,
    "notes.txt": lambda: NOTES.encode(),
    "holiday.jpg": lambda: SCRIPT.encode(),
}
NOTES = """# Night shift

The cell is quiet from two to five. Maintenance may:

* restart the **remote radio head**, when nobody is attached;
* run `neap models` and look at the digests;
* read [the map](map.html) before touching anything.

| hour | PRB |
|------|-----|
| 2    | 4 % |
| 3    | 3 % |
"""
SCRIPT = """#!/usr/bin/env python3
import os
import sys


def main(folder):
    total = 0
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            total += os.path.getsize(path)
    print(f"{folder}: {total} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "."))
"""


def tokens(content):
    head, tail = content[:4096].lstrip(), content[-4096:].rstrip()
    head, tail = list(head[:1024]), list(tail[-1024:])
    return np.array([head + [256] * (1024 - len(head)) + [256] * (1024 - len(tail)) + tail], np.int32)


def make_file_type():
    labels = np.array((MODELS / "file-type/labels.txt").read_text().splitlines())
    (MODELS / "file-type/samples").mkdir(exist_ok=True)
    for name, make in CONTENTS.items():
        content = make()
        (MODELS / "file-type/samples" / name).write_bytes(content)
        scores = run("file-type", {"bytes": tokens(content)})["target_label"]
        best = [at for at in np.argsort(-scores[0], kind="stable")[:3] if scores[0][at] >= 0.005]
        case = name.split(".")[0]
        names = [str(labels[at]) for at in best]
        write_golden("file-type", case, [texts("labels", names), numbers("scores", scores[0][best])])
        if case == "capture":
            write_golden("file-type", "exact", [numbers("target_label", scores)])


# ---- sound ----


def make_speech():
    folder = MODELS / "speech/samples"
    folder.mkdir(exist_ok=True)
    spoken = []
    for sentence in ("The cell is quiet now.", "Please keep the door closed."):
        wav = subprocess.run(["espeak-ng", "-v", "en", "-s", "150", "--stdout", sentence], check=True, capture_output=True).stdout
        start = wav.index(b"data") + 8
        rate = struct.unpack_from("<I", wav, 24)[0]
        sound = np.frombuffer(wav[start : start + (len(wav) - start) // 2 * 2], "<i2").astype(np.float64)
        wanted = np.arange(0, len(sound) - 1, rate / 16000)
        spoken.append(np.interp(wanted, np.arange(len(sound)), sound))
    hush = np.random.default_rng(1).normal(0, 20, 16000)
    sound = np.concatenate([hush, spoken[0], hush, hush[:8000], spoken[1], hush])
    sound = np.clip(sound, -32768, 32767).astype("<i2")
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + sound.nbytes, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", sound.nbytes)
    (folder / "two-sentences.wav").write_bytes(head + sound.tobytes())

    samples = sound.astype(np.float32) / 32768
    count = -(-len(samples) // 512)
    padded = np.concatenate([np.zeros(64, np.float32), samples, np.zeros(count * 512 - len(samples), np.float32)])
    frames = np.stack([padded[at * 512 : at * 512 + 576] for at in range(count)])
    state = np.zeros((1, 1, 128), np.float32)
    raw = run("speech", {"input": frames, "h": state, "c": state})
    write_golden("speech", "exact", [numbers(name, array) for name, array in raw.items()])

    probabilities = raw["speech_probs"]
    voiced, spans, at = probabilities >= 0.5, [], 0
    while at < count:
        if not voiced[at]:
            at += 1
            continue
        end = at
        # 300 ms of silence are ten frames of 32 ms.
        while end < count and (probabilities[end : end + 10] >= 0.35).any():
            end += 1
        spans.append((at, end))
        at = end + 10
    spans = [span for span in spans if (span[1] - span[0]) * 0.032 >= 0.25]
    times = [[first * 0.032, min(end * 0.032, len(samples) / 16000)] for first, end in spans]
    means = [probabilities[first:end].mean() for first, end in spans]
    write_golden("speech", "two-sentences", [numbers("segments", np.array(times).reshape(-1, 2)), numbers("scores", means)])


# ---- radio access network ----


def make_prb_forecast():
    features = cell_features(days=8, seed=4711)
    for case, hour in {"morning-rise": 8.0, "evening-fall": 22.0, "deep-night": 3.0}.items():
        end = 2 * 288 + int(hour * 12)
        window = write_request("prb-forecast", case, "kpi", features[None, :, end - 48 : end])
        quantiles = run("prb-forecast", {"kpi": window})["prb_quantiles"]
        columns = [numbers(name, quantiles[..., at]) for at, name in enumerate(("q50", "q90", "q99"))]
        write_golden("prb-forecast", case, columns)
        if case == "morning-rise":
            write_golden("prb-forecast", "exact", [numbers("prb_quantiles", quantiles)])


def make_kpi_anomaly():
    manifest = tomllib.loads((MODELS / "kpi-anomaly/model.toml").read_text())
    above = manifest["interpret"]["alarm"]["above"]
    normal = np.concatenate([kpi_table(seed) for seed in range(200, 206)])
    scores = run("kpi-anomaly", {"kpi": normal})["score"]
    print(f"kpi-anomaly: scores of normal traces p50 {np.median(scores):.3f} p99.9 {np.quantile(scores, .999):.3f}, alarm above {above}")
    table = kpi_table(300)[600:1800:200]
    bad = table.copy()
    bad[:, 3] += 0.15
    bad[:, 2] *= 0.5
    for case, rows in {"healthy": table, "bad-radio": bad}.items():
        rows = write_request("kpi-anomaly", case, "kpi", rows)
        scores = run("kpi-anomaly", {"kpi": rows})["score"]
        labels = ["anomaly" if score >= above else "normal" for score in scores]
        write_golden("kpi-anomaly", case, [numbers("scores", scores), texts("labels", labels)])


if __name__ == "__main__":
    make_objects()
    make_faces()
    make_file_type()
    make_speech()
    make_prb_forecast()
    make_kpi_anomaly()
