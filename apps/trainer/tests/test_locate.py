"""`heimdall locate`, on small recordings with GNSS stamps and on real ones."""

import gzip
import io
import json
import math
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sigmf
import torch
from heimdall_data import Station, read_recording
from heimdall_data.ingest.ingest import ingest
from heimdall_data.ingest.new_session import session_id
from heimdall_data.recordings.kiwi_wav import HEADER, block_layout
from heimdall_data.recordings.recording import utc_text
from heimdall_data.recordings.sigmf_recording import sigmf_archive
from heimdall_export import export_onnx
from heimdall_features import FeatureConfig, FeatureExtractor
from heimdall_locate import Calibration, ReceiverDelay
from heimdall_locate.sites import geodesic_m
from heimdall_simulation import NORTHWEST_ITALY, simulate_sessions
from heimdall_simulation.scenario import NO_MISHAPS
from heimdall_trainer.cli.app import main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHARED = next(
    (p / "shared/data" for p in Path(__file__).resolve().parents if (p / "shared/data").is_dir()),
    Path("nowhere"),
)
DCF77 = (50.0152, 9.0112)
SCENARIO = replace(
    NORTHWEST_ITALY,
    recording_format="kiwi_wav",
    mishaps=NO_MISHAPS,
    stations=NORTHWEST_ITALY.stations[1:5],
).distinctly_named()
NAMES = [station.name for station in SCENARIO.stations]
FILES = ("position.json", "position.geojson", "position.kml", "position.cot.xml", "map.html")
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real recordings are not here")


def made(seed, number=0):
    """The session of this number in a simulation."""
    return [each.new_session for each in simulate_sessions(number + 1, seed, SCENARIO)][number]


def store(folder, session, names=NAMES, frequency_hz=145_000_000):
    """Write a session's recordings as kiwirecorder does, and give their paths."""
    folder.mkdir(exist_ok=True)
    paths = []
    for item in session.measurements:
        if item.station.name in names:
            name = f"{session.start:%Y%m%dT%H%M%SZ}_{frequency_hz}_{item.station.name}_iq.wav"
            paths.append(folder / name)
            paths[-1].write_bytes(item.payload)
    return paths


def changed(path, change):
    """Apply a change to the blocks of a KiwiSDR file."""
    data = path.read_bytes()
    blocks = np.frombuffer(data[HEADER.size :], block_layout(512)).copy()
    change(blocks)
    path.write_bytes(data[: HEADER.size] + blocks.tobytes())


@pytest.fixture(scope="session")
def session():
    """A simulated session of four receivers."""
    return made(5)


@pytest.fixture
def folder(tmp_path, session, monkeypatch):
    """A folder `in` of its recordings and `stations.csv` beside it; nothing else is configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEIMDALL_DATABASE_URL", raising=False)
    store(tmp_path / "in", session)
    list_stations(tmp_path / "stations.csv")
    return tmp_path


def list_stations(path, *changes):
    """Write the stations as a list, some of their lines changed."""
    lines = [
        f"{s.name},{s.latitude_deg},{s.longitude_deg},{s.altitude_m}" for s in SCENARIO.stations
    ]
    for old, new in changes:
        lines = [line.replace(old, new) for line in lines]
    path.write_text("\n".join(["name,latitude,longitude,altitude_m", *lines]) + "\n")


@pytest.fixture
def heimdall(capsys):
    """Run `heimdall locate` here, and give its exit status, output and errors."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["locate", *map(str, words)])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def away_m(found, truth_deg):
    """Distance of a position.json from the truth."""
    return float(geodesic_m(found["latitude_deg"], found["longitude_deg"], *truth_deg))


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000))
def test_transmitters_are_found_from_files_alone(heimdall, tmp_path, monkeypatch, seed):
    """Neither a model nor a server is there: it is the first thing that a user tries."""
    monkeypatch.chdir(tmp_path)
    session = made(seed)
    for old in tmp_path.glob("in/*"):
        old.unlink()
    store(tmp_path / "in", session)
    list_stations(tmp_path / "stations.csv")
    status, out, _ = heimdall("in", "--stations", "stations.csv", "--json")
    assert status == 0
    found = json.loads(out)
    truth_deg = (session.source.latitude_deg, session.source.longitude_deg)
    assert away_m(found, truth_deg) < 3 * found["ellipse_95"]["semi_major_m"] + 100


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(NAMES), min_size=2, max_size=2))
def test_recordings_of_two_transmissions_give_no_position(heimdall, folder, others):
    """A glob that matches yesterday's files too must not name a place."""
    for path in store(folder / "in", made(5, 1), others):
        old = path.with_name(path.name.replace("T001000Z", "T000000Z"))
        path.replace(old)
    status, out, error = heimdall("in", "--stations", "stations.csv")
    store(folder / "in", made(5))
    assert (status, out) == (1, "")
    assert all(name in error for name in others) or "another time" in error


