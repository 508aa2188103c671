"""Files written whole or not at all."""

import stat

import pytest
from heimdall_data.atomic import write_whole
from hypothesis import given
from hypothesis import strategies as st


@given(st.binary(max_size=2000), st.binary(max_size=2000), st.booleans())
def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path_factory, old, new, durable):
    """A reader sees the old file or the new one."""
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "file"
    path.write_bytes(old)
    write_whole(path, new, mode=0o600, durable=durable)
    assert path.read_bytes() == new
    assert [*folder.iterdir()] == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path):
    """Here a folder stands where the file should go."""
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"):
        write_whole(tmp_path / "file", b"x")
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]
