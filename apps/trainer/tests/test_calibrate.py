"""`heimdall calibrate`, on small recordings with GNSS stamps and on real ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from heimdall_data.ingest.ingest import ingest
from heimdall_data.transmission import recorded_together
from heimdall_locate import Calibration
from heimdall_simulation import NORTHWEST_ITALY, simulate_sessions
from heimdall_simulation.scenario import NO_MISHAPS
from heimdall_trainer.cli.app import main
from heimdall_trainer.cli.ingest import open_servers
from hypothesis import given, settings
from hypothesis import strategies as st

SHARED = next(
    (p / "shared/data" for p in Path(__file__).resolve().parents if (p / "shared/data").is_dir()),
    Path("nowhere"),
)
SCENARIO = replace(
    NORTHWEST_ITALY,
    recording_format="kiwi_wav",
    mishaps=NO_MISHAPS,
    stations=NORTHWEST_ITALY.stations[1:5],
).distinctly_named()
NAMES = [station.name for station in SCENARIO.stations]


@pytest.fixture(scope="module")
def sessions():
    """Simulated sessions of four receivers, of one source or of several."""
    return [each.new_session for each in simulate_sessions(6, 5, SCENARIO)]


@pytest.fixture
def heimdall(capsys):
    """Run `heimdall calibrate` here, and give its exit status, output and errors."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", *map(str, words)])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def store(folder, session):
    """Write a session's recordings as kiwirecorder does, with the list of the stations."""
    folder.mkdir(exist_ok=True)
    for item in session.measurements:
        name = f"{session.start:%Y%m%dT%H%M%SZ}_145000000_{item.station.name}_iq.wav"
        (folder / name).write_bytes(item.payload)
    lines = [f"{s.name},{s.latitude_deg},{s.longitude_deg}" for s in SCENARIO.stations]
    (folder.parent / "stations.csv").write_text("\n".join(["name,latitude,longitude", *lines]))


def place(session):
    """Flags of a session's transmitter."""
    source = session.source
    return "--latitude", source.latitude_deg, "--longitude", source.longitude_deg


def test_files_of_a_known_transmitter_give_a_calibration(heimdall, tmp_path, sessions):
    """The whole path of an operator: files, a list of stations, and a file for locate."""
    store(tmp_path / "in", sessions[0])
    out = tmp_path / "calibration.json"
    words = (tmp_path / "in", "--stations", tmp_path / "stations.csv", *place(sessions[0]))
    status, printed, said = heimdall(*words, "--output", out)
    assert (status, said) == (0, "")
    assert f"\n1 session; written to {out}" in printed
    found = Calibration.load(out)
    assert sorted(one.name for one in found.receivers) == sorted(NAMES)
    assert found.n_sessions == 1
    for one in found.receivers:
        assert f"{1e6 * one.delay_s:.3f}" in printed
        # Simulated receivers have no delay, and one session cannot tell any.
        assert abs(one.delay_s) < 1e-6
    status, printed, _ = heimdall(*words, "--json")
    assert Calibration.from_json(printed) == found


def test_files_of_several_times_are_several_sessions(heimdall, tmp_path, sessions):
    """A folder holds what an operator recorded over a week."""
    same = [s for s in sessions if s.source == sessions[0].source][:2]
    for session in same:
        store(tmp_path / "in", session)
    status, printed, _ = heimdall(
        tmp_path / "in", "--stations", tmp_path / "stations.csv", *place(same[0]), "--json"
    )
    assert status == 0
    assert Calibration.from_json(printed).n_sessions == len(same)


