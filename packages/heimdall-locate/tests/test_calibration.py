"""Delays of receivers from sessions with known transmitters, and the file that holds them."""

import csv
import json
import unicodedata
from ast import literal_eval
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from heimdall_locate import Calibration, LocateError, Site, Transmitter, calibrate
from heimdall_locate.calibration import METADATA_KEY
from heimdall_locate.delays import travel_s
from heimdall_locate.sites import moved_deg
from hypothesis import given, settings
from hypothesis import strategies as st

LOCARDS = Path(__file__).parents[4] / "shared/data/locards"
seeds = st.integers(0, 2**32 - 1)
unhurried = settings(max_examples=10)


@dataclass(frozen=True)
class Simulated:
    """Sessions, and the truth about their receivers."""

    arrivals_s: np.ndarray
    sigma_s: np.ndarray
    sites: list[Site]
    transmitters: list[Transmitter]
    delay_s: np.ndarray

    def calibration(self):
        """What they tell."""
        return calibrate(self.arrivals_s, self.sites, self.transmitters, self.sigma_s)


def simulated(
    seed, n_sessions, n_receivers=5, delay_s=1e-6, spread_s=5e-7, moved_m=(0.0, 0.0), n_places=None
):
    """Sessions around Turin whose first receiver stands `moved_m` from its stated place."""
    rng = np.random.default_rng(seed)

    def places(n):
        return rng.uniform((44, 6.6), (46, 9.4), (n, 2)).tolist()

    sites = [Site(f"r{n}", *place, 200.0) for n, place in enumerate(places(n_receivers))]
    there = places(n_places or n_sessions)
    transmitters = [
        Transmitter(*there[n % len(there)], frequency_hz=145e6) for n in range(n_sessions)
    ]
    latitude, longitude = moved_deg(sites[0].latitude_deg, sites[0].longitude_deg, *moved_m)
    moved = replace(sites[0], latitude_deg=float(latitude), longitude_deg=float(longitude))
    shape = (n_sessions, n_receivers)
    delays_s = rng.normal(0, delay_s, n_receivers)
    spreads_s = spread_s * np.exp(rng.normal(0, 0.5, n_receivers))
    sigma_s = rng.uniform(1e-7, 5e-7, shape)
    arrivals_s = travel_s([moved, *sites[1:]], transmitters) + delays_s
    arrivals_s += spreads_s * rng.normal(size=shape) + sigma_s * rng.normal(size=shape)
    arrivals_s += rng.uniform(0, 1, (n_sessions, 1))
    return Simulated(arrivals_s, sigma_s, sites, transmitters, delays_s)


def figures(calibration):
    """Delays and their uncertainties, as arrays."""
    return np.array([(one.delay_s, one.delay_sigma_s) for one in calibration.receivers]).T


def differences(delay_s):
    """Differences of all pairs, which are all that sessions determine."""
    one, other = np.triu_indices(len(delay_s), 1)
    return delay_s[one] - delay_s[other]


@pytest.mark.parametrize(("n_sessions", "delay_s"), [(4, 2e-5), (10, 1e-6), (30, 1e-6), (30, 1e-5)])
def test_errors_of_delays_are_as_large_as_stated(n_sessions, delay_s):
    """A position is only as honest as the delays that it subtracts."""
    scores = []
    for seed in range(25):
        session = simulated(seed, n_sessions, delay_s=delay_s)
        found_s, sigma_s = figures(session.calibration())
        one, other = np.triu_indices(len(found_s), 1)
        error_s = differences(found_s) - differences(session.delay_s)
        scores.append(error_s / np.hypot(sigma_s[one], sigma_s[other]))
    assert 0.8 < np.std(scores) < 1.25


def test_few_sessions_are_shrunk_and_many_are_not():
    """One session cannot tell a delay from chance; thirty can."""
    slopes = {}
    for n_sessions in (1, 3, 30):
        each = []
        for seed in range(12):
            session = simulated(seed, n_sessions)
            found_s = differences(figures(session.calibration())[0])
            true_s = differences(session.delay_s)
            each.append(found_s @ true_s / (true_s @ true_s))
        slopes[n_sessions] = np.median(each)
    assert slopes[1] < 0.4 < slopes[3] < 0.9 < slopes[30] < 1.1


