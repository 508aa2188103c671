"""`heimdall cache`: what it computes is what training needs, and is computed once."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from heimdall_data import Catalogue
from heimdall_trainer.training_data import load_training_data


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
    environment = os.environ | {
        "HEIMDALL_DATABASE_URL": there.database_url,
        "HEIMDALL_S3_ENDPOINT_URL": there.s3_endpoint_url,
        "HEIMDALL_S3_ACCESS_KEY": there.s3_access_key,
        "HEIMDALL_S3_SECRET_KEY": there.s3_secret_key,
        "HEIMDALL_STATE_DIR": str(there.state_dir),
    }

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "heimdall_trainer", "cache", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
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
    assert said(command("clear")).startswith(f"{total} entries deleted, ")
    assert said(command("status")).startswith("0 entries of 0.0 MB in ")
    assert entries(there) == {}


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        (("--workers", "0"), "--workers is 0; it must be at least 1"),
        (("--cache_gb", "0"), "--cache_gb is 0.0; it must be a positive number"),
        (("--n_receivers", "0"), "--n_receivers is 0; it must be a whole number of at least 1"),
    ],
)
def test_wrong_usage_of_build_ends_with_status_2(command, flags, remedy):
    """As every command's."""
    process = command("build", *flags)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert remedy in err
