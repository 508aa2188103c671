"""The flags of `heimdall ingest simulated` make the scenario that they say."""

import pytest
from heimdall_data.errors import DataError
from heimdall_simulation import NORTHWEST_ITALY
from heimdall_trainer.cli.ingest import SimulationFlags


def test_no_flag_is_the_demos_scenario():
    """The same names and bytes, so that the demo's sessions are not stored twice."""
    assert SimulationFlags().scenario() == NORTHWEST_ITALY


def test_every_other_scenario_has_its_own_name():
    """Ids follow from names: a fading session must not replace one that stands still."""
    flags = (
        SimulationFlags(),
        SimulationFlags(rician_k_db=6.0),
        SimulationFlags(rician_k_db=7.0),
        SimulationFlags(modulation=("am", "usb")),
        SimulationFlags(interferers=1),
        SimulationFlags(recording_format="kiwi_wav"),
    )
    assert len({made.scenario().name for made in flags}) == len(flags)


def test_own_stations_bring_their_own_region(tmp_path):
    """Transmitters in Italy are of no use to a network in Scotland."""
    csv = tmp_path / "scotland.csv"
    csv.write_text("name,latitude,longitude\nOban,56.4,-5.5\nPerth,56.4,-3.4\nAyr,55.5,-4.6\n")
    scenario = SimulationFlags(stations=csv).scenario()
    assert [station.name for station in scenario.stations] == ["Oban", "Perth", "Ayr"]
    assert scenario.latitude_deg == pytest.approx((55.4, 56.5))
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
