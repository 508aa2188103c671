"""Three receivers that heard DCF77 at once, and one without a clock, from file to batch."""

import numpy as np
import pytest
from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.session import Station
from heimdall_data.dataset import HeimdallDataset
from heimdall_data.ingest.ingest import ingest
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.session_files import new_session_from_files
from heimdall_data.recordings.decode import decode
from heimdall_data.session_features import arrivals_of
from heimdall_data.session_reader import align
from heimdall_features import ArrivalConfig, ArrivalExtractor, FeatureConfig

DCF77 = NewSource(
    name="DCF77", latitude_deg=50.0152, longitude_deg=9.0112, frequency_hz=77_500, power_dbm=77
)
STATIONS = (
    Station("DF0KL", 53.665337, 7.282766),
    Station("F1JEK", 45.779290, 0.614638),
    Station("HB9RYZ", 47.1721, 8.42683),
    Station("G7UAK", 54.0695, -3.1408),
)
GROUND_PATHS_M = {"DF0KL": 423_206.6, "F1JEK": 784_078.4, "HB9RYZ": 319_080.1}
"""From DCF77, by PROJ's geodesics on WGS84."""


@pytest.fixture
def dcf77_files(real_recordings):
    """The three files of one transmission."""
    return sorted((real_recordings / "kiwisdr-dcf77-2017").glob("*.wav"))


def decoded(files):
    """By station."""
    recordings = (decode(path.read_bytes(), "kiwi_wav", name=path.name) for path in files)
    return dict(zip((path.name.split("_")[2] for path in files), recordings, strict=True))


def carrier_hz(recording):
    """Offset of the strongest line from the carrier frequency, to a few millihertz."""
    iq = recording.iq * np.hanning(len(recording.iq))
    n_fft = 1 << 21
    power = np.abs(np.fft.fft(iq, n_fft)) ** 2
    return float(np.fft.fftfreq(n_fft, 1 / recording.sample_rate_hz)[np.argmax(power)])


def test_the_three_recordings_cover_the_same_span_of_true_time(dcf77_files):
    """They began 0.4 s apart; sample n of one is not sample n of another."""
    aligned = align(decoded(dcf77_files)).values()
    assert np.ptp([r.start_gps_ns for r in aligned]) < 1e9 / 12_001
    assert np.ptp([r.start_gps_ns + r.duration_s * 1e9 for r in aligned]) < 1e9 / 12_001
    assert [r.duration_s for r in aligned] == pytest.approx([28.97] * 3, abs=0.01)


def test_the_carrier_is_where_the_true_rate_puts_it(dcf77_files):
    """DCF77 is an atomic clock: at 77,500 Hz, where these receivers were tuned."""
    for name, recording in align(decoded(dcf77_files)).items():
        assert recording.center_frequency_hz == DCF77.frequency_hz, name
        assert carrier_hz(recording) == pytest.approx(0, abs=0.02), name


def test_the_second_begins_where_the_carrier_drops(dcf77_files):
    """DCF77 lowers its carrier at every second of UTC, so the signal shows true time."""
    for name, recording in align(decoded(dcf77_files)).items():
        level = np.abs(recording.iq)
        start_s = recording.start_gps_ns % 10**9 * 1e-9
        phase = (start_s + np.arange(len(level)) / recording.sample_rate_hz) % 1
        by_phase = np.bincount((phase * 200).astype(int), level, 200)
        drop = np.diff(np.concatenate([by_phase, by_phase[:1]]))
        falls_s = (np.argmin(drop) + 1) % 200 / 200
        # The path takes 1 to 3 ms, the transmitter's and receiver's filters some more.
        assert falls_s < 0.03, (name, falls_s)


def test_the_minutes_last_second_has_no_mark(dcf77_files):
    """DCF77 leaves out the mark of second 59, which proves week, leap seconds and start."""
    for name, recording in decoded(dcf77_files).items():
        level = np.abs(recording.iq)
        begin = recording.start_utc
        time_s = begin.second + begin.microsecond * 1e-6
        time_s = time_s + np.arange(len(level)) / recording.sample_rate_hz
        second, phase = time_s.astype(int), time_s % 1
        mark = (phase > 0.02) & (phase < 0.09)
        low = {s: np.median(level[mark & (second == s)]) for s in range(second[0] + 1, second[-1])}
        assert max(low, key=low.get) == 59, name
        assert sorted(low.values())[-2] < low[59] / 3, name


def test_a_recording_without_a_lock_serves_for_levels_and_not_for_timing(
    real_recordings, database_url, s3_settings, raw_iq_store
):
    """Half of all amateur receivers have no GNSS, and are still useful."""
    (path,) = (real_recordings / "kiwisdr-no-gnss-lock").glob("*.wav")
    source = NewSource(name="100 kHz", latitude_deg=54.9, longitude_deg=-3.3)
    session = new_session_from_files([path], source, STATIONS)
    with Catalogue(database_url) as catalogue:
        ingest(catalogue, raw_iq_store, [session], progress=False)
        sessions = catalogue.sessions()
    config = FeatureConfig(receivers=("G7UAK", "DF0KL"), sample_rate_hz=12_000)
    usable, exclusions = HeimdallDataset(sessions, config, s3_settings).prepare(progress=False)
    assert exclusions == []
    sample = usable[0]
    assert sample["present"].tolist() == [True, False]
    assert sample["clock_locked"].tolist() == [False, False]
    assert sample["features"][0].max() > config.floor_db + 40


def test_arrival_times_fit_where_the_transmitter_stands(dcf77_files):
    """Checks clocks, weeks, rates and starts: an error in any is over 100 us, 30 km.

    Long waves along the ground are some 30 us later than light.
    """
    aligned = align(decoded(dcf77_files))
    settings = ArrivalConfig(
        receivers=tuple(GROUND_PATHS_M),
        baseline_m=1_050e3,
        sample_rate_hz=12_000,
        bandwidth_hz=5_000,
    )
    rows, why = arrivals_of(ArrivalExtractor(settings), aligned)
    assert (rows[:, 0].tolist(), why) == ([1, 1, 1], "")
    late_us = rows[:, 1] - np.array(list(GROUND_PATHS_M.values())) / 299.792458
    assert np.ptp(late_us) < 100