def test_uncertainty_falls_with_the_number_of_sessions():
    """Who records more gets more."""
    every = simulated(1, 64)
    sigmas_s = []
    for n in (4, 16, 64):
        part = calibrate(
            every.arrivals_s[:n], every.sites, every.transmitters[:n], every.sigma_s[:n]
        )
        sigmas_s.append(figures(part)[1].mean())
        assert part.n_sessions == n
        assert {one.n_sessions for one in part.receivers} == {n}
    assert sigmas_s[0] > 1.4 * sigmas_s[1] > 1.4**2 * sigmas_s[2]


def test_sessions_of_one_place_count_as_few():
    """The path's own error is in all of them: another transmitter will not have it."""
    one_place = simulated(3, 60, n_places=1).calibration()
    many = simulated(3, 60).calibration()
    assert figures(one_place)[1].mean() > 1.4 * figures(many)[1].mean()


@unhurried
@given(seeds, st.sampled_from([1e-6, 5e-3, 2.0]))
def test_a_false_session_does_not_move_delays(seed, wrong_s):
    """A mistaken source, or one swapped file, is in every large collection."""
    session = simulated(seed, 12)
    before_s, sigma_s = figures(session.calibration())
    arrivals_s = session.arrivals_s.copy()
    arrivals_s[5] += wrong_s * np.random.default_rng(seed).normal(size=arrivals_s.shape[1])
    after_s = figures(replace(session, arrivals_s=arrivals_s).calibration())[0]
    shift_s = np.abs(differences(after_s) - differences(before_s))
    assert shift_s.max() < 3 * sigma_s.max()


@unhurried
@given(seeds)
def test_the_zero_of_a_session_does_not_matter(seed):
    """Nobody knows when a transmission began."""
    session = simulated(seed, 6)
    later_s = np.random.default_rng(seed).uniform(-1e3, 1e3, (6, 1))
    later = replace(session, arrivals_s=session.arrivals_s + later_s)
    assert figures(later.calibration()) == pytest.approx(
        figures(session.calibration()), rel=1e-2, abs=1e-9
    )


@unhurried
@given(seeds, st.permutations(range(5)))
def test_the_order_of_receivers_does_not_matter(seed, order):
    """Files come in the order of a folder."""
    session = simulated(seed, 5)
    other = calibrate(
        session.arrivals_s[:, order],
        [session.sites[n] for n in order],
        session.transmitters,
        session.sigma_s[:, order],
    )
    for one in session.calibration().receivers:
        same = other.get(one.name)
        assert same.delay_s == pytest.approx(one.delay_s, rel=1e-3, abs=1e-10)


@unhurried
@given(seeds)
def test_receivers_may_differ_between_sessions(seed):
    """Stations come and go; a chain of sessions still ties them together."""
    session = simulated(seed, 60, n_receivers=6, delay_s=1e-5)
    shape = session.arrivals_s.shape
    heard = np.random.default_rng(seed).random(shape).argsort(axis=1) < 3
    session = replace(session, arrivals_s=np.where(heard, session.arrivals_s, np.nan))
    found_s, sigma_s = figures(session.calibration())
    error_s = np.abs(differences(found_s) - differences(session.delay_s))
    assert error_s.max() < 6 * sigma_s.max()
    assert sigma_s.max() < 1e-6


@pytest.mark.parametrize("moved_m", [(3_000.0, 4_000.0), (-5_000.0, 0.0)])
@pytest.mark.parametrize("n_receivers", [4, 6])
def test_a_receiver_in_a_wrong_place_is_named(moved_m, n_receivers):
    """A station's position is typed by hand, or is that of its town hall."""
    for seed in range(3):
        session = simulated(seed, 30, n_receivers, moved_m=moved_m)
        first, *others = session.calibration().receivers
        fault = first.position_fault
        off_m = np.subtract((fault.east_m, fault.north_m), moved_m)
        assert np.hypot(*off_m) < 5 * fault.sigma_m
        assert fault.sigma_m < 500
        assert fault.distance_m == pytest.approx(5_000, abs=1_000)
        assert fault.spread_s < first.spread_s / 2
        assert not any(one.position_fault for one in others)