def test_position_and_files_are_told(heimdall, folder):
    """The answer in a terminal, and the files for maps."""
    status, out, error = heimdall("in", "--stations", "stations.csv", "--output", "out/here")
    assert (status, error) == (0, "")
    assert re.search(
        r"^position +44\.6\d+, 7\.7\d+  \(44° 36\.\d\d' N, 7° 46\.\d\d' E, JN34\w\w\)", out
    )
    for name in ("68 %", "95 %"):
        assert re.search(rf"^{name} +[\d.]+\sm by [\d.]+\sm, bearing \d+°$", out, re.MULTILINE)
    for name in NAMES:
        assert re.search(rf"^{name} +\S[\d.]+\sµs +\S\d\.\d\s\S +\d\d\sdB$", out, re.MULTILINE)
    assert {path.name for path in (folder / "out/here").iterdir()} == set(FILES)
    assert all(f"out/here/{name}" in out for name in FILES)


def test_json_is_position_json(heimdall, folder):
    """Scripts read standard output, which must hold nothing else."""
    status, out, _ = heimdall("in", "--stations", "stations.csv", "--json", "--output", "out")
    assert status == 0
    assert json.loads(out) == json.loads((folder / "out/position.json").read_text())


def test_kiwirecorders_own_positions_are_enough(heimdall, folder):
    """A station list is a chore that its files make superfluous."""
    (folder / "in/gnss_pos").mkdir()
    for station in SCENARIO.stations:
        place = f"{station.latitude_deg:f},{station.longitude_deg:f}"
        text = f"d.x = struct('coord', [{place}], 'host', 'h', 'port', 8073);\n"
        (folder / f"in/gnss_pos/{station.name.upper()}.txt").write_text(text)
    status, out, _ = heimdall("in", "--json")
    assert status == 0
    assert json.loads(out)["ellipse_95"]["semi_major_m"] < 1_000
    swapped = [(f"{s.latitude_deg},{s.longitude_deg}", f"{s.longitude_deg},{s.latitude_deg}")
               for s in SCENARIO.stations]  # fmt: skip
    list_stations(folder / "stations.csv", *swapped)
    status, _, error = heimdall("in", "--stations", "stations.csv")
    assert status == 1
    assert "swapped" in error


