"""The benchmark of a model's files: every combination once, and what memory and loading cost."""

import json
import time

import numpy as np
import pytest
from heimdall_export import ExportError
from heimdall_export.benchmark import Contender, as_json, benchmark, file_contender, read_ms
from heimdall_export.session import Sample, latencies_ms


def test_every_contender_is_measured_at_every_batch_and_number_of_threads(onnx_path, features):
    """A table with holes invites comparing what was not measured together."""
    seen = []

    def opened(n_threads):
        return lambda feed: seen.append((n_threads, len(feed["mel_spectrogram"])))

    contenders = [Contender(name="spy", open=opened), file_contender("file", onnx_path)]
    rows = list(benchmark(contenders, Sample(features[:5]), batch_sizes=(1, 8), seconds=0.01))
    assert [(row.name, row.n_threads, row.batch_size) for row in rows] == [
        (name, n_threads, batch)
        for n_threads in (1, 2)
        for batch in (1, 8)
        for name in ("spy", "file")
    ]
    assert set(seen) == {(1, 1), (1, 8), (2, 1), (2, 8)}
    for row in rows:
        assert row.per_second == pytest.approx(1000 * row.batch_size / row.median_ms)
        assert 0 < row.median_ms <= row.p95_ms
    assert [row.times_faster for row in rows[::2]] == [1.0] * 4
    assert json.loads(json.dumps(as_json(contenders, rows)))["rows"][0]["name"] == "spy"


def test_a_file_says_what_it_takes_to_load(onnx_path):
    """Measured in a process of its own: this one has torch, and whatever tests left."""
    found = file_contender("file", onnx_path, figures={"nll": 1.0})
    assert found.size_bytes == onnx_path.stat().st_size
    assert found.load_s > 0
    assert 0 < found.memory_mb < 200


def test_a_file_that_cannot_be_loaded_is_named(onnx_path, tmp_path):
    """One bad file must not end as a row of zeros."""
    (tmp_path / "m.onnx").write_bytes(b"none")
    with pytest.raises(ExportError, match=r"CPUExecutionProvider cannot load .*m\.onnx"):
        file_contender("file", tmp_path / "m.onnx")


def test_times_are_those_of_the_calls():
    """A call that sleeps 20 ms takes that, and one that does nothing takes less."""
    (slow_ms, _), (quick_ms, _) = latencies_ms([lambda: time.sleep(0.02), lambda: None], seconds=0)
    assert slow_ms >= 20 > quick_ms


def test_reading_memory_takes_time_and_twice_as_much_takes_more():
    """The floor that latencies are held to must grow with the size it is given."""
    assert 0 < read_ms(10**6, 1) < read_ms(3 * 10**8, 1)
    assert np.isfinite(read_ms(10, 2))