@unhurried
@given(seeds, st.integers(4, 40), st.integers(3, 6))
def test_receivers_in_their_places_are_not_accused(seed, n_sessions, n_receivers):
    """A false alarm costs an operator a day."""
    session = simulated(seed, n_sessions, n_receivers, spread_s=3e-6)
    assert not any(one.position_fault for one in session.calibration().receivers)


def test_few_places_cannot_contradict_a_position():
    """Seen from one transmitter, an offset is a delay."""
    session = simulated(0, 40, moved_m=(5_000.0, 0.0), n_places=3)
    assert not any(one.position_fault for one in session.calibration().receivers)


def test_a_receiver_heard_alone_is_left_out():
    """One arrival has no difference to another."""
    session = simulated(0, 4)
    arrivals_s = session.arrivals_s.copy()
    arrivals_s[:, 4] = np.nan
    arrivals_s[3, 1:] = np.nan
    found = replace(session, arrivals_s=arrivals_s).calibration()
    assert [one.name for one in found.receivers] == ["r0", "r1", "r2", "r3"]
    assert found.n_sessions == 3
    assert found.get("r4") is None


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"arrivals_s": np.full((4, 5), np.nan)}, "none of 4 sessions"),
        ({"arrivals_s": np.zeros((3, 5))}, r"\(3, 5\)"),
        ({"arrivals_s": np.full((4, 5), np.inf)}, "infinite"),
        ({"sigma_s": np.full((4, 5), -1e-6)}, "-1e-06"),
        ({"sites": [Site("Torino", 45, 7.7)] * 5}, "'Torino'"),
    ],
)
def test_unusable_sessions_are_refused(change, value):
    """The message names what is wrong."""
    session = replace(simulated(0, 4), **change)
    with pytest.raises(LocateError, match=value):
        session.calibration()


def test_a_transmitter_off_the_earth_is_refused():
    """Latitude and longitude are swapped easily."""
    with pytest.raises(LocateError, match="190"):
        Transmitter(45.0, 190.0)
    with pytest.raises(LocateError, match="-77500"):
        Transmitter(50.0, 9.0, frequency_hz=-77_500)


def test_delays_and_spreads_go_to_locate():
    """An unknown receiver has no delay and no more spread than any."""
    session = simulated(2, 20)
    found = session.calibration()
    delays_s, spreads_s = found.delays_at([session.sites[3], Site("new", 45, 7)])
    known = found.get("r3")
    assert delays_s.tolist() == [known.delay_s, 0.0]
    spelt = replace(known, name=unicodedata.normalize("NFD", "Zürich"))
    assert Calibration((spelt,), 1).get("Zürich") == spelt
    assert spreads_s[0] > max(known.spread_s, known.delay_sigma_s)
    assert spreads_s[1] == 0.0


calibrations = st.builds(
    lambda seed, n, moved_m: simulated(seed, n, moved_m=(moved_m, 0.0)).calibration(),
    seeds,
    st.integers(1, 20),
    st.sampled_from([0.0, 8_000.0]),
)


@unhurried
@given(calibrations)
def test_a_calibration_is_read_as_it_was_written(calibration):
    """In a file and in a model's metadata."""
    assert Calibration.from_json(calibration.to_json()) == calibration
    assert Calibration.from_metadata(calibration.metadata()) == calibration


def test_a_model_without_delays_has_no_calibration():
    """Models of levels alone, and all that were made before."""
    assert Calibration.from_metadata({"heimdall.run_id": ""}) is None


SAVED = simulated(0, 20, moved_m=(5_000.0, 0.0)).calibration().to_json()


@given(st.data())
def test_a_damaged_calibration_is_one_error(data):
    """A file that was edited by hand must not become other delays."""
    contents = json.loads(SAVED)
    entry = data.draw(st.sampled_from(contents["receivers"]))
    if entry["position_fault"] and data.draw(st.booleans()):
        entry = entry["position_fault"]
    field = data.draw(st.sampled_from([*entry]))
    wrong = data.draw(st.sampled_from([None, "", [], float("nan"), -float("inf"), "missing"]))
    if wrong == "missing":
        del entry[field]
    else:
        entry[field] = wrong if (field, wrong) != ("position_fault", None) else 7
    with pytest.raises(LocateError):
        Calibration.from_json(json.dumps(contents))


