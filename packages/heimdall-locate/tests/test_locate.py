"""Positions of transmitters that the tests have placed, among receivers that may lie."""

import math
from dataclasses import replace

import numpy as np
import pytest
from heimdall_locate import Candidate, LocateError, Site, from_gaussians, locate
from heimdall_locate.propagation import AIR, sky_wave_s
from heimdall_locate.sites import cartesian_m, geodesic_m
from hypothesis import assume, given, settings
from hypothesis import strategies as st

LIGHT_M_S = 299_792_458.0
VHF_HZ, LONG_WAVE_HZ, SHORT_WAVE_HZ = 145e6, 77.5e3, 7e6
ALPS = (
    Site("Giaveno", 45.02, 7.29, 600.0),
    Site("Montanaro", 45.234, 7.857, 300.0),
    Site("Genova", 44.395, 8.956, 100.0),
    Site("Milano", 45.478, 9.123, 120.0),
    Site("Cuneo", 44.39, 7.55, 550.0),
    Site("Aosta", 45.737, 7.32, 580.0),
)
EUROPE = (
    Site("Emden", 53.67, 7.28),
    Site("Limoges", 45.78, 0.61),
    Site("Zurich", 47.17, 8.43),
    Site("Brno", 49.2, 16.6),
)
ANYWHERE = st.tuples(st.floats(44.4, 45.6), st.floats(7.3, 9.2))
SEEDS = st.integers(0, 10_000)


def times_s(sites, truth, rng, sigma_s=1e-7, altitude_m=300.0):
    """Arrivals over the line of sight through air."""
    site_deg = ([s.latitude_deg for s in sites], [s.longitude_deg for s in sites])
    away_m = cartesian_m(*site_deg, [s.altitude_m for s in sites]) - cartesian_m(*truth, altitude_m)
    noise_s = sigma_s * rng.standard_normal(len(sites))
    return np.linalg.norm(away_m, axis=1) * (1 + AIR) / LIGHT_M_S + noise_s


def error_m(position, truth):
    """How far off the answer is."""
    return float(geodesic_m(position.latitude_deg, position.longitude_deg, *truth))


@pytest.mark.slow
@settings(max_examples=12)
@given(ANYWHERE, SEEDS, st.integers(0, 5))
def test_one_lying_receiver_is_found_out(truth, seed, liar):
    """A receiver with a wrong clock must not move the answer, and must be named."""
    rng = np.random.default_rng(seed)
    arrivals_s = times_s(ALPS, truth, rng)
    arrivals_s[liar] += 2e-4
    position = locate(arrivals_s, ALPS, frequency_hz=VHF_HZ)
    assert position.smallest_region(*truth) < 0.999
    assert "sigmas late" in position.receivers[liar].reason


@settings(max_examples=6)
@given(ANYWHERE, SEEDS)
def test_a_zero_of_time_does_not_matter(truth, seed):
    """Only differences of times are known."""
    arrivals_s = times_s(ALPS, truth, np.random.default_rng(seed))
    one, other = (locate(arrivals_s + shift, ALPS, frequency_hz=VHF_HZ) for shift in (0.0, 0.123))
    assert (
        geodesic_m(one.latitude_deg, one.longitude_deg, other.latitude_deg, other.longitude_deg)
        < 1 + 0.05 * one.ellipse_68.semi_major_m
    )


@settings(max_examples=6)
@given(ANYWHERE, SEEDS, st.permutations(range(6)))
def test_the_order_of_receivers_does_not_matter(truth, seed, order):
    """A network's receivers come and go; there are no channels."""
    arrivals_s = times_s(ALPS, truth, np.random.default_rng(seed))
    one = locate(arrivals_s, ALPS, frequency_hz=VHF_HZ)
    other = locate(arrivals_s[list(order)], [ALPS[n] for n in order], frequency_hz=VHF_HZ)
    assert one.latitude_deg == pytest.approx(other.latitude_deg, abs=1e-9)
    assert [r.name for r in other.receivers] == [ALPS[n].name for n in order]


@pytest.mark.slow
@settings(max_examples=15)
@given(SEEDS, st.floats(-80, 80), st.floats(-180, 180), st.floats(1e-7, 1e-5))
def test_any_geometry_gives_an_honest_answer(seed, latitude_deg, longitude_deg, sigma_s):
    """Whatever receivers there are, a confident answer must not be far from the truth."""
    rng = np.random.default_rng(seed)
    n_sites = int(rng.integers(3, 9))
    spread_deg = 10 ** rng.uniform(-1, 0.3)

    def place():
        return (
            float(latitude_deg + spread_deg * rng.uniform(-1, 1)),
            float((longitude_deg + spread_deg * rng.uniform(-1, 1) + 180) % 360 - 180),
        )

    sites, truth = [Site(f"site {n}", *place()) for n in range(n_sites)], place()
    arrivals_s = times_s(sites, truth, rng, sigma_s, altitude_m=0.0)
    position = locate(arrivals_s, sites, sigma_s=sigma_s, frequency_hz=VHF_HZ)
    assert position.smallest_region(*truth) < 0.9995


