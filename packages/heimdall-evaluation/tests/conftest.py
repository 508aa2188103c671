"""Contents of a plausible run, for the tests of the report."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from heimdall_evaluation.results import BaselineResult, Evaluation, ModelSummary, ReportContents
from heimdall_export.serving.metadata import Receiver
from heimdall_features import FeatureConfig, FeatureExtractor
from heimdall_models import Region, error_m
from heimdall_models.training.curves import EpochRecord
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

# A busy machine takes longer over an example than Hypothesis allows.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

RECEIVERS = (
    Receiver("Torino", 45.044, 7.672),
    Receiver("Genova", 44.395, 8.956),
    Receiver("Milano-Baggio", 45.478, 9.123),
)
REGION = Region(44.95, 8.2, 95_000.0)
METRES_PER_DEGREE = np.array([111_130.0, 78_800.0])
"""Of latitude and longitude, near enough for inventing positions."""


def plausible_evaluation(n: int, *, seed: int = 1, honesty: float = 1.0) -> Evaluation:
    """Sessions of transmitters in threes; sigmas times `honesty` are what errors follow."""
    rng = np.random.default_rng(seed)
    sources = np.arange(n) // 3
    places = rng.uniform([44.35, 7.2], [45.55, 9.25], size=(max(n, 1), 2))
    truth = places[sources] if n else np.zeros((0, 2))
    sigma = 9_000 * np.exp(rng.normal(0, 0.35, (n, 1))) * np.exp(rng.normal(0, 0.1, (n, 2)))
    offset = rng.normal(size=(n, 2)) * sigma * honesty
    position = truth + offset[:, ::-1] / METRES_PER_DEGREE
    return Evaluation(
        session_ids=tuple(f"{k:08x}-5e55-4000-8000-{k * 7919:012x}" for k in range(n)),
        source_names=tuple(f"site {k:03d}" for k in sources),
        truth_deg=truth,
        position_deg=position,
        sigma_m=sigma,
        error_m=error_m(position, truth) if n else np.zeros(0),
        n_present=rng.choice([2, 3], p=[0.1, 0.9], size=n),
        snr_db=22 - sigma[:, 0] / 900 + rng.normal(0, 3, n),
    )


def plausible_baselines(evaluation: Evaluation) -> tuple[BaselineResult, ...]:
    """Two simple methods on the same sessions."""
    truth, n = evaluation.truth_deg, len(evaluation)
    rng = np.random.default_rng(5)
    answers = {
        "mean position": np.broadcast_to([44.95, 8.2], truth.shape),
        "power-weighted centroid": truth + rng.normal(0, 15_000, (n, 2)) / METRES_PER_DEGREE,
    }
    return tuple(
        BaselineResult(
            name=name, explanation="A method.", error_m=error_m(answer, truth) if n else np.zeros(0)
        )
        for name, answer in answers.items()
    )


def plausible_contents(n: int = 90, *, honesty: float = 1.0) -> ReportContents:
    """A whole run with `n` held-out sessions."""
    evaluation = plausible_evaluation(n, honesty=honesty)
    history = tuple(
        EpochRecord(
            epoch=k,
            train_loss=1.6 * np.exp(-k / 6) - 1.1,
            val_loss=1.5 * np.exp(-k / 5) - 0.95 + 0.004 * max(0, k - 17) + 0.03 * np.sin(2.1 * k),
            val_error_m_median=12_500 + 32_000 * np.exp(-k / 5) + 900 * np.sin(1.7 * k),
            learning_rate=1e-3 * (1 + np.cos(np.pi * k / 30)) / 2,
        )
        for k in range(30)
    )
    return ReportContents(
        title="Heimdall demo, northwest Italy",
        created_at=datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC),
        command="heimdall demo --seed 42",
        seed=42,
        versions={"heimdall-trainer": "0.1.0", "torch": "2.14.1", "numpy": "2.4.0"},
        model=ModelSummary(name="convnext_atto", n_parameters=3_374_216, size_bytes=13_612_040),
        region=REGION,
        receivers=RECEIVERS,
        evaluation=evaluation,
        baselines=plausible_baselines(evaluation),
        metrics={"test/error_m_median": 10_432.1, "test/coverage_68": 0.689, "val/loss": -0.91},
        history=history,
        excluded=(
            ("aaaa-1", "no object 'sessions/1/websdr_Torino.npy' in bucket 'heimdall-raw-iq'"),
            *((f"bbbb-{k}", "the NumPy file ends 1024 bytes early") for k in range(5)),
        ),
        rejected_counts={"pending approval": 41, "rejected": 17, "recording failed": 6},
        split_report={"by": "source", "sites": {"train": 180, "val": 60, "test": 30}},
        timings={"simulate": 48.2, "features": 21.7, "train": 131.0, "export": 15.5},
    )


NAMES = tuple(receiver.name for receiver in RECEIVERS)
WEIGHT = np.array([[0.01, 0.02], [0.03, -0.01], [-0.02, 0.04]], dtype=np.float32)
CENTRE = np.array([45.0, 8.0], dtype=np.float32)


def write_tiny_model(path: Path, *, metadata: dict[str, str] | None = None) -> Path:
    """A real model file: mean level of each receiver, times a matrix, plus a position."""
    extract = FeatureExtractor(FeatureConfig(receivers=NAMES))
    nodes = [
        helper.make_node("ReduceMean", ["mel_spectrogram", "axes"], ["level"], keepdims=0),
        helper.make_node("MatMul", ["level", "weight"], ["offset"]),
        helper.make_node("Add", ["offset", "centre"], ["positions"]),
        helper.make_node("Exp", ["offset"], ["uncertainties"]),
    ]
    shape = ["batch", 3, 128, 32]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2])
            for name in ("positions", "uncertainties")
        ],
        [
            numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes"),
            numpy_helper.from_array(WEIGHT, "weight"),
            numpy_helper.from_array(CENTRE, "centre"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    places = [
        {"name": r.name, "latitude": r.latitude_deg, "longitude": r.longitude_deg}
        for r in RECEIVERS
    ]
    known = {"heimdall.receivers": json.dumps(places), "heimdall.region": REGION.to_json()}
    helper.set_model_props(model, {**extract.metadata(), **known} if metadata is None else metadata)
    onnx.save(model, path)
    return path


def recorded_sessions(n_sessions: int) -> dict[str, dict[str, tuple[np.ndarray, float]]]:
    """Noise of different levels at different rates; every third session lacks a receiver."""
    rng = np.random.default_rng(11)
    sessions = {}
    for k in range(n_sessions):
        heard = NAMES[: 2 + (k % 3 > 0)]
        noise = rng.normal(0, 0.01 * (k + 1), (len(heard), 12_500, 2)).astype(np.float32)
        sessions[f"session {k}"] = {
            name: (pair[:, 0] + 1j * pair[:, 1], 12_000.0 + 500 * j)
            for j, (name, pair) in enumerate(zip(heard, noise, strict=True))
        }
    return sessions


@pytest.fixture(scope="session")
def contents() -> ReportContents:
    """A whole run, large enough for every figure."""
    return plausible_contents()


@pytest.fixture(scope="session")
def few() -> ReportContents:
    """A run with three held-out sessions."""
    return plausible_contents(3)


@pytest.fixture(scope="session")
def contents_of():
    """A run with so many held-out sessions, and whatever else is to be different."""

    def make(n: int = 90, *, honesty: float = 1.0, **changes: object) -> ReportContents:
        return replace(plausible_contents(n, honesty=honesty), **changes)

    return make


@pytest.fixture(scope="session")
def tiny_model():
    """Writes a model file whose answers can be worked out by hand."""
    return write_tiny_model


@pytest.fixture(scope="session")
def tiny_answers():
    """Positions and sigmas of the tiny model, for features of sessions."""

    def answers(features):
        offset = np.mean(features, axis=(2, 3)) @ WEIGHT
        return offset + CENTRE, np.exp(offset)

    return answers


@pytest.fixture(scope="session")
def recorded():
    """Makes recordings of so many sessions."""
    return recorded_sessions
