"""A scenario is valid once created; invalid settings give a clear error."""

import pytest
from heimdall_data.errors import DataError
from heimdall_simulation import MODULATIONS, NORTHWEST_ITALY, Interference, Mishaps, Scenario


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate_hz": 12_000.0}, "sample rate 12000.0 Hz leaves no noise beside a channel"),
        ({"recording_format": "wav"}, "recording_format is 'wav'; give one of npy, kiwi_wav"),
        ({"n_samples": 100}, "n_samples is 100; give 1024 or more"),
        ({"latitude_deg": (46.0, 45.0)}, r"latitude_deg is \(46.0, 45.0\)"),
        ({"fading_sigma_db": -3.0}, "fading_sigma_db is -3.0; give 0 or more"),
        ({"clock_error_s": float("nan")}, "clock_error_s is nan"),
        ({"sessions_per_source": 0}, "sessions_per_source is 0; give 1 or more"),
        ({"shadowing_decorrelation_m": 0.0}, "shadowing_decorrelation_m is 0.0; give more than 0"),
        ({"stations": ()}, r"stations are \[\]"),
        ({"stations": NORTHWEST_ITALY.stations[:1] * 2}, r"stations are \['Giaveno', 'Giaveno'\]"),
        ({"modulations": ("ssb",)}, r"\['ssb'\]; give one or more of " + MODULATIONS[0]),
        ({"modulations": ()}, r"modulations are \[\]"),
        ({"am_depth": (0.5, 1.5)}, r"am_depth is \(0.5, 1.5\)"),
        (
            {"modulations": ("gfsk",), "n_samples": 1024},
            "1024 samples are less than one gfsk burst",
        ),
        ({"interference": Interference(n_interferers=1, offset_hz=2e4)}, "at most 16000"),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    """The error of a region of one's own says what to correct."""
    with pytest.raises(DataError, match=message):
        Scenario(**changes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"receiver_down": 10}, "receiver_down is 10"),
        ({"pending": 0.6, "rejected": 0.6}, "pending 0.6, rejected 0.6 .* more than 1"),
    ],
)
def test_invalid_probabilities_are_rejected(wrong, message):
    """A percentage is a likely mistake, and a session has only one status."""
    with pytest.raises(DataError, match=message):
        Mishaps(**wrong)
