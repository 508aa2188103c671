"""A scenario is valid once created; invalid settings give a clear error."""

from dataclasses import replace

import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import DataError
from heimdall_simulation import (
    MODULATIONS,
    NORTHWEST_ITALY,
    Interference,
    Mishaps,
    Propagation,
    Scenario,
)
from hypothesis import assume, given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate_hz": 12_000.0}, "sample rate 12000.0 Hz leaves no noise beside a channel"),
        ({"recording_format": "wav"}, "recording_format is 'wav'; give one of npy, kiwi_wav"),
        ({"n_samples": 100}, "n_samples is 100; give 1024 or more"),
        ({"latitude_deg": (46.0, 45.0)}, r"latitude_deg is \(46.0, 45.0\)"),
        ({"latitude_deg": (85.0, 95.0)}, r"latitude_deg is \(85.0, 95.0\)"),
        ({"longitude_deg": (9.3, 7.1)}, r"longitude_deg is \(9.3, 7.1\)"),
        ({"longitude_deg": (0.0, 361.0)}, r"longitude_deg is \(0.0, 361.0\)"),
        ({"longitude_deg": (7e9, 7e9)}, r"longitude_deg is \(7000000000.0, "),
        ({"longitude_deg": (7.0, float("inf"))}, r"longitude_deg is \(7.0, inf\)"),
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
        ({"bandwidth_hz": 100.0}, "bandwidth_hz is 100.0; give 1200 or more"),
        ({"receiver_delay_sigma_s": 1.0}, "receiver_delay_sigma_s is 1.0"),
        ({"raster_hz": 0.0}, "raster_hz is 0.0"),
        ({"frequency_hz": (2e4, 2e4)}, "frequency_hz 20000 is less than half the sample rate"),
        ({"propagation": Propagation.usual("sky_wave")}, r"sky_wave of frequency_hz 1.46e\+08"),
        ({"propagation": Propagation.usual("ground_wave")}, r"ground_wave of frequency_hz"),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    """The error of a region of one's own says what to correct."""
    with pytest.raises(DataError, match=message):
        Scenario(**changes)


@pytest.mark.parametrize("sides", [(177.0, -178.0), (177.0, 182.0), (-183.0, -178.0)])
def test_fiji_is_one_region_however_it_is_written(sides):
    """Ids follow from names, which follow from the region."""
    assert Scenario(longitude_deg=sides) == Scenario(longitude_deg=(177.0, 182.0))


@given(st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=6))
def test_transmitters_stand_in_the_narrowest_rectangle_around_the_stations(places):
    """On either side of the antimeridian, and never beyond a pole."""
    stations = tuple(Station(f"S{n}", *place) for n, place in enumerate(places))
    scenario = NORTHWEST_ITALY.with_stations("own", stations)
    (south, north), (west, east) = scenario.latitude_deg, scenario.longitude_deg
    assert -90 <= south <= north <= 90
    assert east - west <= 360
    for latitude_deg, longitude_deg in places:
        assert south <= latitude_deg <= north
        assert min((longitude_deg - west) % 360, (west - longitude_deg) % 360) <= east - west
    longitudes = [longitude_deg for _, longitude_deg in places]
    assert east - west <= max(longitudes) - min(longitudes) + 0.2 + 1e-9


def test_names_of_earlier_versions_stay():
    """Ids follow from names: sessions stored before must be found, not stored again."""
    named = replace(NORTHWEST_ITALY, recording_format="kiwi_wav").distinctly_named()
    assert named.name == "northwest-italy ee74371b"


later = st.fixed_dictionaries(
    {},
    optional={
        "bandwidth_hz": st.none() | st.floats(1200, 16_000),
        "receiver_delay_sigma_s": st.floats(0, 1e-3),
        "raster_hz": st.floats(1, 1e4),
        "propagation": st.builds(
            lambda least: Propagation(slowness=(least, 5e-3)), st.floats(0, 5e-3)
        ),
    },
)


@given(later, later)
def test_later_settings_have_names_of_their_own(one, other):
    """A ground wave's sessions must not replace those of a line of sight."""
    assume(one and other)
    named = [replace(NORTHWEST_ITALY, **changes) for changes in (one, other)]
    names = [scenario.distinctly_named().name for scenario in named]
    assert (names[0] == names[1]) == (named[0] == named[1])


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
