"""Posteriors of aircraft, which report where they were."""

import numpy as np
import pytest
from heimdall_locate.flight import LATENCIES_S, SPEED_M_S, Flight
from heimdall_locate.position import Candidate, Cells
from heimdall_locate.sites import moved_deg, offset_m
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = (47.0, 8.0)
MEAN_SQUARE_M2 = (SPEED_M_S * np.array(LATENCIES_S)) @ (SPEED_M_S * np.array(LATENCIES_S)) / 4


def spot(width_m, *offsets_m):
    """Cells of equal probability at offsets east and north of a place."""
    east, north = np.array(offsets_m, float).T
    share = np.full(len(east), 1 / len(east))
    places = moved_deg(*HERE, east, north)
    return Cells(*places, share, np.log(share / width_m**2), np.full(len(east), width_m))


@settings(max_examples=10)
@given(st.floats(1, 60), st.floats(-80, 80), st.floats(-80, 80))
def test_the_density_adds_up_to_one(width_m, east, north):
    """A likelihood that is scored must be one."""
    step = 8.0
    at = np.arange(-500, 500, step)
    grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    density = Flight(spot(width_m, (0, 0), (east, north)))
    found = np.exp(density(*moved_deg(*HERE, *grid.T))).sum() * step**2
    assert found == pytest.approx(1, rel=0.02)


def test_a_known_place_is_spread_by_how_far_one_flies():
    """230 m/s for a few tenths of a second, in any direction, from a cell of a metre."""
    cells = Flight(spot(1.0, (0, 0))).cells()
    away_m = offset_m(*HERE, (cells.latitude_deg, cells.longitude_deg))
    assert np.square(away_m).sum(axis=1).mean() == pytest.approx(MEAN_SQUARE_M2, rel=0.1)
    assert cells.probability.sum() == pytest.approx(1)
    assert len(np.unique(cells.probability)) == 1


def test_two_places_stay_two():
    """A mirror image keeps its half of the probability."""
    cells = Flight(spot(1.0, (-2000, 0), (2000, 0))).cells()
    east = offset_m(*HERE, (cells.latitude_deg, cells.longitude_deg))[:, 0]
    assert (east > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (np.abs(np.abs(east) - 2000) < 500).all()


def test_improbable_cells_count_for_nothing():
    """A far cell of one in a million would be a flight of its own."""
    near, far = (spot(1.0, place) for place in ((0, 0), (90_000, 0)))
    both = Cells(
        *(
            np.concatenate([getattr(part, name) for part in (near, far)])
            for name in ("latitude_deg", "longitude_deg")
        ),
        np.array([1 - 1e-6, 1e-6]),
        np.array([0.0, -14.0]),
        np.array([1.0, 1.0]),
    )
    assert Flight(both)(near.latitude_deg, near.longitude_deg) == pytest.approx(
        Flight(near)(near.latitude_deg, near.longitude_deg)
    )
    assert Flight(both)(far.latitude_deg, far.longitude_deg)[0] < -100


def test_candidates_are_wider_by_the_flight():
    """The ellipse that is printed belongs to the density."""
    narrow = Candidate(
        latitude_deg=HERE[0],
        longitude_deg=HERE[1],
        probability=1.0,
        covariance_m2=np.diag([100.0, 400.0]),
    )
    (wide,) = Flight(spot(1.0, (0, 0))).candidates([narrow])
    added = wide.covariance_m2 - narrow.covariance_m2
    assert np.trace(added) == pytest.approx(MEAN_SQUARE_M2)
    assert added[0, 1] == 0
