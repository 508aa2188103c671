"""Arrival times from recordings, and the recordings that give none."""

import math
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from heimdall_features import ClockedRecording
from heimdall_features.testing import delayed, keyed, noise
from heimdall_locate import LocateError, Site, arrival_config, measure_arrivals
from heimdall_locate.sites import geodesic_m
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

RATE_HZ = 12_000.0
N_SAMPLES = 24_000
SITES = (
    Site("A", 45.0, 7.0),
    Site("B", 46.0, 8.5),
    Site("C", 44.5, 9.0),
    Site("D", 45.5, 6.0),
)
places = st.builds(Site, st.just(""), st.floats(-85, 85), st.floats(-180, 180))
delays = st.lists(st.floats(-400e-6, 400e-6), min_size=4, max_size=4)


def heard(delays_s, *, starts_s=(0.0, 0.0, 0.0, 0.0), n_samples=N_SAMPLES, seed=0):
    """A transmission at the four sites with these delays, recorded from these starts on."""
    rng = np.random.default_rng(seed)
    sent = noise(rng, 2 * N_SAMPLES, bandwidth=0.5)
    found = {}
    for site, late_s, start_s in zip(SITES, delays_s, starts_s, strict=True):
        first = round(start_s * RATE_HZ)
        iq = delayed(sent, late_s, RATE_HZ)[first : first + n_samples]
        iq = iq + 0.1 * noise(rng, iq.size)
        found[site.name] = ClockedRecording(iq.astype(np.complex64), RATE_HZ, first / RATE_HZ)
    return found


def deaf(seed=9, start_s=0.0):
    """A recording of noise alone."""
    iq = noise(np.random.default_rng(seed), N_SAMPLES).astype(np.complex64)
    return ClockedRecording(iq, RATE_HZ, start_s)


@settings(max_examples=5)
@given(delays, st.permutations([0.0, 0.1, 0.25, 0.4]))
def test_the_delays_come_back_whatever_the_starts(delays_s, starts_s):
    """Receivers start up to seconds apart; an error of a sample is 25 km."""
    found = measure_arrivals(heard(delays_s, starts_s=starts_s), SITES)
    error_s = found.arrivals_s - delays_s
    error_s -= np.average(error_s, weights=found.sigma_s**-2)
    assert set(found.reasons.values()) == {""}
    assert np.abs(error_s / found.sigma_s).max() < 6


def test_a_site_is_known_by_either_spelling():
    """The recording's name may come from a Mac's file, and the site's from a keyboard."""
    zurich = replace(SITES[0], name="Zürich")
    recordings = heard([0.0, 1e-4, -1e-4, 2e-4])
    recordings[unicodedata.normalize("NFD", zurich.name)] = recordings.pop("A")
    found = measure_arrivals(recordings, (zurich, *SITES[1:]))
    assert found.heard == ("Zürich", "B", "C", "D")


@given(st.lists(places, min_size=2, max_size=6))
def test_no_two_sites_are_further_apart_than_the_baseline(sites):
    """A longer lag than the search covers would be found at a wrong place, and believed."""
    named = [Site(str(n), s.latitude_deg, s.longitude_deg) for n, s in enumerate(sites)]
    baseline_m = arrival_config(named, 12_000.0).baseline_m
    for one in named:
        for other in named:
            apart_m = geodesic_m(
                one.latitude_deg, one.longitude_deg, other.latitude_deg, other.longitude_deg
            )
            assert apart_m <= baseline_m


def test_the_baseline_is_the_longest_distance_and_a_little_more():
    """A lag beyond it is never looked for; from London to Paris there are 342 km."""
    london, paris = Site("London", 51.5, -0.1), Site("Paris", 48.85, 2.35)
    exact_m = Geod(ellps="WGS84").inv(-0.1, 51.5, 2.35, 48.85)[2]
    found_m = arrival_config([london, paris], 48_000.0).baseline_m
    assert 1.05 * exact_m <= found_m < 1.05 * exact_m + 1_000
    moved = replace(paris, latitude_deg=48.850_01)
    assert found_m == arrival_config([london, moved], 48_000.0).baseline_m, "computed anew"
    near = replace(paris, name="Eiffel", latitude_deg=48.858)
    assert arrival_config([near, paris], 48_000.0).baseline_m == 10_000


