import dataclasses
import json
import socket
import stat
import subprocess
import sys

import psutil
import pytest
from heimdall_data.embedded.state import (
    LOOPBACK,
    StackSettings,
    exclusive,
    free_ports,
    is_alive,
    is_free,
    load_settings,
    save_settings,
    settings_with_free_ports,
)
from heimdall_data.errors import StackError
from hypothesis import given
from hypothesis import strategies as st

SECRETS = ("postgres_password", "s3_access_key", "s3_secret_key", "signing_key")


@given(st.integers(1, 20))
def test_free_ports_are_free_and_different(count):
    """Two of a server's ten ports being one would keep it from starting."""
    ports = free_ports(count)
    assert len(set(ports)) == count
    assert all(is_free(port) for port in ports)


def test_a_port_that_somebody_listens_on_is_not_free():
    """The law above can fail."""
    with socket.create_server((LOOPBACK, 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_remembered_ports_are_kept_while_they_are_free():
    """A notebook that was given the address yesterday still finds the server today."""
    first = settings_with_free_ports(None)
    assert settings_with_free_ports(first) == first


def test_only_a_port_that_was_taken_meanwhile_is_replaced():
    """Another program on our port must cost us that port and no credentials."""
    first = settings_with_free_ports(None)
    with socket.create_server((LOOPBACK, first.seaweed_ports["filer"])):
        second = settings_with_free_ports(first)
    changed = {
        name for name, port in second.seaweed_ports.items() if first.seaweed_ports[name] != port
    }
    assert changed == {"filer"}
    assert second.postgres_password == first.postgres_password


def test_a_running_server_keeps_the_ports_it_holds():
    """Its ports are not free because of itself, and moving them would lose it."""
    first = settings_with_free_ports(None)
    with socket.create_server((LOOPBACK, first.postgres_port)):
        assert settings_with_free_ports(first, frozenset({"postgres"})) == first


@given(st.integers(0, 65_535), st.dictionaries(st.text(), st.integers()), st.text(), st.text())
def test_settings_come_back_as_they_were_saved(tmp_path_factory, port, ports, password, key):
    """The password on file is the only way into the data beside it."""
    folder = tmp_path_factory.mktemp("state")
    settings = StackSettings(
        postgres_port=port, seaweed_ports=ports, postgres_password=password, s3_secret_key=key
    )
    save_settings(folder, settings)
    assert load_settings(folder) == settings


def test_nobody_else_may_read_the_credentials(tmp_path):
    """The file is private from its first byte, and leaves no copy."""
    save_settings(tmp_path, settings_with_free_ports(None))
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_stacks_have_different_credentials():
    """Generated means generated: no secret is shared between installations."""
    one, other = (dataclasses.asdict(settings_with_free_ports(None)) for _ in range(2))
    assert all(one[name] != other[name] for name in SECRETS)
    assert len({one[name] for name in SECRETS}) == len(SECRETS)


def test_printing_the_settings_shows_no_secret():
    """A traceback or a log line that holds them must not give them away."""
    settings = settings_with_free_ports(None)
    assert not any(getattr(settings, name) in repr(settings) for name in SECRETS)


@given(st.data())
def test_a_damaged_file_is_named_without_its_content(tmp_path_factory, data):
    """What is left of a damaged file may be a password."""
    folder = tmp_path_factory.mktemp("damaged")
    settings = settings_with_free_ports(None)
    save_settings(folder, settings)
    path = folder / "stack.json"
    whole = path.read_text()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_text(data.draw(st.sampled_from([whole[:cut], "[]", '{"hello": "hunter2"}'])))
    with pytest.raises(StackError, match=r"stack\.json") as caught:
        load_settings(folder)
    assert not any(getattr(settings, name) in str(caught.value) for name in SECRETS)
    assert "hunter2" not in str(caught.value)


def test_a_directory_without_a_file_has_no_settings(tmp_path):
    """The first start is no error."""
    assert load_settings(tmp_path) is None


def test_the_file_is_json_that_others_can_read(tmp_path):
    """An operator looks up the port there."""
    settings = settings_with_free_ports(None)
    save_settings(tmp_path, settings)
    known = json.loads((tmp_path / "stack.json").read_text())
    assert known["postgres_port"] == settings.postgres_port


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


def test_who_holds_the_lock_keeps_others_out(tmp_path):
    """Two starts at once on one directory would spoil it."""
    told = r"stack\.lock"
    with (
        exclusive(tmp_path),
        pytest.raises(StackError, match=told),
        exclusive(tmp_path, patience_s=0.1),
    ):
        pytest.fail("both hold it")


def test_the_lock_is_free_again_afterwards(tmp_path):
    """The test above can fail."""
    for _ in range(2):
        with exclusive(tmp_path, patience_s=0.1):
            pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    """The first thing a new user may get wrong, told in one line."""
    (tmp_path / "file").touch()
    told = "file.*HEIMDALL_STATE_DIR"
    with pytest.raises(StackError, match=told), exclusive(tmp_path / "file" / "state"):
        pytest.fail("it was written")
