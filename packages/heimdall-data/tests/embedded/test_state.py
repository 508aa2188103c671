"""What a state directory holds, and who may hold it."""

import contextlib
import dataclasses
import json
import socket
import stat
import subprocess
import sys

import psutil
import pytest
from heimdall_data.embedded.server import is_alive
from heimdall_data.embedded.state import (
    LOOPBACK,
    StackSettings,
    exclusive,
    free_ports,
    is_free,
    load_settings,
    save_settings,
    settings_with_free_ports,
)
from heimdall_data.errors import StackError
from hypothesis import given, settings
from hypothesis import strategies as st

SECRETS = ("postgres_password", "s3_access_key", "s3_secret_key", "signing_key")


def ports_of(stack):
    """All ports by name."""
    return {"postgres": stack.postgres_port, **stack.seaweed_ports}


PORTS = list(ports_of(settings_with_free_ports(None)))


@given(st.integers(1, 20))
def test_free_ports_are_free_and_different(count):
    """Two of a server's ten ports being one would keep it from starting."""
    ports = free_ports(count)
    assert len(set(ports)) == count
    assert all(is_free(port) for port in ports)


@settings(max_examples=30)
@given(st.sets(st.sampled_from(PORTS)), st.frozensets(st.sampled_from(["postgres", "s3"])))
def test_only_ports_that_somebody_else_took_are_replaced(taken, running):
    """A notebook that was given the address yesterday still finds the server today."""
    first = settings_with_free_ports(None)
    ports = ports_of(first)
    with contextlib.ExitStack() as held:
        for name in taken:
            held.enter_context(socket.create_server((LOOPBACK, ports[name])))
        second = settings_with_free_ports(first, running)
    ours = {name for name in PORTS if ("postgres" if name == "postgres" else "s3") in running}
    changed = {name for name, port in ports_of(second).items() if ports[name] != port}
    assert changed == taken - ours
    assert all(getattr(second, name) == getattr(first, name) for name in SECRETS)


@given(st.integers(0, 65_535), st.dictionaries(st.text(), st.integers()), st.text(), st.text())
def test_settings_come_back_as_they_were_saved(tmp_path_factory, port, ports, password, key):
    """The password on file is the only way into the data beside it, and ours alone to read."""
    folder = tmp_path_factory.mktemp("state")
    assert load_settings(folder) is None
    saved = StackSettings(
        postgres_port=port, seaweed_ports=ports, postgres_password=password, s3_secret_key=key
    )
    save_settings(folder, saved)
    assert load_settings(folder) == saved
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["postgres_port"] == port  # an operator looks it up there


def test_two_stacks_have_different_credentials():
    """No secret is shared between installations, or shown by a traceback."""
    one, other = (dataclasses.asdict(settings_with_free_ports(None)) for _ in range(2))
    assert all(one[name] != other[name] for name in SECRETS)
    assert len({one[name] for name in SECRETS}) == len(SECRETS)
    assert not any(one[name] in repr(StackSettings(**one)) for name in SECRETS)


@given(st.data())
def test_a_damaged_file_is_named_without_its_content(tmp_path_factory, data):
    """What is left of a damaged file may be a password."""
    folder = tmp_path_factory.mktemp("damaged")
    saved = settings_with_free_ports(None)
    save_settings(folder, saved)
    path = folder / "stack.json"
    whole = path.read_text()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_text(data.draw(st.sampled_from([whole[:cut], "[]", '{"hello": "hunter2"}'])))
    with pytest.raises(StackError, match=r"stack\.json") as caught:
        load_settings(folder)
    assert not any(getattr(saved, name) in str(caught.value) for name in SECRETS)
    assert "hunter2" not in str(caught.value)


@given(st.floats(3, 1e6))
def test_another_process_under_the_same_number_is_not_the_owner(earlier_s):
    """After a reboot the number on file belongs to somebody else."""
    me = psutil.Process()
    assert is_alive(f"{me.pid} {me.create_time()}")
    assert not is_alive(f"{me.pid} {me.create_time() - earlier_s}")


def test_a_process_owns_until_it_ends():
    """The watchdog acts on this, and on nothing else."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        token = f"{process.pid} {psutil.Process(process.pid).create_time()}"
        assert is_alive(token)
    assert not is_alive(token)


@given(st.text() | st.sampled_from(["{}", "12", "x 1.0", "1 x", "1 2 3", "-4 1.0"]))
def test_a_token_that_is_none_owns_nothing(token):
    """A half-written file of a killed process must not keep a stack for ever."""
    assert not is_alive(token)


def test_who_holds_the_lock_keeps_others_out_and_then_lets_them_in(tmp_path):
    """Two starts at once on one directory would spoil it."""
    held = pytest.raises(StackError, match=r"stack\.lock")
    with exclusive(tmp_path), held, exclusive(tmp_path, patience_s=0.1):
        pytest.fail("both hold it")
    with exclusive(tmp_path, patience_s=0.1):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    """The first thing a new user may get wrong, told in one line."""
    (tmp_path / "file").touch()
    told = "file.*HEIMDALL_STATE_DIR"
    with pytest.raises(StackError, match=told), exclusive(tmp_path / "file" / "state"):
        pytest.fail("it was written")