def test_nothing_heavy_is_imported_and_nothing_else_is_configured(folder):
    """Whoever has three files must not wait for torch, or install a database."""
    probe = (
        "import sys; from heimdall_trainer.cli import app as cli\n"
        "try: cli.main(['locate', 'in', '--stations', 'stations.csv', '--output', 'out'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'timm', 'psycopg', 'minio', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=folder
    )
    assert finished.stderr == ""
    assert finished.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "status", "value"),
    [
        ("", 2, "give recordings"),
        ("in --session 5", 2, "give recordings"),
        ("--session 5", 2, "'5' is no UUID"),
        ("in --frequency_hz -1", 2, "--frequency_hz is -1"),
        ("in --clock_uncertainty_s 0", 2, "--clock_uncertainty_s is 0"),
        ("in --full_scale nan", 2, "--full_scale is nan"),
        ("in --propagation tunnel", 2, '"tunnel"'),
        ("elsewhere", 1, "there is no elsewhere"),
        ("empty", 1, "empty: no recording"),
        ("stations.csv", 1, "'.csv' is none of"),
        ("in", 1, "0 of 4 .*Torino: its position is unknown"),
        ("in --output stations.csv", 1, "--output stations.csv is a file"),
        ("in --stations none.csv", 1, "none.csv: No such file"),
        ("in --stations header.csv", 1, "header.csv: line 1 must be name,"),
        ("in --stations swapped.csv", 1, "line 2: .*latitude_deg is 151.2"),
        ("in --stations twice.csv", 1, "'Torino' is there twice"),
    ],
)
def test_mistakes_are_told_in_one_line(heimdall, folder, words, status, value):
    """Every message must say which file or flag to correct."""
    (folder / "empty").mkdir()
    (folder / "header.csv").write_text("station,lat,lon\nTorino,45,7\n")
    (folder / "swapped.csv").write_text("name,latitude,longitude\nSydney,151.2,-33.9\n")
    (folder / "twice.csv").write_text("name,latitude,longitude\nTorino,45,7\nTorino,45,7\n")
    found, out, error = heimdall(*words.split())
    assert (found, out) == (status, "")
    assert len(error.splitlines()) == 1
    assert re.search(value, error), error


def test_each_unusable_file_has_its_line(heimdall, folder):
    """Four damaged files must not take four attempts."""
    first, second, third, _ = sorted((folder / "in").iterdir())
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-7])
    (third.parent / third.name.replace("T000000Z", "T000001Z")).write_bytes(third.read_bytes())
    status, _, error = heimdall("in", "--stations", "stations.csv")
    assert status == 1
    *lines, summary = error.splitlines()
    assert [bool(re.search(p.name, line)) for p, line in zip((first, second), lines, strict=False)]
    assert f"both of {third.name.split('_')[2]!r}" in lines[2]
    assert "3 of the recordings" in summary


def test_an_unreadable_file_is_left_out_with_its_reason(heimdall, folder):
    """Four good recordings give a position whatever else is in the folder."""
    (folder / "in/notes.wav").write_text("this is no recording")
    status, out, _ = heimdall("in", "--stations", "stations.csv", "--json")
    assert status == 0
    unused = {r["name"]: r["reason"] for r in json.loads(out)["receivers"] if not r["used"]}
    assert unused == {"notes": "notes.wav: not a WAV file; copy or record it again"}


def test_recordings_of_other_programs_give_the_same_position(heimdall, folder):
    """They have the same samples and clocks; only the files differ."""
    _, before, _ = heimdall("in", "--stations", "stations.csv", "--json")
    raw, packed, large, _ = sorted((folder / "in").iterdir())
    for path, suffix in ((raw, ".cf32"), (packed, ".sigmf.gz"), (large, ".rf64")):
        one = read_recording(path)
        path.unlink()
        other = path.with_name(f"{one.station}{suffix}")
        said = {"start_time": utc_text(one.start_gps_ns), "start_uncertainty_s": one.clock_sigma_s}
        samples = one.iq.tobytes()
        if path == raw:
            rate_hz = one.sample_rate_hz
        elif path == packed:
            samples = gzip.compress(sigmf_archive(one, "recording"))
        else:
            said["sample_rate_hz"] = one.sample_rate_hz
            form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 2, 12_500, 100_000, 8, 32)
            sizes = struct.pack("<4sIQQQI", b"ds64", 28, 0, len(samples), 0, 0)
            head = b"RF64\xff\xff\xff\xffWAVE" + sizes + form + b"data\xff\xff\xff\xff"
            samples = head + samples
        other.write_bytes(samples)
        other.with_suffix(".json").write_text(json.dumps(said | {"frequency_hz": 145_000_000}))
    words = ("in", "--stations", "stations.csv", "--json", "--sample_rate_hz")
    status, after, _ = heimdall(*words, rate_hz)
    assert status == 0
    now, then = json.loads(after), json.loads(before)
    assert all(each["used"] for each in now["receivers"])
    assert away_m(now, (then["latitude_deg"], then["longitude_deg"])) < 10
    assert heimdall(*words, "0")[0] == 2