@pytest.mark.slow
def test_regions_hold_as_often_as_they_say():
    """The point of the package: every receiver has noise of its own size."""
    rng, inside = np.random.default_rng(3), []
    for _ in range(60):
        truth = rng.uniform(44.4, 45.6), rng.uniform(7.3, 9.2)
        sigma_s = 10 ** rng.uniform(-7.5, -5.5, len(ALPS))
        arrivals_s = times_s(ALPS, truth, rng, np.hypot(sigma_s, 1e-7))
        position = locate(arrivals_s, ALPS, sigma_s=sigma_s, frequency_hz=VHF_HZ)
        inside.append(float(position.smallest_region(*truth)))
    assert abs(np.mean(np.array(inside) <= 0.68) - 0.68) < 0.13
    assert np.mean(np.array(inside) <= 0.95) > 0.9


def test_two_mirror_solutions_are_two_candidates():
    """Three receivers on one side have two intersections; their mean is nowhere."""
    sites = [Site("A", 45.0, 8.0), Site("B", 45.0, 8.6), Site("C", 45.0, 9.2)]
    truth = (45.3, 8.5)
    position = locate(times_s(sites, truth, np.random.default_rng(1)), sites, frequency_hz=VHF_HZ)
    first, second = position.candidates[:2]
    assert first.probability == pytest.approx(second.probability, abs=0.1)
    assert abs(first.latitude_deg - 45.0) == pytest.approx(0.3, abs=0.02)
    assert (first.latitude_deg - 45.0) * (second.latitude_deg - 45.0) < 0
    assert position.termination.startswith("2 places")


@pytest.mark.slow
@settings(max_examples=8)
@given(ANYWHERE, SEEDS, st.lists(st.integers(0, 5), min_size=2, max_size=2, unique=True))
def test_swapped_names_do_not_give_a_confident_answer(truth, seed, swapped):
    """The commonest mistake with files: the two are named, or all are trusted less."""
    arrivals_s = times_s(ALPS, truth, np.random.default_rng(seed))
    assume(abs(np.diff(arrivals_s[swapped])) > 2e-5)
    arrivals_s[swapped] = arrivals_s[swapped[::-1]]
    position = locate(arrivals_s, ALPS, frequency_hz=VHF_HZ)
    assert position.smallest_region(*truth) < 0.999
    sigma_us = max(receiver.sigma_us for receiver in position.receivers)
    assert any(receiver.reason for receiver in position.receivers) or sigma_us > 1


def test_a_ground_wave_is_followed_over_the_curved_earth():
    """At 1,000 km a chord is 1 km too short, and land is slower than air by 0.6 km."""
    truth = (50.0, 9.0)
    range_m = geodesic_m(
        *truth, [s.latitude_deg for s in EUROPE], [s.longitude_deg for s in EUROPE]
    )
    position = locate(range_m * 1.0009 / LIGHT_M_S, EUROPE, frequency_hz=LONG_WAVE_HZ)
    assert error_m(position, truth) < 1_000
    assert 1_000 < position.ellipse_95.semi_major_m < 30_000
    assert "ground wave" in position.propagation


@pytest.mark.parametrize(
    ("sites", "truth", "most_m"),
    [((*EUROPE, Site("Rome", 41.9, 12.6)), (44.0, 12.0), 5e5), (EUROPE, (42.0, 12.5), np.inf)],
)
def test_a_sky_wave_of_unknown_height_is_no_surprise(sites, truth, most_m):
    """Delays exceed the great circle by a fifth of a millisecond and more.

    Four receivers on one side leave open which of them heard a second hop, and so how far it is:
    the answer is as wide as that, and densest at the truth.
    """
    range_m = geodesic_m(*truth, [s.latitude_deg for s in sites], [s.longitude_deg for s in sites])
    errors_s = np.array([2e-5, -3e-5, 1e-5, 4e-5, 0.0])[: len(sites)]
    position = locate(sky_wave_s(range_m, 310e3) + errors_s, sites, frequency_hz=SHORT_WAVE_HZ)
    assert position.smallest_region(*truth) < 0.95
    assert error_m(position, truth) < 100_000
    assert position.ellipse_95.semi_major_m < most_m


def test_a_prior_decides_between_mirror_solutions():
    """Levels cannot locate well, but they tell which side it is."""
    sites = [Site("A", 45.0, 8.0), Site("B", 45.0, 8.6), Site("C", 45.0, 9.2)]
    arrivals_s = times_s(sites, (45.3, 8.5), np.random.default_rng(1))
    levels = from_gaussians([Candidate(1.0, 45.35, 8.4, ((1e8, 0.0), (0.0, 1e8)))])
    position = locate(arrivals_s, sites, frequency_hz=VHF_HZ, prior=levels)
    assert position.candidates[0].probability > 0.9
    assert position.latitude_deg == pytest.approx(45.3, abs=0.02)
    two = locate(np.where([1, 1, 0], arrivals_s, np.nan), sites, frequency_hz=VHF_HZ, prior=levels)
    assert position.ellipse_95.semi_major_m < two.ellipse_95.semi_major_m < 60_000


