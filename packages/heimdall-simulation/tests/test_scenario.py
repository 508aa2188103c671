"""A scenario is valid once made, and says what is wrong when it is not."""

import pytest
from heimdall_data.errors import DataError
from heimdall_simulation import NORTHWEST_ITALY, Mishaps, Scenario


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sample_rate_hz": 12_000.0}, "sample rate 12000.0 Hz leaves no noise beside a channel"),
        ({"recording_format": "wav"}, "recording_format is 'wav'; give one of npy, kiwi_wav"),
        ({"n_samples": 100}, "100 samples are too few to measure a level; give 1024 or more"),
        (
            {"latitude_deg": (46.0, 45.0)},
            r"latitude_deg is \(46.0, 45.0\); give \(least, largest\)",
        ),
        ({"fading_sigma_db": -3.0}, "fading_sigma_db is -3.0; give 0 or more"),
        ({"clock_error_s": float("nan")}, "clock_error_s is nan"),
        ({"sessions_per_source": 0}, "0 sessions per source; give 1 or more"),
        ({"shadowing_decorrelation_m": 0.0}, "shadowing_decorrelation_m is 0.0; give more than 0"),
        ({"stations": ()}, r"stations \[\]: give at least one"),
        ({"stations": NORTHWEST_ITALY.stations[:1] * 2}, "each with its own name"),
    ],
)
def test_nonsense_is_refused_with_its_value(changes, said):
    """Whoever sets up a region of their own must learn what to correct."""
    with pytest.raises(DataError, match=said):
        Scenario(**changes)


def test_a_mishap_is_a_probability():
    """A percentage in place of a fraction is the likely mistake."""
    with pytest.raises(DataError, match="mishap receiver_down has probability 10"):
        Mishaps(receiver_down=10)


def test_verdicts_exclude_each_other():
    """A session cannot be pending and rejected at once."""
    with pytest.raises(DataError, match="add up to more than 1; lower them"):
        Mishaps(pending=0.6, rejected=0.6)
