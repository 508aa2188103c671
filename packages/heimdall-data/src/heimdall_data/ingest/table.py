"""Rows of text with their line numbers, from a CSV file or a YAML list of sessions.

Spreadsheets write a byte order mark, semicolons or tabs, and encodings of the last century. The
first two are read; the third is refused, since a guess would store wrong names for good. YAML
is taken as text too: its own types would make `no` of a station in Norway, and sixty-fold
numbers of times.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heimdall_data.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MAX_CSV_BYTES", "Row", "Table", "read_table"]

MAX_CSV_BYTES = 64 * 2**20
_MAX_YAML_BYTES = 8 * 2**20
"""YAML takes 2.4 s a megabyte, and CSV a fiftieth of that."""
_MAX_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line, or one recording of a YAML session."""

    where: str
    """File and line, for messages."""
    cells: dict[str, str]
    """By column; without those that are blank, and without blanks around them."""


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a file."""

    columns: dict[str, str] = field(default_factory=dict)
    """Where each column was first named."""
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Rows that are left out, each with its line."""


def read_table(path: Path) -> Table:
    """Return the rows of a CSV file, or of a YAML file by its name.

    Raises:
        IngestError: The file cannot be read, is not UTF-8, is empty, too large or no table.
    """
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    text = _text(path, _MAX_YAML_BYTES if is_yaml else MAX_CSV_BYTES)
    table = _from_yaml(text, path) if is_yaml else _from_csv(text, path)
    if len(table.rows) > _MAX_ROWS:
        raise IngestError(f"{path}: more than {_MAX_ROWS} rows; divide it into several files")
    if not table.rows and not table.problems:
        raise IngestError(f"{path}: no row below the names of the columns; add at least one")
    return table


def _text(path: Path, max_bytes: int) -> str:
    try:
        if path.exists() and not path.is_file():
            raise IngestError(f"{path}: not a file; give a CSV or YAML file")
        if (size := path.stat().st_size) > max_bytes:
            raise IngestError(
                f"{path}: {size} bytes, more than the {max_bytes} that are read; divide it, or "
                f"write CSV in place of YAML"
            )
        data = path.read_bytes()
    except OSError as error:
        raise IngestError(f"cannot read {path}: {error.strerror}; correct the path") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise IngestError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as "
            f'UTF-8 (in a spreadsheet: "CSV UTF-8")'
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise IngestError(f"{path}, line {line}: a NUL character; save the file as UTF-8 text")
    if not text.strip():
        raise IngestError(f"{path}: empty; give it a line with the names of the columns, and rows")
    return text


def _from_csv(text: str, path: Path) -> Table:
    header = next(line for line in text.splitlines() if line.strip())
    lines = _lines(text, max(",;\t", key=header.count), path)
    where, names = next(lines)
    columns = [name.strip().lower() for name in names]
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise IngestError(f"{where}: two columns {', '.join(twice)}; remove one")
    table = Table({name: where for name in columns if name})
    for where, cells in lines:
        unnamed = [
            cell
            for n, cell in enumerate(cells)
            if cell.strip() and (n >= len(columns) or not columns[n])
        ]
        if unnamed:
            table.problems.append(
                f"{where}: {unnamed[0]!r} is in a column without a name; is there a separator "
                f"too many?"
            )
            continue
        named = zip(columns, map(str.strip, cells), strict=False)
        table.rows.append(Row(where, {name: cell for name, cell in named if cell}))
    return table


def _lines(text: str, delimiter: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Lines that are not blank, with their place; one in quotes may go on for several."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    first = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{path}, line {first}", cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise IngestError(
            f"{path}, line {first}: {error}; is a quotation mark left open?"
        ) from error


def _from_yaml(text: str, path: Path) -> Table:
    """A list `sessions`, each with a list `recordings`, as one row a recording."""
    import yaml

    try:
        # Composed and not constructed: text with lines, and no object is ever made of it. Not
        # in C, whose recursion ends the process where Python's raises.
        root: Any = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise IngestError(f"{path}{line}: not YAML ({error.problem}); correct it") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise IngestError(f"{path}: not YAML ({error}); correct it") from error
    table = Table()

    def where(node: Any) -> str:  # noqa: ANN401 - the library's nodes have no types
        return f"{path}, line {node.start_mark.line + 1}"

    def items(node: Any) -> dict[str, Any]:  # noqa: ANN401
        """Nodes by name; mistakes are noted."""
        if node.id != "mapping":
            table.problems.append(
                f"{where(node)}: not names with values, such as `source: DCF77`; write them so"
            )
            return {}
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value).strip().lower()
            if name in found:
                table.problems.append(f"{where(key)}: {name!r} is there twice; remove one")
            found[name] = value
        return found

    def cells(named: dict[str, Any]) -> dict[str, str]:
        """Text by column; mistakes are noted."""
        found = {}
        for name, node in named.items():
            table.columns.setdefault(name, where(node))
            if node.id != "scalar":
                table.problems.append(f"{where(node)}: {name!r} is not a single value; write one")
            elif node.tag != "tag:yaml.org,2002:null" and node.value.strip():
                found[name] = node.value.strip()
        return found

    sessions = items(root).get("sessions") if root is not None else None
    if sessions is None or sessions.id != "sequence":
        raise IngestError(f"{path}: no list `sessions` at the top; begin with `sessions:`")
    for session in sessions.value:
        named = items(session)
        recordings = named.pop("recordings", None)
        shared = cells(named)
        if recordings is None or recordings.id != "sequence" or not recordings.value:
            table.problems.append(
                f"{where(session)}: a session without a list `recordings`; add its files"
            )
            continue
        for recording in recordings.value:
            if recording.id == "scalar":
                table.columns.setdefault("file", where(recording))
                own = {"file": recording.value.strip()}
            else:
                own = cells(items(recording))
            table.rows.append(Row(where(recording), shared | own))
            if len(table.rows) > _MAX_ROWS:
                return table
    return table
