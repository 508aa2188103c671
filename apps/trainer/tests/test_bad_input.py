"""What a user does wrong, at the command line, on real servers: one line, and nothing half-done."""

import contextlib
import io
import os
import pickle
from dataclasses import replace

import numpy as np
import psycopg
import pytest
import torch
from heimdall_data import Catalogue, ObjectStore
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing.fixtures import GENOVA, TORINO, new_recording, new_session

pytestmark = pytest.mark.slow

STATIONS = "name,latitude,longitude\nTorino,45.044,7.672\nGenova,44.395,8.956\n"
SOURCE = ("--source", "Beacon", "--latitude", "45", "--longitude", "8", "--frequency-hz", "145e6")


@pytest.fixture
def heimdall(heimdall_here, empty):
    """Run `heimdall` on an empty catalogue; its status, and the one line that it prints."""
    with Catalogue(empty.database_url) as catalogue:
        catalogue.create_schema()

    def run(*words, **variables):
        finished = heimdall_here(*words, connections=empty, **variables)
        lines = finished.stderr.strip().splitlines()
        assert len(lines) == 1, finished.stderr
        assert "Traceback" not in finished.stdout
        return finished.returncode, lines[0]

    return run


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HEIMDALL_S3_SECRET_KEY": "wrong"}, "HEIMDALL_S3_ACCESS_KEY"),
        ({"HEIMDALL_S3_ENDPOINT_URL": "http://127.0.0.1:1"}, "127.0.0.1:1"),
        ({"HEIMDALL_RAW_IQ_BUCKET": "no-such-bucket"}, "'no-such-bucket'"),
        ({"HEIMDALL_DATABASE_URL": "postgresql://u:geheim@127.0.0.1:1/x"}, "127.0.0.1:1"),
        ({"HEIMDALL_DATABASE_URL": "mysql://x"}, "HEIMDALL_DATABASE_URL"),
        ({"HEIMDALL_STATE_DIR": "/proc/heimdall"}, "HEIMDALL_STATE_DIR"),
    ],
)
def test_what_cannot_be_reached_is_named_with_its_variable(heimdall, variables, said):
    """An operator must know from one line which of six settings is wrong."""
    status, line = heimdall("train", "--backbone", "convnext_atto", **variables)
    assert status == 1
    assert said in line
    assert "geheim" not in line


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--backbone", "test_convnext", "--resume_training", "--checkpoint", "evil.ckpt"),
        ("train", "--backbone", "test_convnext", "--resume_training", "--checkpoint_dir", "."),
        ("train", "--ensemble", "2", "--resume_training", "--checkpoint_dir", "."),
        ("train", "--backbone", "test_convnext", "--export_only", "--checkpoint", "evil.ckpt"),
        ("train", "--backbone", "test_convnext", "--weights", "evil.ckpt"),
        ("train", "--backbone", "test_convnext", "--weights", "bare.pth"),
        ("evaluate", "evil.ckpt"),
        ("compare", "evil.ckpt", "other.ckpt"),
        ("models", "benchmark", "evil.ckpt"),
        ("locate", "a.wav", "--model", "evil.ckpt"),
    ],
)
def test_code_in_a_checkpoint_is_refused_and_not_run(words, connections, heimdall_here, tmp_path):
    """A file that a stranger sends to be judged must not be a program on our machine."""
    ran = tmp_path / "ran"

    class Malice:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    (tmp_path / "member-1").mkdir()
    for name in ("evil.ckpt", "other.ckpt", "member-1/last.ckpt"):
        torch.save({"state_dict": {}, "heimdall_models": {}, "x": Malice()}, tmp_path / name)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Malice()))
    told = heimdall_here(*words, connections=connections)
    assert told.returncode == 1
    assert not ran.exists()
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("heimdall: ")]
    assert "run code" in line or "cannot load evil.ckpt" in line, line
    assert "unexpected" not in line
    with contextlib.suppress(AttributeError):  # this test can fail: such a file is a program
        torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert ran.exists()


def test_a_wrong_database_password_is_said_and_not_shown(heimdall, database_url):
    """Logs are shared."""
    wrong = psycopg.conninfo.conninfo_to_dict(database_url) | {"password": "geheim"}
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**wrong)
    status, line = heimdall("train", HEIMDALL_DATABASE_URL=url)
    assert status == 1
    assert "password" in line
    assert "geheim" not in line


def test_an_empty_catalogue_names_the_filter_and_the_ways_to_fill_it(heimdall):
    """The first thing a new operator meets; later it is the filter that is too narrow."""
    status, line = heimdall("train", "--backbone", "convnext_atto")
    assert status == 1
    assert "no approved and completed session" in line
    assert "`heimdall ingest`" in line
    said = heimdall("train", "--min-snr-db", "90", "--stations", "Torino", "Genova")[1]
    assert "session with {'stations': ['Torino', 'Genova'], 'min_s" in said


