"""Truths have the statistics of the scenario, and depend on their number alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import DataError
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, Propagation, simulate_truths
from heimdall_simulation.drawing import session_truth
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

SOUND = replace(NORTHWEST_ITALY, mishaps=NO_MISHAPS)
FAR_APART = SOUND.with_stations(
    "central-europe",
    (
        Station("North Sea", 53.7, 7.3),
        Station("Atlantic", 45.8, 0.6),
        Station("Alps", 47.2, 8.4),
        Station("Baltic", 54.4, 18.6),
    ),
)
LONG_WAVE = replace(
    FAR_APART, frequency_hz=(77_500.0, 77_500.0), raster_hz=1.0, modulations=("am",)
).with_propagation(Propagation.usual("ground_wave"))
SHORT_WAVE = replace(FAR_APART, frequency_hz=(5e6, 15e6), modulations=("am",)).with_propagation(
    Propagation.usual("sky_wave")
)
seeds = st.integers(0, 2**40)
few = settings(max_examples=20)
ACROSS_ANTIMERIDIAN = st.floats(171, 172.5)
"""Turns of the Earth that put the stations on both sides of it."""


@pytest.fixture(scope="module")
def sound():
    """A thousand sessions without mishaps."""
    return list(simulate_truths(1000, 7, SOUND))


@pytest.fixture(scope="module")
def usual():
    """Two thousand sessions of the demo."""
    return list(simulate_truths(2000, 7))


def column(truths, name):
    """One quantity of every reception, `(sessions, stations)`."""
    return np.array([[getattr(r, name) for r in truth.receptions] for truth in truths])


@few
@given(seeds, st.integers(0, 30))
def test_a_session_does_not_depend_on_the_number_of_sessions(seed, index):
    """A larger run must contain the smaller one."""
    *_, last = simulate_truths(index + 1, seed)
    assert last == session_truth(index, seed, NORTHWEST_ITALY)


def test_levels_fall_with_distance_by_the_exponent(sound):
    """Regression over a thousand sites averages fading and shadowing out."""
    excess_db = column(sound, "signal_dbm") - np.array([[t.radiated_dbm] for t in sound])
    slope = np.polyfit(np.log10(column(sound, "distance_m")).ravel(), excess_db.ravel(), 1)[0]
    assert abs(slope + 10 * SOUND.path_loss_exponent) < 3


@few
@given(seeds)
def test_the_link_budget_adds_up(seed):
    """Each loss in the truth is the one that was used."""
    truth = session_truth(0, seed, SOUND)
    for there in truth.receptions:
        losses_db = there.path_loss_db + there.shadowing_db + there.fading_db
        assert there.signal_dbm == pytest.approx(truth.radiated_dbm - losses_db)


@pytest.mark.parametrize(("quantity", "sigma"), [("fading_db", 3.0), ("clock_error_s", 1e-7)])
def test_errors_of_each_session_have_the_given_deviation(sound, quantity, sigma):
    """They are independent between receivers: a common part would be learnt as power."""
    drawn = column(sound, quantity)
    assert abs(drawn.std() / sigma - 1) < 0.05
    assert np.abs(np.corrcoef(drawn.T) - np.eye(7)).max() < 0.15


def test_sites_cover_the_region_evenly(sound):
    """In a cluster, the mean position would look like a good guess."""
    latitude, longitude = np.array([t.source.position_deg for t in sound]).T
    for place, (least, largest) in ((latitude, (44.3, 45.6)), (longitude, (7.1, 9.3))):
        counts, _ = np.histogram(place, bins=5, range=(least, largest))
        assert counts.sum() == len(place)
        assert counts.min() > 150


@few
@given(seeds, st.integers(1, 5))
def test_a_source_keeps_its_site_over_its_sessions(seed, n):
    """A split by source needs sources with several sessions."""
    truths = list(simulate_truths(3 * n, seed, replace(SOUND, sessions_per_source=n)))
    assert [t.source.index for t in truths] == [0] * n + [1] * n + [2] * n
    first, last, other = truths[0], truths[n - 1], truths[n]
    assert first.source == last.source != other.source
    assert first.receptions[0].shadowing_db == last.receptions[0].shadowing_db
    assert (first.receptions[0].fading_db == last.receptions[0].fading_db) == (n == 1)


def test_mishaps_have_the_given_frequencies(usual):
    """The summary of a run lists excluded sessions, so there must be some."""
    n_damaged = {
        damage: sum(r.damage == damage for t in usual for r in t.receptions)
        for damage in ("missing", "truncated")
    }
    assert 160 < sum(bool(t.stations_down) for t in usual) < 240
    assert 35 < sum(t.approval_status == "rejected" for t in usual) < 85
    assert 20 < sum(t.status == "failed" for t in usual) < 60
    assert all(8 <= n <= 35 for n in n_damaged.values())
    assert 8 <= sum(not t.source.position_known for t in usual) <= 35


@few
@given(seeds)
def test_a_station_that_is_down_changes_no_other(seed):
    """Runs with and without mishaps must be comparable session by session."""
    unsound = replace(SOUND, mishaps=replace(NO_MISHAPS, receiver_down=1.0))
    whole, lacking = (session_truth(0, seed, scenario) for scenario in (SOUND, unsound))
    (down,) = lacking.stations_down
    assert lacking.receptions == tuple(r for r in whole.receptions if r.station.name != down)


def test_almost_no_signal_clips_and_almost_all_are_above_noise(usual):
    """A fixed gain must fit levels from the noise floor to full scale."""
    snr_db = np.array([r.snr_db for t in usual for r in t.receptions])
    signal_dbfs = np.array([r.signal_dbfs for t in usual for r in t.receptions])
    assert np.mean(signal_dbfs > 0) < 1e-3
    assert np.mean(snr_db > 0) > 0.95


@pytest.mark.parametrize(
    ("n_sessions", "seed", "message"), [(-1, 0, "-1 sessions"), (1, -4, "seed -4")]
)
def test_negative_requests_are_rejected(n_sessions, seed, message):
    """A wrong sign must not give an empty data set."""
    with pytest.raises(DataError, match=message):
        list(simulate_truths(n_sessions, seed))


def geodesics_s(truth):
    """Travel times of light along the ellipsoid, `(stations,)`."""
    north, east = truth.source.position_deg
    places = [there.station.position_deg for there in truth.receptions]
    along_m = [Geod(ellps="WGS84").inv(east, north, e, n)[2] for n, e in places]
    return np.array(along_m) / 299_792_458.0


@few
@given(seeds)
def test_ground_waves_follow_the_ellipsoid_slower_than_light(seed):
    """A chord through the earth would be early by 3 us at 1,000 km, half a sky of other errors."""
    truth = session_truth(0, seed, LONG_WAVE)
    slowness = column([truth], "delay_s")[0] / geodesics_s(truth) - 1
    assert np.all((slowness >= 8e-4 - 1e-9) & (slowness <= 3e-3 + 1e-9))
    assert truth.source.frequency_hz == 77_500
    assert np.unique(slowness).size == len(slowness)


@few
@given(seeds, st.floats(-180, 180) | ACROSS_ANTIMERIDIAN, st.sampled_from([SOUND, SHORT_WAVE]))
def test_a_turned_earth_has_the_same_sessions(seed, turn_deg, scenario):
    """The antimeridian is nothing to a wave: Fiji's sessions are like those of anywhere else."""
    turned = scenario.with_stations(
        scenario.name,
        tuple(
            replace(there, longitude_deg=math.remainder(there.longitude_deg + turn_deg, 360))
            for there in scenario.stations
        ),
    )
    still = scenario.with_stations(scenario.name, scenario.stations)
    one, other = (session_truth(0, seed, each) for each in (still, turned))
    moved_deg = np.subtract(other.source.position_deg, one.source.position_deg)
    assert abs(other.source.position_deg[1]) <= 180
    assert moved_deg[0] == 0
    assert math.remainder(moved_deg[1] - turn_deg, 360) == pytest.approx(0, abs=1e-9)
    for name in ("delay_s", "path_loss_db", "shadowing_db", "signal_dbm"):
        apart = column([one], name) - column([other], name)
        assert np.abs(apart).max() < (1e-9 if name == "delay_s" else 1e-4)


