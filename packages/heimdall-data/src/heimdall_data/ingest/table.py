"""Rows of text with their line numbers, from a CSV file or a YAML list of sessions.

Old encodings are refused, since guessing one would store wrong names. YAML values are also read
as text: YAML's own types would turn a station `no` into false and times into numbers.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import itertools
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heimdall_features.names import composed

from heimdall_data.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

MAX_CSV_BYTES = 64 * 2**20
_MAX_YAML_BYTES = 8 * 2**20
"""Reading YAML takes 2.4 s per megabyte, CSV a fiftieth of that."""
_MAX_ROWS = 1_000_000
_SEPARATOR = re.compile(r'"?sep *= *([,;|\t]|\\t)"?[,;|\t]*(?=\r?\n|$)', re.IGNORECASE)
"""A first line that tells Excel the separator. Not of the table: Excel does not show it."""


@dataclass(frozen=True, slots=True)
class Row:
    """File and line of a row, and its cells by column, stripped and without blank ones.

    Names are composed (see `heimdall_features.names`); a path is what the file system says.
    """

    where: str
    cells: dict[str, str]

    def __post_init__(self) -> None:
        for column, cell in self.cells.items():
            if column != "file":
                self.cells[column] = composed(cell)


@dataclass(frozen=True, slots=True)
class Table:
    """The first line that names each column, the rows, and the problems of other rows."""

    columns: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def unknown_columns(self, known: Collection[str]) -> list[str]:
        """Return a problem for each column that is not one of these, most being misspelt."""
        problems = []
        for name in [name for name in self.columns if name not in known]:
            near = difflib.get_close_matches(name, [c for c in known if c not in self.columns], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            problems.append(f"{self.columns[name]}: unknown column {name!r}; {hint}")
        return problems


def read_table(path: Path) -> Table:
    """Return the rows of a CSV file, or of a YAML file (by its name).

    Raises:
        IngestError: The file cannot be read, is not UTF-8, is empty, too large or not a table.
    """
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    text = _text(path, _MAX_YAML_BYTES if is_yaml else MAX_CSV_BYTES)
    table = _from_yaml(text, path) if is_yaml else _from_csv(text, path)
    if len(table.rows) > _MAX_ROWS:
        raise IngestError(f"{path}: more than {_MAX_ROWS} rows; divide it into several files")
    if not table.rows and not table.problems:
        raise IngestError(f"{path}: no row; give it a line with the names of columns, and rows")
    return table


def _text(path: Path, max_bytes: int) -> str:
    try:
        if path.exists() and not path.is_file():
            raise IngestError(f"{path}: not a file; give a CSV or YAML file")
        if (size := path.stat().st_size) > max_bytes:
            raise IngestError(
                f"{path}: {size} bytes, more than the limit of {max_bytes}; divide it"
            )
        data = path.read_bytes()
    except OSError as error:
        raise IngestError(f"cannot read {path}: {error.strerror}; correct the path") from error
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode"
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
        bad = -1 if is_utf16 else data.find(b"\0")
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        line = data.count(b"\n", 0, bad) + 1
        raise IngestError(
            f"{path}, line {line}: byte 0x{data[bad]:02x} is not UTF-8 text; save it as UTF-8 (in "
            f'a spreadsheet: "CSV UTF-8")'
        )
    return text


def _from_csv(text: str, path: Path) -> Table:
    if told := _SEPARATOR.match(text):
        # Its line stays, blank, so that lines are counted as an editor does.
        text = text[told.end() :]
    header = next((line for line in text.splitlines() if line.strip()), "")
    lines = _lines(
        text, told[1].replace("\\t", "\t") if told else max(",;\t", key=header.count), path
    )
    where, names = next(lines, ("", []))
    columns = [composed(name.strip().lower()) for name in names]
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise IngestError(f"{where}: two columns {', '.join(twice)}; remove one")
    table = Table({name: where for name in columns if name})
    for where, line in lines:
        pairs = itertools.zip_longest(columns, map(str.strip, line), fillvalue="")
        named = [(name, cell) for name, cell in pairs if cell]
        unnamed = [cell for name, cell in named if not name]
        if unnamed:
            table.problems.append(
                f"{where}: {unnamed[0]!r} is beyond the columns; is there a separator or a decimal "
                f"comma too many?"
            )
        else:
            table.rows.append(Row(where, dict(named)))
    return table


def _lines(text: str, delimiter: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Lines that are not blank, each with file and number; a quoted cell may span several."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    first = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{path}, line {first}", cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise IngestError(f"{path}, line {first}: {error}; is a quote left open?") from error


def _from_yaml(text: str, path: Path) -> Table:
    """A list `sessions`, each with a list `recordings`, as one row per recording."""
    import yaml

    try:
        # Composing gives text with line numbers and creates no objects. Not the C parser:
        # its recursion ends the process, while Python's raises.
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise IngestError(f"{path}{line}: not YAML ({error.problem}); correct it") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise IngestError(f"{path}: not YAML ({error}); correct it") from error
    is_mapping = root is not None and root.id == "mapping"
    top = {str(key.value): value for key, value in root.value} if is_mapping else {}
    sessions = top.get("sessions")
    if sessions is None or sessions.id != "sequence":
        raise IngestError(f"{path}: no list `sessions` at the top; begin with `sessions:`")
    table = Table()
    for session in sessions.value:
        shared, recordings = _cells(session, table, path)
        if recordings is None or recordings.id != "sequence" or not recordings.value:
            table.problems.append(
                f"{_place(session, path)}: a session without a list `recordings`; add its files"
            )
            continue
        for recording in recordings.value:
            if recording.id == "scalar":
                table.columns.setdefault("file", _place(recording, path))
                own = {"file": recording.value.strip()}
            else:
                own, _ = _cells(recording, table, path)
            table.rows.append(Row(_place(recording, path), shared | own))
    return table


# The library's nodes have no types.
def _place(node: Any, path: Path) -> str:  # noqa: ANN401
    return f"{path}, line {node.start_mark.line + 1}"


def _cells(mapping: Any, table: Table, path: Path) -> tuple[dict[str, str], Any]:  # noqa: ANN401
    """The values of a mapping that are text and not blank, and its node `recordings`.

    Columns and mistakes are added to the table.
    """
    if mapping.id != "mapping":
        table.problems.append(f"{_place(mapping, path)}: not values with names (`source: DCF77`)")
        return {}, None
    nodes: dict[str, Any] = {}
    for key, node in mapping.value:
        name = str(key.value).strip().lower()
        if name in nodes:
            table.problems.append(f"{_place(key, path)}: {name!r} is there twice; remove one")
        nodes[name] = node
    recordings = nodes.pop("recordings", None)
    found = {}
    for name, node in nodes.items():
        where = _place(node, path)
        table.columns.setdefault(name, where)
        if node.id != "scalar":
            table.problems.append(f"{where}: {name!r} is not a single value; write one")
        elif node.tag != "tag:yaml.org,2002:null" and node.value.strip():
            found[name] = node.value.strip()
    return found, recordings


def number(text: str) -> float:
    """Return the finite number that a cell holds; anything else is a `ValueError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and "_" not in text:
        return value
    raise ValueError("give a finite number with a decimal point, or leave it blank")