def test_a_misspelt_station_or_receiver_suggests_the_right_one(heimdall, connections):
    """A station too few in a filter would go unnoticed, and train on less."""
    s3 = connections.need_s3()
    there = {
        "HEIMDALL_DATABASE_URL": connections.need_database(),
        "HEIMDALL_RAW_IQ_BUCKET": s3.raw_iq_bucket,
    }
    small = ("train", "--backbone", "test_convnext")
    status, said = heimdall(*small, "--stations", "Torino", "Genoa", **there)
    assert status == 2
    assert "the catalogue has no station 'Genoa'; did you mean 'Genova'?" in said
    status, said = heimdall(*small, "--receivers", "Torino", "Genoa", **there)
    assert "'Genoa'; did you mean 'Genova'?" in said


@pytest.fixture
def three_sessions(s3_settings, database_url):
    """Three sessions of one transmitter, heard by two receivers; the store of their recordings."""
    store = ObjectStore(s3_settings, s3_settings.raw_iq_bucket)
    heard = tuple(new_recording(station, n_samples=8192) for station in (TORINO, GENOVA))
    times = ("morning", "noon", "evening")
    sessions = [replace(new_session(name), measurements=heard) for name in times]
    with Catalogue(database_url) as catalogue:
        ingest(catalogue, store, sessions, progress=False)
    return store


def test_too_few_sources_for_the_split_are_counted(heimdall, three_sessions):
    """Training and testing on the same transmitter would mean nothing."""
    status, line = heimdall("train", "--n_receivers", "2", "--backbone", "convnext_atto")
    assert status == 1
    assert "(there are 1)" in line


def test_more_unusable_sessions_than_max_excluded_end_the_run(heimdall, three_sessions):
    """A model of what happens to be left is not the model that was asked for."""
    lost = [found.key for found in three_sessions.list() if "Torino" in found.key]
    three_sessions.delete(lost[0])
    train = ("train", "--receivers", "Torino", "--backbone", "convnext_atto")
    status, said = heimdall(*train)
    assert status == 1
    assert "1 of 3 sessions cannot be used, more than --max_excluded 0.1 allows" in said
    assert "no object 'sessions/" in said
    assert "(there are 1)" in heimdall(*train, "--max_excluded", "0.4")[1]


def test_an_unknown_backbone_suggests_the_nearest(heimdall):
    """A misspelt name must never train something else."""
    status, line = heimdall("train", "--backbone", "convnext_ato")
    assert status == 1
    assert "convnext_ato" in line
    assert "convnext_atto" in line


def numpy_file(values):
    """The bytes of a NumPy file."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


GOOD = numpy_file(np.full(4096, 0.1 + 0.1j, np.complex64))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[:-100], id="truncated"),
        pytest.param(numpy_file(np.array([{"a": 1}])), id="pickled"),
        pytest.param(numpy_file(np.full(4096, np.nan, np.complex64)), id="NaN"),
    ],
)
def test_a_bad_recording_is_refused_and_nothing_is_stored(
    heimdall, s3_settings, database_url, tmp_path, payload
):
    """A recording that is learnt from for years must be one."""
    (tmp_path / "stations.csv").write_text(STATIONS)
    (tmp_path / "Torino.npy").write_bytes(payload)
    (tmp_path / "Genova.npy").write_bytes(GOOD)
    told = ("--stations", "stations.csv", "--start", "2026-03-01T12:00", "--sample-rate-hz", "48e3")
    status, line = heimdall("ingest", "Genova.npy", "Torino.npy", *SOURCE, *told)
    assert status == 1
    assert "Torino.npy" in line
    assert ObjectStore(s3_settings, s3_settings.raw_iq_bucket).list() == []
    with psycopg.connect(database_url) as connection:
        for table in ("recording_sessions", "measurements", "known_sources"):
            assert connection.execute(f"select count(*) from heimdall.{table}").fetchone() == (0,)


@pytest.mark.parametrize(
    "contents", [None, b"", b"not a checkpoint", b"\x80\x04\x95ceverything evil."], ids=str
)
def test_what_is_no_checkpoint_is_refused_before_any_work(heimdall, tmp_path, contents):
    """`--checkpoint` takes files from anywhere; they must not be able to run code."""
    if contents is not None:
        (tmp_path / "x.ckpt").write_bytes(contents)
    status, line = heimdall("train", "--export_only", "--checkpoint", "x.ckpt")
    assert status in {1, 2}
    assert "x.ckpt" in line


def test_a_taken_port_does_not_matter(tmp_path):
    """The embedded servers remember their ports; another program may have taken them since."""
    import json
    import socket

    from heimdall_data.embedded import EmbeddedStack

    with EmbeddedStack(tmp_path):
        pass
    settings = json.loads((tmp_path / "stack.json").read_text())
    with (
        socket.create_server(("127.0.0.1", settings["postgres_port"])),
        EmbeddedStack(tmp_path) as stack,
    ):
        assert stack.status().running


@pytest.mark.parametrize("flag", ["--summary", "--weights"])
def test_a_path_that_leads_nowhere_is_refused_before_training(heimdall, connections, flag):
    """An hour of training must not end in `no such directory`."""
    there = connections.environment(defaults=False) | {"HEIMDALL_STATE_DIR": ""}
    status, line = heimdall(
        "train", flag, "no/such/run.json", "--backbone", "convnext_atto", **there
    )
    assert status in {1, 2}
    assert "no/such" in line
