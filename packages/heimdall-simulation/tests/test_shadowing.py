"""A shadowing map has Gudmundson's correlation and never changes."""

import numpy as np
from heimdall_simulation.world import ShadowingMap

SIGMA_DB, DECORRELATION_M = 6.0, 20_000.0


def map_of(station, world_seed=145):
    """The map of a station of this name."""
    return ShadowingMap.of_station(
        station, world_seed=world_seed, sigma_db=SIGMA_DB, decorrelation_m=DECORRELATION_M
    )


def places_m(n_places, seed=0, extent_m=4_000_000.0):
    """Places over an area of many decorrelation distances, so that averages settle."""
    return np.random.default_rng(seed).uniform(0, extent_m, (n_places, 2))


def correlations_at(lags_m, field):
    """Of the losses at two places, for each distance between them."""
    at = places_m(4_000)
    angle = np.random.default_rng(1).uniform(0, 2 * np.pi, len(at))
    heading = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    there = field.loss_db(at)
    return [np.corrcoef(there, field.loss_db(at + lag * heading))[0, 1] for lag in lags_m]


def test_correlation_falls_as_gudmundson_measured():
    """exp(-d / d_c): neighbouring sites share their hills, distant ones do not."""
    lags_m = np.array([2_000.0, 10_000.0, 20_000.0, 40_000.0])
    measured = np.mean([correlations_at(lags_m, map_of(name)) for name in "abcd"], axis=0)
    assert np.allclose(measured, np.exp(-lags_m / DECORRELATION_M), atol=0.04)


def test_losses_are_normal_with_the_stated_spread():
    """Shadowing is log-normal: mean zero, sigma as stated, 95 % within 1.96 sigma."""
    loss_db = map_of("Torino").loss_db(places_m(8_000))
    assert abs(loss_db.mean()) < 0.3
    assert abs(loss_db.std() - SIGMA_DB) < 0.2
    assert abs(np.mean(np.abs(loss_db) < 1.96 * SIGMA_DB) - 0.95) < 0.01


def test_a_station_has_the_same_map_every_time():
    """What training learns of a hill must hold in the next session."""
    at = places_m(50)
    assert np.array_equal(map_of("Torino").loss_db(at), map_of("Torino").loss_db(at))


def test_two_stations_have_unrelated_maps():
    """Each station sees the hills from its own side."""
    at = places_m(8_000)
    shared = np.corrcoef(map_of("Torino").loss_db(at), map_of("Genova").loss_db(at))[0, 1]
    assert abs(shared) < 0.05


def test_another_world_has_another_map():
    """The world's seed is what a second region is made of."""
    at = places_m(50)
    assert not np.allclose(map_of("Torino").loss_db(at), map_of("Torino", 146).loss_db(at))
