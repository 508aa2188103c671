"""The embedded Postgres's own program, where it cannot do its work."""

import pytest
from heimdall_data.embedded.postgres import run_initdb
from heimdall_data.errors import StackError

FULL = """
echo 'creating configuration files ... initdb: error: could not write: No space left' >&2
echo 'initdb: removing contents of data directory "x"' >&2
exit 1
"""


def test_what_was_wrong_is_told_and_not_what_was_cleaned_up():
    """That contents are removed sends nobody to look at the disk."""
    with pytest.raises(StackError, match=r"status 1: .*No space left"):
        run_initdb(["sh", "-c", FULL])
