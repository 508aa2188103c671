"""Other transmitters have the position and power of their truth, and do not affect the label."""

import io
from dataclasses import replace

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
)
from heimdall_simulation.drawing import session_truth
from heimdall_simulation.geometry import slant_range_m
from heimdall_simulation.propagation import log_distance_loss_db, propagation_delay_s
from hypothesis import given, settings
from hypothesis import strategies as st

SHORT = replace(NORTHWEST_ITALY, n_samples=4096, mishaps=NO_MISHAPS)
CROWDED = replace(SHORT, interference=Interference(n_interferers=2, offset_hz=12_500.0))
EVERYTHING = replace(
    CROWDED,
    modulations=MODULATIONS,
    channel=Channel(rician_k_db=6.0, doppler_hz=20.0, n_echoes=3),
)
seeds = st.integers(0, 2**32)
few = settings(max_examples=20)


def power_of(recording, frequency_hz, width_hz=9000.0):
    """Power in a channel at this frequency, relative to full scale."""
    i, q = np.load(io.BytesIO(recording.payload)).astype(np.float64) / 32767
    spectrum = np.abs(np.fft.fft((i + 1j * q) * np.hanning(len(i)))) ** 2
    away_hz = np.abs(np.fft.fftfreq(len(i), 1 / 48_000) - frequency_hz)
    return spectrum[away_hz < width_hz].sum() / (len(i) ** 2 * 3 / 8)


def test_an_interferer_has_the_level_of_its_truth_at_each_receiver():
    """Seven levels of one transmitter, each by its own path; the source is far weaker."""
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


@few
@given(seeds)
def test_an_interferers_link_budget_follows_from_its_position(seed):
    """Distance, delay and loss are computed again from position and altitude."""
    for other in session_truth(0, seed, CROWDED).interferers:
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


@few
@given(seeds)
def test_a_receiver_has_one_clock_and_one_mixer_for_all(seed):
    """The offset between two transmitters is the same at every receiver."""
    truth = session_truth(0, seed, CROWDED)
    for other in truth.interferers:
        pairs = [(other.at(mine.station.name), mine) for mine in truth.receptions]
        apart_hz = [there.frequency_offset_hz - mine.frequency_offset_hz for there, mine in pairs]
        assert np.ptp(apart_hz) < 1e-6
        assert abs(abs(apart_hz[0]) - 12_500) < 1500
        assert all(there.clock_error_s == mine.clock_error_s for there, mine in pairs)


@few
@given(seeds)
def test_nuisances_do_not_change_the_source_or_its_levels(seed):
    """They have their own seeds, so runs are comparable session by session."""
    plain, full = (session_truth(3, seed, scenario) for scenario in (SHORT, EVERYTHING))
    assert full.source.position_deg == plain.source.position_deg
    assert [r.signal_dbm for r in full.receptions] == [r.signal_dbm for r in plain.receptions]


@given(st.floats(40, 55), st.floats(55, 70), st.floats(-10, 10), st.floats(10, 30))
def test_the_guard_is_longer_than_any_delay(south, north, west, east):
    """No delay may wrap around; a wide region needs more than Italy's north-west."""
    europe = replace(
        SHORT,
        stations=(Station("A", south, west, 20.0), Station("B", north, east, 20.0)),
        latitude_deg=(south, north),
        longitude_deg=(west, east),
    )
    delays_s = [r.delay_s for i in range(5) for r in session_truth(i, 5, europe).receptions]
    assert europe.guard_s > max(delays_s)
    assert europe.guard_s >= SHORT.guard_s == 2e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_interferers": -1}, "n_interferers is -1; give 0 or more"),
        ({"offset_hz": -1.0}, "offset_hz is -1.0; give 0 or more"),
        ({"radiated_dbm": (5.0, 1.0)}, r"radiated_dbm is \(5.0, 1.0\)"),
    ],
)
def test_invalid_interference_is_rejected(wrong, message):
    """The error gives the setting's name and value."""
    with pytest.raises(DataError, match=message):
        Interference(**wrong)
