"""The flags of `heimdall ingest simulated` make the scenario that they say."""

import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from heimdall_data.errors import DataError
from heimdall_simulation import NORTHWEST_ITALY, Propagation, simulate_truths
from heimdall_trainer.cli.ingest import SimulationFlags
from heimdall_trainer.errors import UsageError
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
        "frequency_hz": st.none() | st.sampled_from([198e3, 7.2e6, 145e6]),
        "power_dbm": st.none() | st.floats(-20, 90),
        "sample_rate_hz": st.sampled_from([48_000.0, 96_000.0]),
        "duration_s": st.sampled_from([0.5, 1.0]),
        "receiver_delay_us": st.sampled_from([0.0, 20.0]),
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
    north_deg = [north for north, _ in places]
    assert scenario.latitude_deg == pytest.approx((min(north_deg) - 0.1, max(north_deg) + 0.1))
    assert (own.latitude_deg, own.longitude_deg) == ((50.0, 51.0), (7.0, 8.0))
    assert scenario.name.startswith("scotland ")


@pytest.mark.parametrize(
    ("region", "is_far"),
    [((-45.6, -44.3, 7.1, 9.3), True), ((7.1, 9.3, 44.3, 45.6), True), ((30, 60, -10, 40), False)],
)
def test_a_region_far_from_every_station_is_told(caplog, region, is_far):
    """A lost sign gives thousands of sessions that nobody hears."""
    SimulationFlags(region=region).scenario()
    assert ("is over 3,000 km from every station" in caplog.text) == is_far


def test_a_mac_and_a_keyboard_make_one_scenario(tmp_path):
    """Ids of sessions follow from the name of the file: they must not be stored twice."""
    names = []
    for form in ("NFC", "NFD"):
        csv = tmp_path / f"{unicodedata.normalize(form, 'Zürich')}.csv"
        csv.write_text("name,latitude,longitude\nA,47.37,8.54\n")
        names.append(SimulationFlags(stations=csv).scenario().name)
    assert names[0] == names[1]


@pytest.mark.parametrize("sides", [(177.0, -178.0), (177.0, 182.0)])
def test_a_region_may_lie_across_the_antimeridian(tmp_path, sides):
    """Fiji's transmitters stand in Fiji, on both sides of it, with positions that maps have."""
    csv = tmp_path / "fiji.csv"
    csv.write_text(
        "name,latitude,longitude\nSuva,-18.1,178.4\nTaveuni,-16.8,-179.95\nLakeba,-18.2,-178.8\n"
    )
    around = SimulationFlags(stations=csv)
    assert around.scenario().longitude_deg == pytest.approx((178.3, 181.3))
    given_it = SimulationFlags(stations=csv, region=(-19.0, -16.0, *sides))
    for flags in (around, given_it):
        truths = list(simulate_truths(60, 1, flags.scenario()))
        east_deg = np.array([truth.source.position_deg[1] for truth in truths])
        assert set(np.sign(east_deg)) == {-1, 1}
        assert np.abs(east_deg).min() > 177
        assert np.abs(east_deg).max() <= 180


def test_long_wave_at_three_kiwisdrs_is_a_few_flags(tmp_path):
    """A long-wave time signal far away: what users of KiwiSDRs have, and what they train for."""
    csv = tmp_path / "kiwis.csv"
    csv.write_text("name,latitude,longitude\nA,53.7,7.3\nB,45.8,0.6\nC,47.2,8.4\n")
    scenario = SimulationFlags(
        stations=csv,
        frequency_hz=77_500.0,
        power_dbm=75.0,
        modulation=("am",),
        bandwidth_hz=1_300.0,
        sample_rate_hz=12_000.0,
        duration_s=30.0,
        receiver_delay_us=20.0,
        recording_format="kiwi_wav",
    ).scenario()
    (truth,) = simulate_truths(1, 1, scenario)
    assert (truth.source.frequency_hz, truth.source.radiated_dbm) == (77_500.0, 75.0)
    assert (scenario.n_samples, scenario.channel_hz) == (360_000, 1_300.0)
    assert scenario.propagation == Propagation.usual("ground_wave")
    assert all(0 < abs(there.receiver_delay_s) < 1e-4 for there in truth.receptions)
    assert all(5 < there.snr_db < 80 for there in truth.receptions)


@given(st.sampled_from(["line_of_sight", "ground_wave"]), st.floats(3e4, 3e6))
def test_propagation_may_be_chosen_whatever_the_frequency(wave, frequency_hz):
    """Close by, long waves too go in a straight line."""
    scenario = SimulationFlags(propagation=wave, frequency_hz=frequency_hz).scenario()
    assert scenario.propagation.wave == wave


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"duration_s": -1.0}, "--duration_s is -1.0"),
        ({"duration_s": float("inf")}, "--duration_s is inf"),
        ({"sample_rate_hz": 0.0}, "--sample_rate_hz 0.0"),
    ],
)
def test_a_length_that_is_none_is_wrong_usage(wrong, said):
    """It has no number of samples that a scenario could refuse."""
    with pytest.raises(UsageError, match=said):
        SimulationFlags(**wrong).scenario()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"duration_s": 0.01}, "n_samples is 480; give 1024 or more"),
        ({"frequency_hz": -5.0}, "frequency_hz -5"),
        ({"frequency_hz": float("nan")}, "frequency_hz is .nan"),
        ({"power_dbm": float("inf")}, "radiated_dbm is .inf"),
        ({"bandwidth_hz": 10.0}, "bandwidth_hz is 10.0"),
        ({"sample_rate_hz": 12_000.0}, "12000.0 Hz .* bandwidth_hz of less than 8000"),
        ({"propagation": "sky_wave"}, r"sky_wave of frequency_hz 1.46e\+08"),
        ({"receiver_delay_us": -3.0}, "receiver_delay_sigma_s is -3e-06"),
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