@few
@given(seeds, st.integers(0, 20))
def test_sky_waves_are_later_than_any_ground_wave(seed, index):
    """By up to a millisecond, which an estimate along the ground takes for 300 km."""
    truth = session_truth(index, seed, SHORT_WAVE)
    excess_s = column([truth], "delay_s")[0] - geodesics_s(truth)
    assert np.all(excess_s >= 5e-3 * geodesics_s(truth))
    assert np.ptp(column([truth], "virtual_height_m")) < 100e3


@few
@given(seeds, st.floats(1e-7, 1e-3))
def test_a_receivers_delay_is_its_own_and_never_changes(seed, sigma_s):
    """A calibration on one session must hold in the next, whoever transmits."""
    scenario = replace(LONG_WAVE, receiver_delay_sigma_s=sigma_s)
    one, other = (column([session_truth(n, seed, scenario)], "receiver_delay_s") for n in (0, 7))
    assert np.array_equal(one, other)
    assert np.unique(one).size == one.size


def test_receivers_delays_have_the_given_deviation():
    """Calibration shrinks by it."""
    many = tuple(Station(f"S{n}", 45.0, 8.0) for n in range(400))
    scenario = replace(SOUND, stations=many, receiver_delay_sigma_s=1e-5)
    delays = column(list(simulate_truths(1, 0, scenario)), "receiver_delay_s")
    assert delays.std() == pytest.approx(1e-5, rel=0.1)


@few
@given(seeds)
def test_the_ground_of_a_path_never_changes(seed):
    """Sessions of one transmitter have one delay each path, however often it is heard."""
    scenario = replace(LONG_WAVE, sessions_per_source=2)
    one, other = (column([session_truth(n, seed, scenario)], "delay_s") for n in (0, 1))
    assert np.array_equal(one, other)
