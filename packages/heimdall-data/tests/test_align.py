"""Recordings cut to the same span of true time."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.recording import Recording
from heimdall_data.session_reader import align
from hypothesis import assume, given
from hypothesis import strategies as st

EPOCH_NS = 1_195_814_534 * 10**9


def recording(late_s=0.0, rate=12_001.2, n=12_000, *, locked=True):
    """Samples that hold their own true time, in seconds after the epoch."""
    times_s = late_s + np.arange(n) / rate
    return Recording(
        iq=times_s.astype(np.complex64),
        sample_rate_hz=rate,
        start_gps_ns=EPOCH_NS + round(late_s * 1e9) if locked else None,
        clock_sigma_s=1e-7 if locked else math.inf,
    )


receivers = st.lists(
    st.tuples(st.floats(0, 0.4), st.floats(11_998, 12_502), st.integers(6_500, 9_000)),
    min_size=1,
    max_size=5,
)


@given(receivers)
def test_first_and_last_samples_are_of_one_instant_to_half_a_sample(drawn):
    """A label belongs to one transmission; receivers must show the same piece of it."""
    aligned = align({str(i): recording(*one) for i, one in enumerate(drawn)})
    begin_s = max(late_s for late_s, _, _ in drawn)
    end_s = min(late_s + n / rate for late_s, rate, n in drawn)
    for cut in aligned.values():
        half = 0.5 / cut.sample_rate_hz + 2e-7  # single precision holds times to that
        first_s = float(cut.iq[0].real)
        assert abs(first_s - begin_s) <= half
        assert (cut.start_gps_ns - EPOCH_NS) * 1e-9 == pytest.approx(first_s, abs=2e-7)
        assert abs(cut.duration_s - (end_s - begin_s)) <= 2 * half


@given(receivers, st.integers(50, 9_000))
def test_a_recording_without_a_clock_keeps_its_start(drawn, n):
    """Where it belongs is not known; cutting it by a wrong stamp would lose good samples."""
    clocks = {str(i): recording(*one) for i, one in enumerate(drawn)}
    aligned = align({**clocks, "free": recording(n=n, locked=False)})
    shared_s = min(cut.duration_s for cut in align(clocks).values())
    assert aligned["free"].iq[0] == 0
    assert not aligned["free"].clock_locked
    assert aligned["free"].duration_s == pytest.approx(min(n / 12_001.2, shared_s), abs=2e-4)


def test_recordings_of_different_times_are_refused():
    """They are not of one session, whatever the catalogue says."""
    with pytest.raises(RecordingError, match=r"a 1\.000 s from 2017-11-27 .*b"):
        align({"a": recording(0.0), "b": recording(5.0)})


seconds = st.lists(st.integers(0, 20), min_size=4, max_size=4, unique=True).map(sorted)


@given(st.lists(seconds, min_size=2, max_size=4))
def test_stretches_with_the_longest_common_time_are_taken(drawn):
    """Receivers lose samples at different times; a gap in one must not reach the others."""
    spans = [((a, b), (c, d)) for a, b, c, d in drawn]
    shared = [
        end - begin
        for begin, end in itertools.combinations(range(21), 2)
        if all(any(a <= begin and end <= b for a, b in each) for each in spans)
    ]
    assume(shared)
    gapped = {}
    for number, each in enumerate(spans):
        one, other = (recording(first, 100.0, 100 * (last - first)) for first, last in each)
        gapped[str(number)] = dataclasses.replace(one, others=(other,))
    aligned = align(gapped)
    begins = [float(one.iq[0].real) for one in aligned.values()]
    assert begins == pytest.approx([begins[0]] * len(begins), abs=1e-5)
    for one in aligned.values():
        assert one.duration_s == pytest.approx(max(shared))
        assert np.ptp(one.iq.real) == pytest.approx(max(shared) - 0.01, abs=1e-4)


def test_stretches_that_claim_the_same_time_cost_no_more_than_others(monkeypatch):
    """Two files that each claim ten thousand at once would have been compared 100 million times."""
    n, asked = 300, []
    clocked = Recording.clock_locked.fget
    monkeypatch.setattr(
        Recording, "clock_locked", property(lambda one: asked.append(1) or clocked(one))
    )
    crowd = dataclasses.replace(recording(0.0), others=tuple(recording(0.0) for _ in range(n)))
    assert align(dict.fromkeys("ABC", crowd))["C"].duration_s == crowd.duration_s
    assert len(asked) < 10 * n
