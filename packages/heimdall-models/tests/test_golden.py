"""Checkpoints of older versions open, and their networks answer as they did.

`apps/trainer/benchmarks/make_old_files.py` made the files of each format, with the answers of the
model files that were exported from them.
"""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from heimdall_models import Trained
from heimdall_models.checkpoint import read_checkpoint

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("v*/*.ckpt.xz"))


def inputs(expected):
    """The input that `expected.json` describes, and the times where it has them."""
    count = 3 * 3 * 128 * 32
    x = -90 + 20 * np.sin(12.9898 * np.arange(count)).reshape(3, 3, 128, 32)
    x[1, 0] = -140.0
    times = [np.float32(expected["arrival_times"])] if "arrival_times" in expected else []
    return [torch.from_numpy(part) for part in (x.astype(np.float32), *times)]


@pytest.fixture(params=FILES, ids=lambda path: f"{path.parent.name}-{path.name.partition('.')[0]}")
def old(request, tmp_path):
    """An old checkpoint, and what is known of it."""
    name = request.param.name.removesuffix(".xz")
    (path := tmp_path / name).write_bytes(lzma.decompress(request.param.read_bytes()))
    expected = json.loads((request.param.parent / "expected.json").read_text())
    return path, expected[name.removesuffix(".ckpt")]


def test_there_are_old_files():
    """The test below tests nothing without them."""
    assert {path.name for path in FILES} >= {
        "mel.ckpt.xz",
        "mel+timing.ckpt.xz",
        "ensemble.ckpt.xz",
    }


def test_an_old_checkpoint_answers_as_it_did(old):
    """Models are in service for years; to the rounding of ONNX Runtime and of float32 degrees."""
    path, expected = old
    trained = Trained.open(path)
    with torch.no_grad():
        found = trained.network().eval()(*inputs(expected))
    names = ("positions", "uncertainties", "correlations", "unexplained")
    for name, values in zip(names, found, strict=False):
        exact = 2e-5 if name == "positions" else 2e-3
        assert values.numpy() == pytest.approx(np.array(expected[name]), abs=exact, rel=2e-3)
    region = trained.members[0].module.region
    assert json.loads(region.to_json()) == expected["region"]
    if len(trained.members) == 1:
        assert trained.single.receivers == tuple(expected["receivers"])
        assert trained.single.run.batch_size
        assert read_checkpoint(path)["optimizer_states"]
