"""The flags of `heimdall ingest simulated` make the scenario that they say."""

import tempfile
from pathlib import Path

import pytest
from heimdall_data.errors import DataError
from heimdall_simulation import NORTHWEST_ITALY
from heimdall_trainer.cli.ingest import SimulationFlags
from hypothesis import given
from hypothesis import strategies as st

settings = st.fixed_dictionaries(
    {},
    optional={
        "rician_k_db": st.none() | st.floats(0, 20),
        "modulation": st.sampled_from([("fm",), ("am",), ("am", "usb")]),
        "echoes": st.integers(0, 3),
        "interferers": st.integers(0, 2),
        "recording_format": st.sampled_from(["npy", "kiwi_wav"]),
    },
)


def test_no_flag_is_the_demos_scenario():
    """The same names and bytes, so that the demo's sessions are not stored twice."""
    assert SimulationFlags().scenario() == NORTHWEST_ITALY


@given(settings, settings)
def test_scenarios_have_one_name_only_if_their_flags_are_the_same(one, other):
    """Ids follow from names: a fading session must not replace one that stands still."""
    names = [SimulationFlags(**flags).scenario().name for flags in (one, other)]
    assert (names[0] == names[1]) == (SimulationFlags(**one) == SimulationFlags(**other))


@given(st.lists(st.tuples(st.floats(-80, 80), st.floats(-170, 170)), min_size=2, max_size=6))
def test_own_stations_bring_their_own_region(places):
    """Transmitters in Italy are of no use to a network in Scotland."""
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder) / "scotland.csv"
        rows = [f"S{number},{north},{east}\n" for number, (north, east) in enumerate(places)]
        csv.write_text("name,latitude,longitude\n" + "".join(rows))
        scenario = SimulationFlags(stations=csv).scenario()
        own = SimulationFlags(stations=csv, region=(50.0, 51.0, 7.0, 8.0)).scenario()
    assert [station.position_deg for station in scenario.stations] == places
    for index, bounds in enumerate((scenario.latitude_deg, scenario.longitude_deg)):
        along = [place[index] for place in places]
        assert bounds == pytest.approx((min(along) - 0.1, max(along) + 0.1))
    assert (own.latitude_deg, own.longitude_deg) == ((50.0, 51.0), (7.0, 8.0))
    assert scenario.name.startswith("scotland ")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"echoes": -1}, "n_echoes is -1; give 0 or more"),
        ({"delay_spread_us": 0.0}, "delay_spread_s is 0.0; give more than 0"),
        ({"interferers": 1, "interferer_offset_hz": 2e4}, "offset_hz of at most 16000"),
        ({"region": (46.0, 45.0, 7.0, 8.0)}, r"latitude_deg is \(46.0, 45.0\)"),
    ],
)
def test_a_wrong_value_is_one_clear_error(wrong, said):
    """Before anything is stored."""
    with pytest.raises(DataError, match=said):
        SimulationFlags(**wrong).scenario()
