import dataclasses
import json
import socket
import stat

import pytest
from heimdall_data.embedded.state import (
    LOOPBACK,
    free_ports,
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


def test_settings_come_back_as_they_were_saved(tmp_path):
    """The password on file is the only way into the data beside it."""
    settings = settings_with_free_ports(None)
    save_settings(tmp_path, settings)
    assert load_settings(tmp_path) == settings


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


@pytest.mark.parametrize("content", ["{", "[]", '{"postgres_port": 1}', '{"hello": "hunter2"}'])
def test_a_damaged_file_is_named_without_its_content(tmp_path, content):
    """What is left of a damaged file may be a password."""
    (tmp_path / "stack.json").write_text(content)
    told = r"stack\.json is damaged .* restore it, or delete"
    with pytest.raises(StackError, match=told) as caught:
        load_settings(tmp_path)
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
