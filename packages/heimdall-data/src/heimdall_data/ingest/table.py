"""Rows of text with their line numbers, from a CSV file or a YAML list of sessions.

What people send comes from spreadsheets: with a byte order mark, with semicolons or tabs, in
an encoding of the last century. The first two are read and the third is refused by name, since
a guess would store wrong names for good. YAML is taken as text too: its own ideas of what a
value is would make `no` of a station in Norway, and sixty-fold numbers of times.
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

__all__ = ["Row", "Table", "read_table"]

MAX_CSV_BYTES = 64 * 2**20
MAX_YAML_BYTES = 8 * 2**20
"""YAML takes 2.4 s a megabyte, and CSV a fiftieth of that."""
MAX_ROWS = 1_000_000
YAML_ENDS = (".yaml", ".yml")
NULL = "tag:yaml.org,2002:null"


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
    """The rows of a CSV file, or of a YAML file by its name.

    Raises:
        IngestError: The file cannot be read, is not UTF-8, is empty, too large or no table.
    """
    if path.suffix.lower() in YAML_ENDS:
        table = _from_yaml(_text(path, MAX_YAML_BYTES), path)
    else:
        table = _from_csv(_text(path, MAX_CSV_BYTES), path)
    if len(table.rows) > MAX_ROWS:
        raise IngestError(f"{path}: more than {MAX_ROWS} rows; divide it into several files")
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
    number, names = next(lines)
    columns = [name.strip().lower() for name in names]
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise IngestError(f"{path}, line {number}: two columns {', '.join(twice)}; remove one")
    table = Table({name: f"{path}, line {number}" for name in columns if name})
    for number, cells in lines:
        where = f"{path}, line {number}"
        homeless = [
            cell
            for n, cell in enumerate(cells)
            if cell.strip() and (n >= len(columns) or not columns[n])
        ]
        if homeless:
            table.problems.append(
                f"{where}: {homeless[0]!r} is in a column without a name; is a separator too many?"
            )
            continue
        named = zip(columns, map(str.strip, cells), strict=False)
        table.rows.append(Row(where, {name: cell for name, cell in named if cell}))
    return table


def _lines(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not blank, with their number; one in quotes may go on for several."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    first = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise IngestError(
            f"{path}, line {first}: {error}; is a quotation mark left open?"
        ) from error


def _from_yaml(text: str, path: Path) -> Table:
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
    return _YamlTable(path).read(root)


@dataclass(frozen=True, slots=True)
class _YamlTable:
    """A list `sessions`, each with a list `recordings`, as one row a recording."""

    path: Path
    table: Table = field(default_factory=Table)

    def read(self, root: Any) -> Table:  # noqa: ANN401 - the library's nodes have no types
        sessions = self._items(root).get("sessions") if root is not None else None
        if sessions is None or sessions.id != "sequence":
            raise IngestError(f"{self.path}: no list `sessions` at the top; begin with `sessions:`")
        for session in sessions.value:
            items = self._items(session)
            recordings = items.pop("recordings", None)
            shared = self._cells(items)
            if recordings is None or recordings.id != "sequence" or not recordings.value:
                self._problem(session, "a session without a list `recordings`; add its files")
                continue
            for recording in recordings.value:
                self._add(recording, shared)
                if len(self.table.rows) > MAX_ROWS:
                    return self.table
        return self.table

    def _add(self, recording: Any, shared: dict[str, str]) -> None:  # noqa: ANN401
        if recording.id == "scalar":
            self.table.columns.setdefault("file", self._where(recording))
            own = {"file": recording.value.strip()}
        else:
            own = self._cells(self._items(recording))
        self.table.rows.append(Row(self._where(recording), shared | own))

    def _items(self, node: Any) -> dict[str, Any]:  # noqa: ANN401
        if node.id != "mapping":
            self._problem(node, "not names with values, such as `source: DCF77`; write them so")
            return {}
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value).strip().lower()
            if name in found:
                self._problem(key, f"{name!r} is there twice; remove one")
            found[name] = value
        return found

    def _cells(self, items: dict[str, Any]) -> dict[str, str]:
        cells = {}
        for name, node in items.items():
            self.table.columns.setdefault(name, self._where(node))
            if node.id != "scalar":
                self._problem(node, f"{name!r} is no single value; write one")
            elif node.tag != NULL and node.value.strip():
                cells[name] = node.value.strip()
        return cells

    def _problem(self, node: Any, what: str) -> None:  # noqa: ANN401
        self.table.problems.append(f"{self._where(node)}: {what}")

    def _where(self, node: Any) -> str:  # noqa: ANN401
        return f"{self.path}, line {node.start_mark.line + 1}"
