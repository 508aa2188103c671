"""Golden files: checkpoints and model files as this version writes them, with their answers.

    python apps/trainer/benchmarks/make_old_files.py golden/v1

Tests of later versions open them and expect the answers in `expected.json`. What is there stays:
a new format gets a new folder. The files are packed with xz, because every checkpoint holds a
megabyte of maps, once as averaged and once as trained. To make them smaller still, the backbone is
tiny and frozen, so that it has no optimizer state and its average is itself, and its weights and
the maps are rounded to the seven bits of bfloat16's mantissa. Nothing is left out.
"""

import json
import lzma
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from pyproj import Geod
from unchanged import heimdall, objects, stack

BACKBONE = "test_efficientnet"
RECEIVERS = "Torino Genova Milano-Baggio"
ROUNDED = ("backbone", "mean_db")
PRESET = 9 | lzma.PRESET_EXTREME
SPEED_OF_LIGHT_M_US = 299.792458


def rounded(part, name=""):
    """What a checkpoint holds, its large tensors rounded."""
    if isinstance(part, dict):
        return {key: rounded(value, f"{name}/{key}") for key, value in part.items()}
    if isinstance(part, list):
        return [rounded(value, f"{name}/{number}") for number, value in enumerate(part)]
    if isinstance(part, torch.Tensor) and part.numel() > 1000 and any(w in name for w in ROUNDED):
        return part.bfloat16().float()
    return part


def mel_input(n_receivers):
    """Three inputs in dB, the second without its first receiver."""
    count = 3 * n_receivers * 128 * 32
    x = -90 + 20 * np.sin(12.9898 * np.arange(count)).reshape(3, n_receivers, 128, 32)
    x[1, 0] = -140.0
    return x.astype(np.float32)


def arrival_input(receivers, region):
    """Times of nobody, of the first two receivers, and of all, sent from near the centre."""
    rows, geod = np.ones((3, len(receivers), 5)) * [1.0, 0.0, 0.1, 25.0, 0.0], Geod(ellps="WGS84")
    for row, place in enumerate(receivers):
        there = place["longitude"], place["latitude"]
        sent = region["longitude_deg"] + 0.1, region["latitude_deg"] + 0.1
        rows[:, row, 1] = geod.inv(*sent, *there)[2] / SPEED_OF_LIGHT_M_US
    rows[:, :, 1] -= rows[:, :, 1].mean(axis=1, keepdims=True)
    rows[0] = rows[1, 2:] = 0.0
    return rows.astype(np.float32)


def answers(path):
    """What a model file says of itself, and its answers to the inputs above."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    receivers = json.loads(metadata["heimdall.receivers"])
    feed, found = {"mel_spectrogram": mel_input(len(receivers))}, {"metadata": metadata}
    if "arrival_times" in [end.name for end in session.get_inputs()]:
        arrivals = arrival_input(receivers, json.loads(metadata["heimdall.region"]))
        found["arrival_times"], feed["arrival_times"] = arrivals.tolist(), arrivals
    names = [end.name for end in session.get_outputs()]
    return found | {n: a.tolist() for n, a in zip(names, session.run(None, feed), strict=True)}


def pack(path, to):
    """Write a file packed, with `.xz` behind its new name."""
    to.with_name(f"{to.name}.xz").write_bytes(lzma.compress(path.read_bytes(), preset=PRESET))


def made(name, flags, env, work, to):
    """Train, round, export what was rounded; keep checkpoint, model file and its sidecar."""
    flags = f"--backbone {BACKBONE} --freeze-backbone --receivers {RECEIVERS} {flags}"
    heimdall(f"train --epochs 2 {flags} --summary trained.json", env, work)
    trained = json.loads((work / "trained.json").read_text())
    path = work / f"{name}.ckpt"
    contents = torch.load(trained["checkpoint"], map_location="cpu", weights_only=True)
    torch.save(rounded(contents), path)
    flags = flags.replace("--ensemble 2", "")
    words = f"train --export-only --checkpoint {path} --checkpoint-dir {work} {flags}"
    heimdall(f"{words} --summary exported.json", env, work)
    exported = json.loads((work / "exported.json").read_text())
    pack(path, to / path.name)
    if name != "ensemble":  # as large as the two others together, and of the same kind
        pack(Path(exported["onnx_path"]), to / f"{name}.onnx")
        key = exported["onnx_uri"].removeprefix("s3://heimdall-models/").replace(".onnx", ".json")
        (to / f"{name}.json").write_bytes(dict(objects(env, "heimdall-models"))[key]())
    return answers(exported["onnx_path"])


def main():
    """Make every file in the folder that is named."""
    to = Path(sys.argv[1]).absolute()
    to.mkdir(parents=True)
    expected = {
        "mel_spectrogram": "-90 + 20 sin(12.9898 k), (3, receivers, 128, 32); [1, 0] is -140"
    }
    with tempfile.TemporaryDirectory(prefix="old-files-") as name:
        work = Path(name)
        with stack(work, "levels") as env:
            heimdall("ingest simulated --sessions 60", env, work)
            expected["mel"] = made("mel", "--features mel", env, work, to)
            expected["ensemble"] = made("ensemble", "--ensemble 2", env, work, to)
        with stack(work, "timing") as env:
            heimdall("ingest simulated --sessions 80 --recording-format kiwi_wav", env, work)
            expected["mel+timing"] = made("mel+timing", "--features mel+timing", env, work, to)
    (to / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
