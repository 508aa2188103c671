"""Columns of the CSV files of public data sets, checked as they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_data.errors import DataError
from heimdall_data.ingest.table import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from heimdall_data.ingest.table import Row, Table


class PublicDataError(DataError):
    """A file of a public data set is not in its format."""


def read_rows(path: Path, columns: Iterable[str]) -> Table:
    """Return the rows of a CSV file that has these columns, and maybe others.

    Raises:
        DataError: The file cannot be read, is not a table, or lacks a column.
    """
    table = read_table(path)
    if missing := [name for name in columns if name not in table.columns]:
        raise PublicDataError(
            f"{path}, line 1: no column {', '.join(missing)}; give a file with it "
            f"(the columns are {', '.join(table.columns)})"
        )
    for problem in table.problems:
        raise PublicDataError(problem)
    return table


def number(row: Row, column: str, low: float, high: float, *, blank: float | None = None) -> float:
    """Return the number in a column, which must be from `low` to `high`.

    Args:
        row: The row.
        column: Its column.
        low: Least number.
        high: Greatest number.
        blank: Stands for an empty cell; None if the cell must not be empty.

    Raises:
        PublicDataError: There is no such number.
    """
    cell = row.cells.get(column)
    if cell is None and blank is not None:
        return blank
    try:
        value = float(cell or "")
    except ValueError:
        value = float("nan")
    if not low <= value <= high:  # nor NaN
        empty = "" if blank is None else ", or leave it empty where it is not known"
        raise PublicDataError(
            f"{row.where}, column {column!r}: {cell!r} is not a number from {low:g} to {high:g}; "
            f"correct it{empty}"
        )
    return value


def place_deg(row: Row, *, blank: float | None = None) -> tuple[float, float]:
    """Return the latitude and longitude of a row; see `number`."""
    return (
        number(row, "latitude", -90, 90, blank=blank),
        number(row, "longitude", -180, 180, blank=blank),
    )
