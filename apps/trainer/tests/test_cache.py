"""`heimdall cache`: what it computes is what training needs, and is computed once."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from heimdall_data import Catalogue, ObjectStore
from heimdall_data.cache.disk import FeatureCache
from heimdall_trainer.data import load_training_data

pytestmark = pytest.mark.slow


@pytest.fixture
def there(connections, tmp_path):
    """The test stack with a state directory, and so a cache, of this test alone."""
    return replace(connections, state_dir=tmp_path)


@pytest.fixture
def total(there):
    """How many sessions the test stack's catalogue approves of."""
    with Catalogue(there.database_url) as catalogue:
        return len(catalogue.sessions())


@pytest.fixture
def command(there):
    """Starts `heimdall cache` with the connections in its environment."""
    environment = os.environ | there.environment(defaults=False)

    def start(*arguments, **variables):
        return subprocess.Popen(
            [sys.executable, "-m", "heimdall_trainer", "cache", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | variables,
        )

    return start


def said(process):
    """What a command said at its end, which must be a good one."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def entries(there):
    """Which files the cache consists of; one that is written again is another file."""
    found = (there.state_dir / "features").glob("??/*.features")
    return {path.name: path.stat().st_ino for path in found}


RAY = ("--engine", "ray", "--cache_s3", "{bucket}")
RECEIVERS = ("--receivers", "Torino", "Genova", "Milano-Baggio")


def test_training_after_a_build_computes_nothing(there, command, quick, total):
    """A build with other keys than training's would be hours for nothing."""
    line = said(command("build", *RECEIVERS))
    assert re.fullmatch(
        rf"{total} sessions: {total} computed, 0 in the cache before, 0 unusable; "
        rf"{total} entries of \d+\.\d MB in \S+\n",
        line,
    )
    built = entries(there)
    assert len(built) == total
    load_training_data(quick, there)
    assert entries(there) == built


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_build_goes_on_where_it_was(there, command, total, number, status):
    """Days of computing are not lost to a reboot."""
    interrupted = command("build", *RECEIVERS, "--workers", "1")
    while not entries(there):
        assert interrupted.poll() is None
    interrupted.send_signal(number)
    _, err = interrupted.communicate(timeout=60)
    assert interrupted.returncode == status
    assert err == ("heimdall: interrupted\n" if number == signal.SIGINT else "")
    before = entries(there)
    assert 0 < len(before) < total
    line = said(command("build", *RECEIVERS))
    assert f"{total - len(before)} computed, {len(before)} in the cache before" in line
    assert before.items() <= entries(there).items()


def test_status_says_what_there_is_and_clear_deletes_it(there, command, total):
    """Whoever needs the space must find out where it went."""
    said(command("build", *RECEIVERS))
    assert said(command("status")).startswith(f"{total} entries of ")
    (amount,) = json.loads(said(command("status", "--json")))
    assert (amount["place"], amount["n_entries"]) == (str(there.state_dir / "features"), total)
    assert said(command("clear")).startswith(f"{total} entries deleted, ")
    assert said(command("status")).startswith("0 entries of 0.0 MB in ")
    assert entries(there) == {}


def test_a_build_says_which_sessions_cannot_be_used_and_why(there, command):
    """A number of sessions that are lost is no help to whoever is to find them."""
    with Catalogue(there.database_url) as catalogue:
        sessions = catalogue.sessions()
        names = [station.name for station in catalogue.stations()]
    lacking = {
        name: [s.id for s in sessions if name not in {m.station for m in s.measurements}]
        for name in names
    }
    name, ids = max(lacking.items(), key=lambda item: len(item[1]))
    out, err = command("build", "--receivers", name, "--n_receivers", "1").communicate(timeout=120)
    assert f"{len(ids)} unusable" in out
    assert [line.split(" (")[0] for line in err.splitlines()] == [
        f"unusable: session {id_}: it has no recording of {name}" for id_ in ids
    ]
    assert ids


@pytest.fixture
def bucket(there):
    """A shared cache of this test alone."""
    s3 = there.need_s3()
    store = ObjectStore(s3, s3.models_bucket)
    store.ensure_bucket()
    yield f"s3://{s3.models_bucket}/features/{there.state_dir.name}"
    for found in store.list(f"features/{there.state_dir.name}/"):
        store.delete(found.key)


@pytest.fixture
def computes_nothing(monkeypatch):
    """From its call on, reading a recording is an error."""
    name = "heimdall_data.session_reader.SessionReader.read"
    return lambda: monkeypatch.setattr(name, lambda *_: pytest.fail("a recording is read"))


def test_a_trainer_elsewhere_computes_nothing_after_a_shared_build(
    there, command, quick, total, bucket, computes_nothing, tmp_path
):
    """What took one machine a night must not take every other machine a night."""
    line = said(command("build", *RECEIVERS, HEIMDALL_CACHE_S3=bucket))
    assert f"{total} computed" in line
    assert line.endswith(f", and in {bucket}\n")
    _, shared = said(command("status", "--cache_s3", bucket)).splitlines()
    assert re.fullmatch(rf"{total} entries of \d\.\d MB in {bucket}", shared)
    elsewhere = replace(there, state_dir=tmp_path / "elsewhere", cache_s3=bucket)
    computes_nothing()
    load_training_data(quick, elsewhere)
    assert FeatureCache(elsewhere.state_dir / "features").status().n_entries == total


def test_a_build_on_ray_serves_every_trainer_and_is_made_once(
    there, command, quick, total, bucket, computes_nothing
):
    """One cluster for an hour instead of every machine for a night."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ray = ("build", *RECEIVERS, "--engine", "ray", "--workers", "2", "--cache_s3", bucket)
        built = said(command(*ray, RAY_TMPDIR=folder, HOME=folder))
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert any("worker" in path.name for path in files)
        secrets = [there.s3_secret_key.encode(), there.database_url.encode()]
        assert not [path for path in files if any(s in path.read_bytes() for s in secrets)]
    assert f"{total} sessions: {total} computed, 0 in the cache before" in built
    assert built.endswith(f"; in {bucket}\n")
    assert entries(there) == {}
    computes_nothing()
    load_training_data(quick, replace(there, cache_s3=bucket))
    assert FeatureCache(there.state_dir / "features").status().n_entries == total
    again = said(command("build", *RECEIVERS, "--cache_s3", bucket))
    assert f"0 computed, {total} in the cache before" in again


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--cache_s3", "s3://no-such-bucket/x"), "no bucket 'no-such-bucket'"),
        (("--cache_s3", "/a/folder"), "s3://bucket/prefix"),
        ((*RAY, "--ray_address", "127.0.0.1:1"), "no connection to the Ray cluster 127.0.0.1:1"),
        ((*RAY, "--database_url", "{database_url}"), "set HEIMDALL_DATABASE_URL"),
        (("--engine", "ray"), "give --cache_s3 s3://bucket/prefix, or set HEIMDALL_CACHE_S3"),
    ],
)
def test_a_shared_build_that_cannot_work_ends_in_one_line(command, there, bucket, flags, reason):
    """Before anything is computed, and without a password in the line."""
    given = [flag.format(bucket=bucket, database_url=there.database_url) for flag in flags]
    process = command("build", *RECEIVERS, *given)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2 if "give --cache_s3" in reason else 1, "")
    assert reason in err
    assert err.count("\n") == 1
    assert there.database_url not in err
    assert entries(there) == {}


def test_a_build_of_which_nothing_can_be_used_has_failed(there, command, total):
    """A script that builds and then trains must stop here."""
    process = command("build", *RECEIVERS, "--sample_rate_hz", "1e8")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"{total} unusable" in out
    assert f"none of the {total} sessions can be used, the first because: " in err.splitlines()[-1]