def as_sigmf_pairs(folder):
    """Store a folder's recordings as SigMF instead."""
    for path in sorted(folder.iterdir()):
        recording = read_recording(path)
        path.unlink()
        archive = io.BytesIO(sigmf_archive(recording, recording.station))
        with tarfile.open(fileobj=archive) as packed:
            for member in packed:
                content = packed.extractfile(member).read()
                (folder / Path(member.name).name).write_bytes(content)


def test_an_odd_annotation_costs_the_metadata_of_its_recording_alone(heimdall, folder):
    """The position does not depend on it."""
    as_sigmf_pairs(folder / "in")
    for name, annotations in ((NAMES[0], [["x"]]), (NAMES[1], None)):
        path = folder / "in" / f"{name}.sigmf-meta"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": annotations}))
    status, out, error = heimdall("in", "--stations", "stations.csv", "--output", "out")
    assert status == 0
    assert out.startswith("position ")
    assert f"{NAMES[0]}: its SigMF metadata are not written with the position" in error
    assert len(error.splitlines()) == 1
    written = {path.name for path in (folder / "out/sigmf").iterdir()}
    assert written == {f"{name}.sigmf-meta" for name in NAMES[1:]}


def test_an_estimate_is_written_back_and_not_learnt_from(heimdall, folder, capsys):
    """A model that learnt from answers would learn their errors; who knows better may say so."""
    as_sigmf_pairs(folder / "in")
    words = ("in", "--stations", "stations.csv", "--output", "out")
    status, out, _ = heimdall(*words)
    assert status == 0
    assert f"out/sigmf/{NAMES[0]}.sigmf-meta" in out
    found = json.loads((folder / "out/position.json").read_text())
    for name in NAMES:
        mine, theirs = (folder / place / f"{name}.sigmf-meta" for place in ("out/sigmf", "in"))
        sigmf.SigMFFile(metadata=mine.read_text()).validate()
        assert json.loads(theirs.read_text())["annotations"] == []
        (annotation,) = json.loads(mine.read_text())["annotations"]
        east, north = annotation["spatial:emitter_location"]["coordinates"]
        assert (north, east) == (found["latitude_deg"], found["longitude_deg"])
        shutil.copy(mine, theirs)
    assert heimdall(*words)[0] == 0
    told = ["ingest", "in", "--source", "X", "--stations", "stations.csv", "--dry-run"]

    def ingested(*more):
        with pytest.raises(SystemExit) as ended:
            main([*told, *more])
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    status, said = ingested()
    assert status == 1
    assert "is an estimate of heimdall locate, and no known position; give --latitude" in said
    status, said = ingested("--latitude", "44.6113", "--longitude", "7.772")
    assert status == 0
    assert "in order: 1 session of 4 recordings" in said
    for path in (folder / "in").glob("*.sigmf-meta"):
        path.write_text(path.read_text().replace("heimdall:estimate", "their:survey"))
    status, said = ingested()
    assert status == 0
    assert f"'X' from the recordings' annotations: {found['latitude_deg']}, " in said