@given(st.integers(0, len(SAVED) - 3))
def test_a_cut_calibration_is_one_error(length):
    """A copy that was interrupted."""
    with pytest.raises(LocateError):
        Calibration.from_json(SAVED[:length])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", "no calibration"),
        ("[1]", "no calibration"),
        ("RIFF", "no calibration"),
        ('{"format": "heimdall-calibration", "version": 2}', "version 2"),
        ('{"format": "geojson", "version": 1}', "'geojson'"),
    ],
)
def test_a_foreign_file_is_refused_by_name(tmp_path, text, value):
    """The wrong file of a folder, or one of a later version."""
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(LocateError, match=value) as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_binary_file_is_refused_by_name(tmp_path):
    """A traceback names no file."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(LocateError, match=str(path)):
            Calibration.load(path)
    (tmp_path / "a.wav").write_bytes(b"RIFF\xff\xfe")
    with pytest.raises(LocateError, match="not text"):
        Calibration.load(tmp_path / "a.wav")


def test_a_file_is_replaced_whole(tmp_path):
    """Nothing is left beside it, and what cannot be written says so."""
    first, second = (simulated(seed, 3).calibration() for seed in (0, 1))
    path = tmp_path / "calibration.json"
    first.save(path)
    second.save(path)
    assert Calibration.load(path) == second
    assert [*tmp_path.iterdir()] == [path]
    with pytest.raises(OSError, match="none"):
        first.save(tmp_path / "none" / "calibration.json")


def test_a_model_file_has_the_contents_of_the_file(tmp_path):
    """A service without our packages reads the same JSON."""
    calibration = simulated(0, 3).calibration()
    calibration.save(tmp_path / "calibration.json")
    ours = json.loads((tmp_path / "calibration.json").read_text())
    assert json.loads(calibration.metadata()[METADATA_KEY]) == ours
    assert ours["version"] == 1
    assert ours["receivers"][0].keys() >= {"name", "delay_s", "delay_sigma_s", "spread_s"}


@pytest.mark.skipif(not LOCARDS.is_dir(), reason="the real recordings are not here")
def test_delays_of_real_receivers_hold_for_other_messages():
    """Learned from every other message of aircraft; the others must fit better for it."""
    with (LOCARDS / "sensors.csv").open() as file:
        sites = [
            Site(row["serial"], *(float(row[name]) for name in ("latitude", "longitude", "height")))
            for row in csv.DictReader(file)
        ]
    channel = {site.name: n for n, site in enumerate(sites)}
    rows, transmitters = [], []
    for path in sorted(LOCARDS.glob("set_*.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                times = np.full(len(sites), np.nan)
                for serial, time_ns, _ in literal_eval(row["measurements"]):
                    times[channel[str(serial)]] = time_ns * 1e-9
                rows.append(times)
                place = (float(row[name]) for name in ("latitude", "longitude", "geoAltitude"))
                transmitters.append(Transmitter(*place, frequency_hz=1.09e9))
    late_s = np.array(rows)[1::2] - travel_s(sites, transmitters[1::2])
    delays_s, _ = calibrate(rows[::2], sites, transmitters[::2]).delays_at(sites)

    def left_s(known_s):
        rest_s = late_s - known_s
        rest_s -= np.nanmedian(rest_s, axis=1)[:, None]
        return np.nanmean(np.abs(rest_s)), np.nanquantile(np.abs(rest_s), 0.9)

    assert np.less(left_s(delays_s), left_s(0.0)).all()


def test_a_delay_of_400_digits_is_damage():
    """JSON has integers that no float can hold."""
    entry = '"name":"a","delay_s":1%s,"delay_sigma_s":0,"spread_s":0,"n_sessions":1' % ("0" * 400)
    text = (
        '{"format":"heimdall-calibration","version":1,"n_sessions":1,'
        f'"receivers":[{{{entry},"position_fault":null}}]}}'
    )
    with pytest.raises(LocateError, match="damaged"):
        Calibration.from_json(text)
