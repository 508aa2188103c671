"""A shadowing map has Gudmundson's correlation and never changes."""

import numpy as np
from heimdall_simulation.world import ShadowingMap
from hypothesis import given, settings
from hypothesis import strategies as st

SIGMA_DB, DECORRELATION_M = 6.0, 20_000.0
few = settings(max_examples=20)


def map_of(station, world_seed=145):
    """Map of a station of this name."""
    return ShadowingMap.of_station(
        station, world_seed=world_seed, sigma_db=SIGMA_DB, decorrelation_m=DECORRELATION_M
    )


def places_m(n_places):
    """Random positions over an area of many decorrelation distances."""
    return np.random.default_rng(0).uniform(0, 4_000_000.0, (n_places, 2))


def correlations_at(lags_m, field):
    """Correlation of the losses at two positions, for each distance between them."""
    at = places_m(4_000)
    angle = np.random.default_rng(1).uniform(0, 2 * np.pi, len(at))
    heading = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    there = field.loss_db(at)
    return [np.corrcoef(there, field.loss_db(at + lag * heading))[0, 1] for lag in lags_m]


def test_correlation_falls_as_gudmundson_measured():
    """exp(-d / d_c): near positions have the same hills, distant ones do not."""
    lags_m = np.array([2_000.0, 10_000.0, 20_000.0, 40_000.0])
    measured = np.mean([correlations_at(lags_m, map_of(name)) for name in "abcd"], axis=0)
    assert np.allclose(measured, np.exp(-lags_m / DECORRELATION_M), atol=0.04)


def test_losses_are_normal_with_the_given_deviation():
    """Mean zero, the given sigma, and 95 % within 1.96 sigma."""
    loss_db = map_of("Torino").loss_db(places_m(8_000))
    assert abs(loss_db.mean()) < 0.3
    assert abs(loss_db.std() - SIGMA_DB) < 0.2
    assert abs(np.mean(np.abs(loss_db) < 1.96 * SIGMA_DB) - 0.95) < 0.01


@few
@given(st.text(), st.integers(0, 2**40))
def test_name_and_world_determine_the_map(station, world_seed):
    """Training must be able to learn it; another region needs another map."""
    at = places_m(50)
    loss_db = map_of(station, world_seed).loss_db(at)
    assert np.array_equal(map_of(station, world_seed).loss_db(at), loss_db)
    assert not np.allclose(map_of(station, world_seed + 1).loss_db(at), loss_db)


def test_two_stations_have_independent_maps():
    """Each station sees the hills from its own side."""
    at = places_m(8_000)
    shared = np.corrcoef(map_of("Torino").loss_db(at), map_of("Genova").loss_db(at))[0, 1]
    assert abs(shared) < 0.05
