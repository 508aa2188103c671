"""Other transmitters are where, and as strong as, the truth says, and the label ignores them."""

import io
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import DataError
from heimdall_simulation import (
    MODULATIONS,
    NO_MISHAPS,
    NORTHWEST_ITALY,
    Channel,
    Interference,
    simulate_session,
    simulate_sessions,
)
from heimdall_simulation.cramer_rao import timing_covariance_m2
from heimdall_simulation.geometry import slant_range_m
from heimdall_simulation.propagation import log_distance_loss_db, propagation_delay_s

SHORT = replace(NORTHWEST_ITALY, n_samples=4096, mishaps=NO_MISHAPS)
CROWDED = replace(SHORT, interference=Interference(n_interferers=2, offset_hz=12_500.0))
EVERYTHING = replace(
    CROWDED,
    modulations=MODULATIONS,
    channel=Channel(rician_k_db=6.0, doppler_hz=20.0, n_echoes=3),
)


def power_of(recording, frequency_hz, width_hz=9000.0):
    """In a channel at this frequency, full scale being 1."""
    i, q = np.load(io.BytesIO(recording.payload)).astype(np.float64) / 32767
    spectrum = np.abs(np.fft.fft((i + 1j * q) * np.hanning(len(i)))) ** 2
    away_hz = np.abs(np.fft.fftfreq(len(i), 1 / 48_000) - frequency_hz)
    return spectrum[away_hz < width_hz].sum() / (len(i) ** 2 * 3 / 8)


def test_an_interferer_is_as_strong_at_each_receiver_as_its_truth():
    """Seven levels of one neighbour, each by its own path; the source is far weaker."""
    others = Interference(n_interferers=1, offset_hz=12_500.0, radiated_dbm=(60.0, 60.0))
    weak = replace(SHORT, radiated_dbm=(-60.0, -60.0), interference=others)
    session = simulate_session(2, 5, weak)
    (other,) = session.truth.interferers
    n_checked = 0
    for recording in session.new_session.measurements:
        there = other.at(recording.station.name)
        if there.snr_db > 20 and there.signal_dbfs < -3:
            found = 10 * np.log10(power_of(recording, there.frequency_offset_hz))
            assert abs(found - there.signal_dbfs) < 0.6
            n_checked += 1
    assert n_checked >= 4


def test_an_interferers_link_budget_adds_up_by_its_own_place():
    """Distance, delay and loss are recomputed here from its position and altitude."""
    truth = simulate_session(0, 5, CROWDED).truth
    for other in truth.interferers:
        for there in other.receptions:
            distance_m = slant_range_m(
                other.source.position_deg,
                other.source.altitude_m,
                there.station.position_deg,
                there.station.altitude_m,
            )
            loss_db = log_distance_loss_db(
                distance_m, other.source.frequency_hz, exponent=3.2, reference_m=1000.0
            )
            lost_db = loss_db + there.shadowing_db + there.fading_db
            assert there.signal_dbm == pytest.approx(other.source.radiated_dbm - lost_db)
            assert there.delay_s == pytest.approx(propagation_delay_s(distance_m))


def test_one_receiver_hears_all_with_one_clock_and_one_mixer():
    """Offsets between two transmitters are the same at every receiver."""
    truth = simulate_session(0, 5, CROWDED).truth
    for other in truth.interferers:
        pairs = [(other.at(mine.station.name), mine) for mine in truth.receptions]
        apart_hz = [there.frequency_offset_hz - mine.frequency_offset_hz for there, mine in pairs]
        assert np.ptp(apart_hz) < 1e-6
        assert abs(abs(apart_hz[0]) - 12_500) < 1500
        assert all(there.clock_error_s == mine.clock_error_s for there, mine in pairs)


def test_the_label_and_the_paths_of_the_source_stay():
    """Nuisances come from seeds of their own: runs compare session by session."""
    plain, full = (simulate_session(3, 5, scenario) for scenario in (SHORT, EVERYTHING))
    assert full.truth.source.position_deg == plain.truth.source.position_deg
    assert full.new_session.source.latitude_deg == plain.new_session.source.latitude_deg
    assert [r.signal_dbm for r in full.truth.receptions] == [
        r.signal_dbm for r in plain.truth.receptions
    ]


def test_everything_at_once_is_the_same_however_many_are_made():
    """The law of the plain scenario holds for every nuisance."""
    assert list(islice(simulate_sessions(10**6, 5, EVERYTHING), 3)) == list(
        simulate_sessions(3, 5, EVERYTHING)
    )


def test_bounds_hold_for_every_modulation():
    """A bound is finite and positive definite whatever is sent."""
    for index in range(12):
        truth = simulate_session(index, 5, EVERYTHING).truth
        covariance = timing_covariance_m2(truth, EVERYTHING)
        assert np.all(np.linalg.eigvalsh(covariance) > 0)


def test_a_wide_region_has_a_longer_guard():
    """No delay may wrap round: 600 km suffice for Italy's north-west, not for Europe."""
    europe = replace(
        SHORT,
        stations=(Station("Oslo", 59.9, 10.7, 20.0), Station("Roma", 41.9, 12.5, 20.0)),
        latitude_deg=(40.0, 60.0),
        longitude_deg=(-5.0, 20.0),
    )
    assert SHORT.guard_s == 2e-3
    longest_s = max(r.delay_s for r in simulate_session(0, 5, europe).truth.receptions)
    assert europe.guard_s > max(longest_s, 2e-3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_interferers": -1}, "-1 interferers; give 0 or more"),
        ({"offset_hz": -1.0}, "offset_hz is -1.0; give 0 or more"),
        ({"radiated_dbm": (5.0, 1.0)}, r"radiated_dbm is \(5.0, 1.0\)"),
    ],
)
def test_interference_that_cannot_be_is_refused(wrong, said):
    """One error that names the value."""
    with pytest.raises(DataError, match=said):
        Interference(**wrong)
