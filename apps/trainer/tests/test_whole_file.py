"""Files that other programs read are never found half-written."""

import stat

import pytest
from heimdall_export.atomic import write_whole


def test_a_file_is_replaced_whole_with_the_permissions_asked_for(tmp_path):
    """A shell may read it at any moment, and a secret is nobody else's."""
    path = tmp_path / "stack.env"
    path.write_text("old")
    write_whole(path, "new \udcff\n", mode=0o600)
    assert path.read_text() == "new \\udcff\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path):
    """A folder stands where the file should go."""
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "summary.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
