"""Predictions in a process that has only what a service has."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from heimdall_evaluation import served_child
from heimdall_evaluation.errors import ServingError
from heimdall_evaluation.model_file import read_model
from heimdall_evaluation.served import NOT_WHERE_MODELS_SERVE, predict_without_torch
from heimdall_features import FeatureExtractor

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_answers_are_those_of_the_same_file_here(tmp_path, tiny_model, tiny_answers, recorded):
    """Whatever the batch, a service must get what the evaluation here would get."""
    sessions = recorded(5)
    model = tiny_model(tmp_path / "m.onnx")
    extract = FeatureExtractor.from_metadata(read_model(model).metadata)
    position_deg, sigma_m = tiny_answers([extract(heard) for heard in sessions.values()])
    said = predict_without_torch(model, sessions.items(), batch_size=2)
    assert said.session_ids == tuple(sessions)
    assert said.position_deg == pytest.approx(position_deg, rel=1e-5)
    assert said.sigma_m == pytest.approx(sigma_m, rel=1e-4)
    assert said.position_deg.dtype == np.float64


def test_the_child_cannot_import_what_is_blocked(tmp_path, tiny_model):
    """Without the block, a model that needs torch would seem to serve."""
    model = str(tiny_model(tmp_path / "m.onnx"))
    for blocked in ([*NOT_WHERE_MODELS_SERVE], ["onnxruntime"]):
        work = {"model": model, "batch_size": 1, "blocked": blocked, "sessions": []}
        (tmp_path / "work.json").write_text(json.dumps(work))
        child = subprocess.run(
            [sys.executable, "-I", served_child.__file__, tmp_path], capture_output=True, text=True
        )
        missing = "onnxruntime is not installed where models serve" in child.stderr
        assert missing == (blocked == ["onnxruntime"])
    assert {"torch", "heimdall_models", "heimdall_export"} <= set(NOT_WHERE_MODELS_SERVE)


def test_nothing_is_left_behind(tmp_path, temporary, tiny_model, recorded):
    """Recordings are large, and the disk is shared."""
    predict_without_torch(tiny_model(tmp_path / "m.onnx"), recorded(2).items())
    with pytest.raises(ServingError):
        predict_without_torch(tiny_model(tmp_path / "bad.onnx", metadata={}), recorded(2).items())
    assert list(temporary.iterdir()) == []


def test_names_are_not_paths(tmp_path, temporary, tiny_model, recorded):
    """Names come from a database, and recordings from a generator, since they may be large."""
    sessions = (("../../escape", heard) for heard in recorded(1).values())
    said = predict_without_torch(tiny_model(tmp_path / "m.onnx"), sessions)
    assert said.session_ids == ("../../escape",)
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "temporary"}


def test_a_model_without_its_feature_settings_is_one_error(tmp_path, tiny_model, recorded):
    """The child's own message names what is missing."""
    bad = tiny_model(tmp_path / "bad.onnx", metadata={})
    with pytest.raises(ServingError, match=r"(?s)exit status 1.*heimdall\.features\.config"):
        predict_without_torch(bad, recorded(1).items())


def test_a_file_that_is_no_model_is_one_error(tmp_path, recorded):
    """The run's report must not be made of a truncated upload."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ServingError, match=r"(?s)only the serving dependencies.*broken\.onnx"):
        predict_without_torch(broken, recorded(1).items())


def test_a_session_without_features_is_named(tmp_path, tiny_model, recorded):
    """Of two hundred sessions, the message must name the bad one."""
    sessions = recorded(1) | {"the bad one": {"Torino": (np.zeros(0, np.complex64), 12_000.0)}}
    with pytest.raises(ServingError, match="session the bad one: "):
        predict_without_torch(tiny_model(tmp_path / "m.onnx"), sessions.items())


@pytest.mark.parametrize(
    ("sessions", "message"), [({}, "no session to predict"), ({"a": {}}, "session a has no")]
)
def test_nothing_to_predict_is_refused(tmp_path, sessions, message, tiny_model):
    """An empty split is a mistake in the configuration, not in the model."""
    with pytest.raises(ServingError, match=message):
        predict_without_torch(tiny_model(tmp_path / "m.onnx"), sessions.items())


def test_a_missing_file_is_named(tmp_path, recorded):
    """Nothing was exported, or somewhere else."""
    with pytest.raises(ServingError, match=r"no model file at .*none\.onnx; export one first"):
        predict_without_torch(tmp_path / "none.onnx", recorded(1).items())


def test_ctrl_c_ends_the_child_and_removes_the_recordings(tmp_path, temporary, tiny_model):
    """After a stopped run there must be neither a process nor gigabytes of recordings."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        import numpy as np
        from heimdall_evaluation.served import predict_without_torch

        sys.executable = sys.argv[1]
        predict_without_torch(sys.argv[2], [("a", {"Torino": (np.ones(9, np.complex64), 12e3)})])
    """)
    )
    slow = tmp_path / "slow-python"
    slow.write_text('#!/bin/sh\necho $$ > "$3/pid"\nexec sleep 600\n')
    slow.chmod(0o755)
    model = tiny_model(tmp_path / "m.onnx")
    environment = os.environ | {"TMPDIR": str(temporary)}
    parent = subprocess.Popen(
        [sys.executable, script, slow, model],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    child = _pid_written_below(temporary, parent)
    time.sleep(1)  # The parent may still be inside Popen, where a signal would orphan the child.
    parent.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in parent.communicate(timeout=60)[1]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert list(temporary.iterdir()) == []


def _pid_written_below(folder: Path, parent: subprocess.Popen) -> int:
    while parent.poll() is None:
        for written in folder.glob("*/pid"):
            if text := written.read_text():
                return int(text)
    raise AssertionError(parent.communicate()[1])


def test_a_full_temporary_folder_is_named_and_left_empty(tmp_path, tiny_model, recorded, temporary):
    """NumPy's own message is `24000 requested and 10736 written`, hours after the start."""
    model, sessions = tiny_model(tmp_path / "m.onnx"), recorded(2).items()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(ServingError, match=f"cannot be written to {temporary}.* set TMPDIR"):
            predict_without_torch(model, sessions)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(temporary.iterdir()) == []