def test_a_catalogue_that_does_not_answer_is_told_and_spared(heimdall, folder, monkeypatch):
    """Whoever has the files and a list of most receivers needs no server."""
    monkeypatch.setenv("HEIMDALL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    status, out, error = heimdall("in", "--stations", "stations.csv")
    assert (status, error) == (0, "")
    (folder / "stations.csv").write_text(
        "\n".join((folder / "stations.csv").read_text().splitlines()[:-1])
    )
    status, out, error = heimdall("in", "--stations", "stations.csv")
    assert status == 0
    assert "no positions from the catalogue: " in error
    assert f"its position is unknown (add {NAMES[-1]},latitude,longitude to the table of" in out


def test_noise_has_no_position(heimdall, folder):
    """Three receivers of noise must not agree on a place."""
    rng = np.random.default_rng(1)
    for path in (folder / "in").iterdir():
        changed(path, lambda b: b.__setitem__("iq", rng.integers(-900, 900, b["iq"].shape)))
    status, out, error = heimdall("in", "--stations", "stations.csv")
    assert (status, out) == (1, "")
    assert "0 of 4 receivers hear one transmission" in error


def test_receivers_without_a_lock_are_named(heimdall, folder):
    """One may be spared of four, and two are too many."""
    first, second, *_ = sorted((folder / "in").iterdir())
    changed(first, lambda blocks: blocks.__setitem__("age_s", 255))
    status, out, _ = heimdall("in", "--stations", "stations.csv")
    assert status == 0
    assert re.search(r"^Coazze .*not used: no GNSS lock", out, re.MULTILINE)
    changed(second, lambda blocks: blocks.__setitem__("age_s", 255))
    status, out, error = heimdall("in", "--stations", "stations.csv")
    assert (status, out) == (1, "")
    assert "Coazze: no GNSS lock" in error


def test_recordings_of_two_frequencies_are_refused(heimdall, folder, session):
    """They are of two transmitters, however alike these sound."""
    (folder / f"in/20260101T000000Z_145000000_{NAMES[0]}_iq.wav").unlink()
    store(folder / "in", session, NAMES[:1], frequency_hz=147_000_000)
    status, _, error = heimdall("in", "--stations", "stations.csv")
    assert status == 1
    assert f"{NAMES[0]} to 147,000,000 Hz" in error


def test_receivers_at_one_place_claim_nothing(heimdall, folder):
    """Times that no place explains must not give one."""
    lines = [f"{name},45.0,7.0" for name in NAMES]
    (folder / "stations.csv").write_text("\n".join(["name,latitude,longitude", *lines]) + "\n")
    status, out, error = heimdall("in", "--stations", "stations.csv", "--json")
    assert (status, out) == (1, "")
    assert "which 10 km do not allow" in error


def test_receivers_on_a_line_see_a_mirror_image(heimdall, tmp_path, monkeypatch):
    """Two places explain the same times, and naming one of them alone would be a guess."""
    monkeypatch.chdir(tmp_path)
    line = tuple(Station(name, 45.0, 7.2 + 0.6 * n, 200.0) for n, name in enumerate(NAMES))
    scenario = replace(SCENARIO, stations=line, latitude_deg=(45.4, 45.6))
    session = next(iter(simulate_sessions(1, 3, scenario))).new_session
    store(tmp_path / "in", session)
    lines = [f"{each.name},{each.latitude_deg},{each.longitude_deg}" for each in line]
    (tmp_path / "line.csv").write_text("\n".join(["name,latitude,longitude", *lines]) + "\n")
    status, out, _ = heimdall("in", "--stations", "line.csv", "--json")
    assert status == 0
    found = json.loads(out)["candidates"]
    truth_deg = (session.source.latitude_deg, session.source.longitude_deg)
    assert len(found) >= 2
    assert 0.3 < found[0]["probability"] < 0.7
    assert min(away_m(one, truth_deg) for one in found) < 3_000


def test_sessions_of_the_catalogue_are_located(
    empty, catalogue, raw_iq_store, heimdall, session, monkeypatch, folder
):
    """Recordings of unknown transmitters wait in the catalogue for exactly this."""
    unknown = replace(
        session, source=replace(session.source, latitude_deg=None, longitude_deg=None)
    )
    ingest(catalogue, raw_iq_store, [unknown], progress=False)
    for name, value in empty.environment(defaults=False).items():
        monkeypatch.setenv(name, value)
    identity = str(session_id(unknown))
    truth_deg = (session.source.latitude_deg, session.source.longitude_deg)
    status, out, error = heimdall("--session", identity, "--json")
    assert (status, error) == (0, "")
    found = json.loads(out)
    assert found["session"] == identity
    assert away_m(found, truth_deg) < 1_000
    status, by_filter, _ = heimdall("--since", "2025-12-31", "--json")
    assert (status, by_filter) == (0, out)
    store(folder / "in", session)
    list_stations(folder / "stations.csv")
    lines = (folder / "stations.csv").read_text().replace(f"{NAMES[0]},", "Other,")
    (folder / "stations.csv").write_text(lines)
    status, _, error = heimdall("in", "--stations", "stations.csv")
    assert status == 0
    assert f"the catalogue's positions are used where nothing else has one: '{NAMES[0]}'" in error
    status, _, error = heimdall("--since", "2026-12-31")
    assert status == 1
    assert "no such session" in error


class Constant(torch.nn.Module):
    """A model that says the same of everything."""

    def __init__(self, position_deg, sigma_m):
        super().__init__()
        self.position_deg = torch.tensor([position_deg])
        self.sigma_m = torch.tensor([[sigma_m, sigma_m]])

    def forward(self, mel_spectrogram):
        """Position and sigma, once for each session."""
        unused = 0 * mel_spectrogram.mean(dim=(1, 2, 3))[:, None]
        return self.position_deg + unused, self.sigma_m + unused


class TwoPlaces(Constant):
    """One that says that there are two places, and which is likelier."""

    def forward(self, mel_spectrogram):
        """Position and sigma as `Constant`; weights, means and covariances."""
        position, sigma = super().forward(mel_spectrogram)
        unused = 0 * mel_spectrogram.mean(dim=(1, 2, 3))[:, None]
        weights = torch.tensor([[0.7, 0.3]]) + unused
        means = torch.tensor([[[45.2, 8.6], [44.63, 7.80]]]) + unused[..., None]
        covariances = torch.tensor([[[6e7, 6e7, 0.0], [6e7, 6e7, 0.0]]]) + unused[..., None]
        return position, sigma, weights, means, covariances


def model_file(path, position_deg, sigma_m, receivers, kind=Constant):
    """Write a model of these receivers that always gives the same answer."""
    config = FeatureConfig(receivers=receivers, sample_rate_hz=48_000.0)
    sites = [{"name": name, "latitude": 45.0, "longitude": 8.0} for name in receivers]
    metadata = {
        **FeatureExtractor(config).metadata(),
        "heimdall.receivers": json.dumps(sites),
        "heimdall.region": json.dumps({"latitude_deg": 45.0, "longitude_deg": 8.0}),
        "heimdall.run_id": "0123abcd",
        "heimdall.created_at": "2026-11-20T12:00:00+00:00",
    }
    return export_onnx(kind(position_deg, sigma_m), path, metadata=metadata)


def test_a_model_s_places_are_weighed_by_the_clocks(heimdall, folder):
    """The likelier place by levels is not where the times are from."""
    receivers = ("TORINO", "Coazze", "Elsewhere")
    model = model_file(folder / "m.onnx", (45.0, 8.3), 50_000.0, receivers, TwoPlaces)
    words = ("in", "--stations", "stations.csv", "--model", model, "--json")
    status, out, _ = heimdall(*words)
    assert status == 0
    assert away_m(json.loads(out), (44.6113, 7.772)) < 1_000
    for path in (folder / "in").iterdir():
        changed(path, lambda blocks: blocks.__setitem__("age_s", 255))
    status, out, _ = heimdall(*words, "--output", folder / "out")
    assert status == 0
    levels = json.loads(out)
    assert [one["probability"] for one in levels["candidates"]] == pytest.approx([0.7, 0.3])
    assert away_m(levels, (45.2, 8.6)) < 10
    drawn = json.loads((folder / "out" / "position.geojson").read_text(encoding="utf-8"))
    places = [each for each in drawn["features"] if each["geometry"]["type"] == "Point"]
    assert sum("probability" in each["properties"] for each in places) == 2
    for name in ("position.kml", "map.html"):
        text = (folder / "out" / name).read_text(encoding="utf-8")
        assert "70" in text
        assert "30" in text


def test_a_model_tells_where_two_clocks_cannot(heimdall, folder):
    """Its levels are the answer of last resort, and else one piece of evidence more."""
    receivers = ("TORINO", "Coazze", "Elsewhere")
    model = model_file(folder / "model.onnx", (44.7, 7.8), 20_000.0, receivers)
    words = ("in", "--stations", "stations.csv", "--model", model, "--json")
    _, out, _ = heimdall(*words)
    both = json.loads(out)
    assert away_m(both, (44.6113, 7.772)) < 1_000
    for path in (folder / "in").iterdir():
        changed(path, lambda blocks: blocks.__setitem__("age_s", 255))
    status, out, _ = heimdall(*words)
    assert status == 0
    levels = json.loads(out)
    assert away_m(levels, (44.7, 7.8)) < 1
    assert levels["ellipse_68"]["semi_major_m"] == pytest.approx(30_200, rel=0.02)
    assert "without arrival times" in levels["termination"]
    stranger = model_file(
        folder / "other.onnx", (44.7, 7.8), 20_000.0, ("Elsewhere", "There", "Yonder")
    )
    status, _, error = heimdall(*words[:3], "--model", stranger)
    assert status == 1
    assert "its receivers are Elsewhere, There" in error


def test_a_calibration_corrects_a_late_receiver(heimdall, folder):
    """A receiver that is always 30 us late would be a liar for ever."""
    late = next((folder / "in").glob("*Torino*"))
    changed(late, lambda blocks: blocks.__setitem__("gps_ns", blocks["gps_ns"] + 30_000))
    known = {name: 30e-6 if name == "Torino" else 0.0 for name in NAMES}
    delays = tuple(
        ReceiverDelay(name=name, delay_s=late_s, delay_sigma_s=1e-8, spread_s=1e-7, n_sessions=50)
        for name, late_s in known.items()
    )
    Calibration(delays, 50).save(folder / "delays.json")
    words = ("in", "--stations", "stations.csv", "--json")
    _, out, _ = heimdall(*words)
    without = json.loads(out)
    status, out, _ = heimdall(*words, "--calibration", "delays.json")
    assert status == 0
    found = json.loads(out)
    assert away_m(found, (44.6113, 7.772)) < 500 < without["ellipse_95"]["semi_major_m"]
    assert "Torino" in {r["name"] for r in without["receivers"] if abs(r["residual_us"]) > 5}


@real
def test_the_transmitter_of_time_is_where_it_stands(heimdall, tmp_path):
    """A real long-wave transmission at three receivers 500 to 1,000 km apart."""
    (tmp_path / "stations.csv").write_text(
        "name,latitude,longitude\nDF0KL,53.665337,7.282766\nF1JEK,45.779290,0.614638\n"
        "HB9RYZ,47.1721,8.42683\nG7UAK,54.0695,-3.1408\n"
    )
    files = [*SHARED.glob("kiwisdr-dcf77-2017/*.wav"), *SHARED.glob("kiwisdr-no-gnss-lock/*.wav")]
    status, out, error = heimdall(*files, "--stations", tmp_path / "stations.csv", "--json")
    assert (status, error) == (0, "")
    found = json.loads(out)
    semi_major_m = found["ellipse_95"]["semi_major_m"]
    assert away_m(found, DCF77) < semi_major_m < 30_000
    assert found["frequency_hz"] == 77_500
    (unused,) = [one for one in found["receivers"] if not one["used"]]
    assert unused["name"] == "G7UAK"
    assert "no GNSS lock" in unused["reason"]
    assert math.isfinite(found["candidates"][0]["covariance_m2"][0][0])


@real
def test_a_swapped_line_is_told_with_the_answer(heimdall, tmp_path):
    """Nothing else shows it: three receivers fit wherever they are said to be."""
    (tmp_path / "stations.csv").write_text(
        "name,latitude,longitude\nDF0KL,53.665337,7.282766\nF1JEK,45.779290,0.614638\n"
        "HB9RYZ,8.42683,47.1721\n"
    )
    files = SHARED / "kiwisdr-dcf77-2017"
    status, out, error = heimdall(files, "--stations", tmp_path / "stations.csv", "--json")
    assert status == 0, error
    assert "'HB9RYZ' is" in error
    assert "'HB9RYZ' is" in json.loads(out)["termination"]
