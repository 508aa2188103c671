"""Truths have the statistics that the scenario states, and depend on their number alone."""

from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.errors import DataError
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, simulate_truths
from heimdall_simulation.drawing import session_truth
from hypothesis import given, settings
from hypothesis import strategies as st

SOUND = replace(NORTHWEST_ITALY, mishaps=NO_MISHAPS)


@pytest.fixture(scope="module")
def sound():
    """A thousand sessions without mishap."""
    return list(simulate_truths(1000, 7, SOUND))


@pytest.fixture(scope="module")
def usual():
    """Two thousand sessions as the demo has them."""
    return list(simulate_truths(2000, 7))


def column(truths, name):
    """One quantity of every reception, `(sessions, stations)`."""
    return np.array([[getattr(r, name) for r in truth.receptions] for truth in truths])


@settings(max_examples=20)
@given(st.integers(0, 2**40), st.integers(0, 30))
def test_a_session_does_not_depend_on_how_many_there_are(seed, index):
    """A larger run must repeat the smaller one and go on from there."""
    *_, last = simulate_truths(index + 1, seed)
    assert last == session_truth(index, seed, NORTHWEST_ITALY)


def test_levels_fall_with_distance_by_the_exponent(sound):
    """Regression over a thousand sites gives the law back, fading and shadowing averaged out."""
    excess_db = column(sound, "signal_dbm") - np.array([[t.radiated_dbm] for t in sound])
    slope = np.polyfit(np.log10(column(sound, "distance_m")).ravel(), excess_db.ravel(), 1)[0]
    assert abs(slope + 10 * SOUND.path_loss_exponent) < 3


def test_a_link_budget_adds_up(sound):
    """Each nuisance in the truth is the one that was used."""
    received_dbm = (
        np.array([[t.radiated_dbm] for t in sound])
        - column(sound, "path_loss_db")
        - column(sound, "shadowing_db")
        - column(sound, "fading_db")
    )
    assert np.allclose(received_dbm, column(sound, "signal_dbm"))


@pytest.mark.parametrize(("quantity", "sigma"), [("fading_db", 3.0), ("clock_error_s", 1e-7)])
def test_what_no_map_can_learn_has_the_stated_spread(sound, quantity, sigma):
    """Independent between receivers too: a common part would be learnt as power."""
    drawn = column(sound, quantity)
    assert abs(drawn.std() / sigma - 1) < 0.05
    assert np.abs(np.corrcoef(drawn.T) - np.eye(7)).max() < 0.15


def test_sites_fill_the_region_evenly(sound):
    """A cluster would make the mean position look like a good guess."""
    latitude, longitude = np.array([t.source.position_deg for t in sound]).T
    for place, (least, largest) in ((latitude, (44.3, 45.6)), (longitude, (7.1, 9.3))):
        counts, _ = np.histogram(place, bins=5, range=(least, largest))
        assert counts.sum() == len(place)
        assert counts.min() > 150


def test_a_source_keeps_its_site_over_its_sessions():
    """A split by source means something only where sources have several sessions."""
    scenario = replace(SOUND, sessions_per_source=3)
    truths = list(simulate_truths(9, 1, scenario))
    assert [t.source.index for t in truths] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert truths[0].source == truths[2].source != truths[3].source
    assert truths[0].receptions[0].shadowing_db == truths[1].receptions[0].shadowing_db
    assert truths[0].receptions[0].fading_db != truths[1].receptions[0].fading_db


def test_mishaps_are_as_frequent_as_stated(usual):
    """The run's summary of what was left out is only worth reading where there is something."""
    n_damaged = {
        damage: sum(r.damage == damage for t in usual for r in t.receptions)
        for damage in ("missing", "truncated")
    }
    assert 160 < sum(bool(t.stations_down) for t in usual) < 240
    assert 35 < sum(t.approval_status == "rejected" for t in usual) < 85
    assert 20 < sum(t.status == "failed" for t in usual) < 60
    assert all(8 <= n <= 35 for n in n_damaged.values())
    assert 8 <= sum(not t.source.position_known for t in usual) <= 35


def test_a_mishap_moves_nothing_else():
    """Sound and unsound runs must compare session by session."""
    unsound = replace(SOUND, mishaps=replace(NO_MISHAPS, receiver_down=1.0))
    for whole, lacking in zip(
        simulate_truths(20, 3, SOUND), simulate_truths(20, 3, unsound), strict=True
    ):
        assert set(lacking.receptions) < set(whole.receptions)


def test_almost_nothing_clips_and_almost_everything_is_heard(usual):
    """Levels from the noise floor to full scale, as a gain set once must allow."""
    snr_db = np.array([r.snr_db for t in usual for r in t.receptions])
    signal_dbfs = np.array([r.signal_dbfs for t in usual for r in t.receptions])
    assert np.mean(signal_dbfs > 0) < 1e-3
    assert np.mean(snr_db > 0) > 0.95


@pytest.mark.parametrize(("n_sessions", "seed", "said"), [(-1, 0, "-1 sessions"), (1, -4, "-4")])
def test_negative_requests_are_refused(n_sessions, seed, said):
    """A sign slip must not silently give an empty data set."""
    with pytest.raises(DataError, match=said):
        list(simulate_truths(n_sessions, seed))