@settings(max_examples=5)
@given(st.sampled_from("ABCD"))
def test_a_receiver_without_the_transmission_is_named(name):
    """A dead antenna must not cost the position that the other three give."""
    found = measure_arrivals(heard((0.0, 1e-4, 2e-4, 3e-4)) | {name: deaf()}, SITES)
    channel = "ABCD".index(name)
    assert len(found.heard) == 3
    assert math.isnan(found.arrivals_s[channel])
    assert "hears nothing" in found.reasons[name]


@settings(max_examples=4)
@given(st.sampled_from("ABCD"), st.floats(0.005, 0.3), st.sampled_from([-1, 1]))
def test_a_receiver_with_a_wrong_clock_is_named(name, error_s, sign):
    """A carrier fits somewhat at any lag, and a wrong time is a wrong place."""
    rng, recordings = np.random.default_rng(4), {}
    for number, site in enumerate(SITES):
        iq = 0.3 * keyed(np.arange(48_000) / RATE_HZ - 1e-4 * number)
        iq += 1e-4 * noise(rng, iq.size)
        late_s = sign * error_s if site.name == name else 0.0
        recordings[site.name] = ClockedRecording(iq.astype(np.complex64), RATE_HZ, late_s)
    found = measure_arrivals(recordings, SITES)
    assert len(found.heard) == 3
    assert math.isnan(found.arrivals_s["ABCD".index(name)])
    assert "its time contradicts the others" in found.reasons[name]


def test_a_recording_of_another_hour_leaves_the_others_alone():
    """One file of yesterday in the folder is the commonest mistake of all."""
    recordings = heard((0.0, 1e-4, 2e-4, 3e-4)) | {"B": deaf(start_s=3600.0)}
    found = measure_arrivals(recordings, SITES)
    assert found.heard == ("A", "C", "D")
    assert "another time" in found.reasons["B"]


def test_noise_alone_has_no_arrivals():
    """Three receivers of noise must not agree on a place."""
    found = measure_arrivals({site.name: deaf(n) for n, site in enumerate(SITES)}, SITES)
    assert found.heard == ()
    assert np.isnan(found.sigma_s).all()


def test_a_slower_receiver_sets_the_rate():
    """Receivers of 12 and 24 kHz hear the same transmission."""
    recordings = heard((0.0, 1e-4, 2e-4, 3e-4))
    spectrum = np.fft.fft(recordings["B"].iq)
    half = N_SAMPLES // 2
    wide = np.concatenate([spectrum[:half], np.zeros(N_SAMPLES), spectrum[half:]])
    recordings["B"] = ClockedRecording((2 * np.fft.ifft(wide)).astype(np.complex64), 2 * RATE_HZ)
    found = measure_arrivals(recordings, SITES)
    assert found.arrivals_s[1] - found.arrivals_s[0] == pytest.approx(1e-4, abs=5e-6)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"A": None, "B": None}, r"2 of 4 receivers recorded .*: A: no recording; B: no recording"),
        ({"A": deaf(start_s=60.0), "B": deaf(start_s=120.0)}, r"2 of 4 .*A: recorded at another"),
    ],
)
def test_fewer_than_three_recordings_are_refused(changes, value):
    """The message must say which recordings are missing, and why."""
    recordings = {
        name: one
        for name, one in (heard((0.0, 1e-4, 2e-4, 3e-4)) | changes).items()
        if one is not None
    }
    with pytest.raises(LocateError, match=value):
        measure_arrivals(recordings, SITES)


@pytest.mark.parametrize(("names", "value"), [("AB", "add 1 receiver$"), ("A", "add 2 receivers$")])
def test_too_few_good_recordings_say_how_many_are_missing(names, value):
    """Nothing is wrong with those that are there, so there is no reason to tell."""
    recordings = heard((0.0, 1e-4, 2e-4, 3e-4))
    sites = [site for site in SITES if site.name in names]
    with pytest.raises(LocateError, match=value):
        measure_arrivals({name: recordings[name] for name in names}, sites)
