"""Standard output and error of a command, which may lose their disk, reader or terminal.

What a command says must not end what it does. A stream that cannot be written drops what it is
given and keeps the first error, which the command's exit status or its last line tells.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_FORGIVING: dict[str, _Forgiving] = {}


class _Forgiving(io.FileIO):
    """An open file that takes whatever it is given."""

    error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it, or drop what cannot be written."""
        left = memoryview(data).cast("B")
        n_bytes = left.nbytes
        try:
            while left:
                if (n_written := super().write(left)) is None:
                    # A pipe that does not block, and whose reader is slow.
                    select.select((), (self,), ())
                else:
                    left = left[n_written:]
        except OSError as error:
            self.error = self.error or error
        return n_bytes


def forgive() -> None:
    """Make this process's standard streams forgiving, where no program has put its own in place.

    Characters that an encoding lacks are escaped. A stream that was closed from the start leads
    nowhere: otherwise the next file that is opened would get its number, and what others print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream: io.TextIOWrapper | None = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        raw = _FORGIVING[name] = _Forgiving(descriptor, "wb", closefd=False)
        is_unbuffered = stream is not None and stream.write_through
        text = io.TextIOWrapper(
            raw if is_unbuffered else io.BufferedWriter(raw),
            encoding=stream.encoding if stream else "utf-8",
            errors="backslashreplace",
            line_buffering=stream is not None and stream.line_buffering,
            write_through=is_unbuffered,
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def error_of(name: Literal["stdout", "stderr"]) -> OSError | None:
    """The first error of a stream, or None if all was written."""
    return _FORGIVING[name].error if name in _FORGIVING else None
