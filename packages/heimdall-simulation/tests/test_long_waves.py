"""Simulated long waves pass through decoding and arrival times like recorded ones."""

from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.recordings.decode import decode
from heimdall_features import ArrivalConfig, ArrivalExtractor, ClockedRecording
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, Propagation, simulate_session

STATIONS = (
    Station("North Sea", 53.7, 7.3),
    Station("Atlantic", 45.8, 0.6),
    Station("Alps", 47.2, 8.4),
)
SCENARIO = replace(
    NORTHWEST_ITALY.with_stations("central-europe", STATIONS),
    frequency_hz=(77_500.0, 77_500.0),
    raster_hz=1.0,
    radiated_dbm=(75.0, 75.0),
    modulations=("am",),
    bandwidth_hz=2_000.0,
    sample_rate_hz=12_000.0,
    n_samples=12_000 * 10,
    recording_format="kiwi_wav",
    receiver_delay_sigma_s=2e-5,
    mishaps=NO_MISHAPS,
).with_propagation(Propagation.usual("ground_wave"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_arrivals_of_long_waves_are_those_of_the_truth(seed):
    """Ranges of 1,000 km, slow ground, delays of receivers: all must be in the samples."""
    session = simulate_session(0, seed, SCENARIO)
    heard = {}
    for made in session.new_session.measurements:
        file = decode(made.payload, "kiwi_wav", name=made.station.name, sample_rate_hz=None)
        heard[made.station.name] = ClockedRecording(file.iq, file.sample_rate_hz)
    config = ArrivalConfig(
        receivers=tuple(station.name for station in STATIONS),
        baseline_m=1_100e3,
        sample_rate_hz=12_000.0,
    )
    found_us = ArrivalExtractor(config)(heard)[:, 1]
    true_us = 1e6 * np.array(
        [r.delay_s + r.receiver_delay_s + r.clock_error_s for r in session.truth.receptions]
    )
    assert np.ptp(true_us) > 100
    assert np.ptp(found_us - true_us) < 5