def test_a_known_delay_is_taken_off():
    """Calibration tells that a receiver's clock is late by a microsecond."""
    truth, delays_s = (45.1, 8.1), np.array([0, 1e-6, 0, -2e-6, 0, 0])
    arrivals_s = times_s(ALPS, truth, np.random.default_rng(2), sigma_s=1e-8)
    plain = locate(arrivals_s, ALPS, frequency_hz=VHF_HZ)
    known = locate(arrivals_s + delays_s, ALPS, frequency_hz=VHF_HZ, delays_s=delays_s)
    assert known.latitude_deg == pytest.approx(plain.latitude_deg, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"arrivals_s": [0.0, 1e-5, np.nan, np.nan, np.nan, np.nan]}, "2 of 6"),
        ({"arrivals_s": [0.0, 1.0]}, "6 receivers"),
        ({"sigma_s": -1e-6}, "-1e-06"),
        ({"altitude_m": float("nan")}, "nan"),
        ({"frequency_hz": -5.0}, "-5.0"),
        ({"propagation": "magic"}, "magic"),
        ({"delays_s": float("inf")}, "inf"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(changes, value):
    """Nothing may be computed with it, and the message must name it."""
    arguments = {"arrivals_s": np.zeros(6), "sites": ALPS, "frequency_hz": VHF_HZ}
    with pytest.raises(LocateError, match=value):
        locate(**(arguments | changes))


def test_a_receiver_that_heard_nothing_is_listed():
    """Users look for every file that they gave."""
    arrivals_s = times_s(ALPS, (45.1, 8.1), np.random.default_rng(2))
    arrivals_s[4] = np.nan
    unheard = locate(arrivals_s, ALPS, frequency_hz=VHF_HZ).receivers[4]
    assert replace(unheard, reason="") == replace(unheard, name="Cuneo", used=False, reason="")
    assert "no arrival" in unheard.reason


def test_receivers_at_one_place_tell_nothing():
    """Times are equal wherever the transmitter is, so the answer is as wide as they hear."""
    sites = [Site(f"R{n}", 47.0, 8.0) for n in range(5)]
    position = locate(times_s(sites, (47.1, 8.1), np.random.default_rng(0)), sites)
    assert position.ellipse_95.semi_major_m > 100_000
    assert position.smallest_region(47.1, 8.1) < 0.95


def test_times_that_are_noise_give_a_wide_answer():
    """Times a second apart contradict each other; no place explains them."""
    position = locate(np.random.default_rng(0).uniform(0, 1, len(ALPS)), ALPS)
    assert position.ellipse_95.semi_major_m > 100_000


@settings(max_examples=6)
@given(ANYWHERE, SEEDS, st.floats(-180, 180) | st.floats(171, 172.5))
def test_a_turned_earth_turns_the_answer(truth, seed, turn_deg):
    """The antimeridian is nothing to a wave: a network across it is as good as any other."""
    arrivals_s = times_s(ALPS, truth, np.random.default_rng(seed))
    turned = [
        replace(site, longitude_deg=math.remainder(site.longitude_deg + turn_deg, 360))
        for site in ALPS
    ]
    one, other = (locate(arrivals_s, sites, frequency_hz=VHF_HZ) for sites in (ALPS, turned))
    place = other.latitude_deg, other.longitude_deg - turn_deg
    # The cells of the search lie differently.
    assert error_m(one, place) < 1 + 0.05 * one.ellipse_68.semi_major_m
    assert -180 <= other.longitude_deg <= 180


def test_at_a_pole():
    """Meridians meet there; cells must not become slivers, nor the search slow."""
    sites = [Site(f"R{n}", 89.6, 72.0 * n - 180) for n in range(5)]
    truth = (89.8, 30.0)
    arrivals_s = times_s(sites, truth, np.random.default_rng(0), altitude_m=0.0)
    position = locate(arrivals_s, sites, frequency_hz=VHF_HZ)
    assert error_m(position, truth) < 500
    assert len(position.cells.width_m) < 20_000


def test_an_infinite_spread_is_no_arrival():
    """A receiver of unknown delay tells nothing."""
    spreads_s = [np.inf, 0, 0, 0, 0, 0]
    arrivals_s = times_s(ALPS, (45.0, 8.0), np.random.default_rng(0))
    assert not locate(arrivals_s, ALPS, delay_spreads_s=spreads_s).receivers[0].used


@settings(max_examples=6)
@given(ANYWHERE, SEEDS, st.floats(500, 40_000))
def test_a_prior_narrower_than_the_first_cells_is_not_missed(truth, seed, sigma_m):
    """A good level model would otherwise lead the search to a cell beside it, 50 km off."""
    rng = np.random.default_rng(seed)
    levels = from_gaussians([Candidate(1.0, *truth, ((sigma_m**2, 0.0), (0.0, 4 * sigma_m**2)))])
    position = locate(times_s(ALPS, truth, rng), ALPS, frequency_hz=VHF_HZ, prior=levels)
    assert error_m(position, truth) < 1_000
    assert position.smallest_region(*truth) < 0.9995