@settings(max_examples=5, deadline=None)
@given(order=st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_files(tmp_path_factory, sessions, order):
    """The shell sorts names, and receivers start when they like."""
    folder = tmp_path_factory.mktemp("files") / "in"
    for session in sessions[:3]:
        store(folder, session)
    files = sorted(folder.iterdir())
    expected = {frozenset(f for f in files if f.name[:16] == one.name[:16]) for one in files}
    order.shuffle(files)
    assert {frozenset(group) for group in recorded_together(files)} == expected


def test_sessions_of_the_catalogue_are_learned_from(heimdall, empty, sessions, monkeypatch):
    """Approved sessions tell of all transmitters at once."""
    catalogue, objects = open_servers(empty)
    with catalogue:
        catalogue.create_schema()
        ingest(catalogue, objects, sessions, progress=False)
    for name, value in empty.environment(defaults=False).items():
        monkeypatch.setenv(name, value)
    status, printed, _ = heimdall("--json")
    assert status == 0
    assert Calibration.from_json(printed).n_sessions == len(sessions)
    status, printed, said = heimdall("--json", "--sources", sessions[0].source.name)
    assert (status, said) == (0, "")
    assert Calibration.from_json(printed).n_sessions < len(sessions)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (("a.wav",), "--latitude"),
        (("a.wav", "--latitude", "45"), "--longitude"),
        (("--latitude", "45", "--longitude", "7"), "FILE"),
        (("a.wav", "--latitude", "45", "--longitude", "7", "--sources", "x"), "conditions"),
        (("a.wav", "--latitude", "5", "--longitude", "7", "--clock_uncertainty_s", "-1"), "-1"),
        (("a.cf32", "--latitude", "5", "--longitude", "7", "--sample_rate_hz", "0"), "hz is 0"),
        (("a.wav", "--latitude", "5", "--longitude", "7", "--full_scale", "0"), "is 0"),
    ],
)
def test_half_a_request_is_refused(heimdall, words, value):
    """Status 2, before anything is read."""
    status, _, said = heimdall(*words)
    assert status == 2
    assert value in said


def test_recordings_without_clocks_are_refused(heimdall, tmp_path, sessions):
    """The reason of every session is told."""
    store(tmp_path / "in", sessions[0])
    for path in sorted((tmp_path / "in").iterdir())[:2]:
        path.unlink()
    status, _, said = heimdall(
        tmp_path / "in", "--stations", tmp_path / "stations.csv", *place(sessions[0])
    )
    assert status == 1
    assert "none of 1 session has" in said
    assert "2 of 4" in said or "2 of 2" in said


def test_a_folder_for_the_calibration_is_refused_before_the_work(heimdall, tmp_path):
    """Hours of reading must not end with a file that cannot be written."""
    status, _, said = heimdall(
        *(tmp_path / "none.wav", "--latitude", 45, "--longitude", 7, "--output", tmp_path)
    )
    assert status == 1
    assert f"--output {tmp_path} is a folder" in said


def test_a_swapped_transmitter_is_doubted(heimdall, tmp_path, sessions):
    """Its delays would spoil every later position."""
    store(tmp_path / "in", sessions[0])
    source = sessions[0].source
    status, _, said = heimdall(
        *(tmp_path / "in", "--stations", tmp_path / "stations.csv"),
        *("--latitude", source.longitude_deg, "--longitude", source.latitude_deg),
    )
    assert status == 0
    assert "may be wrong, or its --latitude and --longitude swapped" in said


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real recordings are not here")
def test_one_real_session_is_shrunk_strongly(heimdall, tmp_path):
    """Three receivers of one night: their residuals are mostly the night's."""
    (tmp_path / "stations.csv").write_text(
        "name,latitude,longitude\nDF0KL,53.665337,7.282766\nF1JEK,45.779290,0.614638\n"
        "HB9RYZ,47.1721,8.42683\n"
    )
    files = SHARED / "kiwisdr-dcf77-2017"
    status, printed, _ = heimdall(
        *(files, "--stations", tmp_path / "stations.csv", "--json"),
        *("--latitude", 50.0152, "--longitude", 9.0112),
    )
    assert status == 0
    receivers = json.loads(printed)["receivers"]
    assert {one["name"] for one in receivers} == {"DF0KL", "F1JEK", "HB9RYZ"}
    assert all(abs(one["delay_s"]) < one["delay_sigma_s"] for one in receivers)
