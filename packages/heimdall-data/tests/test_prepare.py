"""Preparing features, interrupted."""

import io
import pickle
import signal
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
from heimdall_data.catalogue.session import Measurement, Session
from heimdall_data.dataset import HeimdallDataset
from heimdall_features import FeatureConfig

PREPARE = """
import pickle, sys
pickle.load(sys.stdin.buffer).prepare(workers=2, progress=False)
"""


def test_an_interrupt_ends_at_once_and_leaves_no_half_written_file(
    s3_settings, raw_iq_store, tmp_path
):
    """Whoever presses Ctrl-C wants the prompt back, and a cache that can be trusted."""
    stream = io.BytesIO()
    np.save(stream, np.ones(48_000, np.complex64))
    raw_iq_store.put("a.npy", stream.getvalue())
    measurement = Measurement(
        station="A",
        station_deg=(45.0, 7.0),
        bucket=s3_settings.raw_iq_bucket,
        key="a.npy",
        format="npy",
        sample_rate_hz=48_000.0,
    )
    sessions = [
        Session(
            id=str(number),
            session_name="",
            source_id="s",
            source_name="s",
            position_deg=(45.0, 7.0),
            start=datetime(2026, 1, 1, 0, number // 60, number % 60, tzinfo=UTC),
            measurements=(measurement,),
        )
        for number in range(3000)
    ]
    config = FeatureConfig(receivers=("A",))
    dataset = HeimdallDataset(sessions, config, s3_settings, cache_dir=tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", PREPARE], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with child:
        child.stdin.write(pickle.dumps(dataset))
        child.stdin.close()
        while not list(tmp_path.glob("??/*")):
            pass
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode != 0
    assert b"KeyboardInterrupt" in said
    assert list((tmp_path / "partial").iterdir()) == []
    assert len(list(tmp_path.glob("??/*"))) < len(sessions)
