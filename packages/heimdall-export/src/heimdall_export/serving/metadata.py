"""Metadata of a model file: checked, migrated and read.

Files of every format up to `FORMAT` open: `STEPS` holds one function per step from a format to the
next. A file that does not name its format has format 1; a later format is named in `FORMAT_KEY`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heimdall_features.names import composed
from heimdall_features.outside_json import parsed_json

from heimdall_export.contract import ARRIVAL_KEYS, METADATA_KEYS, RECEIVERS_KEY, REGION_KEY
from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Step = Callable[[dict[str, str]], dict[str, str]]

FORMAT_KEY = "heimdall.format"
PRECISION_KEY = "heimdall.precision"
"""Precision of a file that is not plain float32."""
STEPS: tuple[Step, ...] = ()
"""The first takes metadata of format 1 to format 2, and so on."""
FORMAT = 1 + len(STEPS)
"""Format of the files that this version writes."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A channel of the model: a station at a known place."""

    name: str
    latitude_deg: float
    longitude_deg: float
    altitude_m: float = 0.0
    """Above sea level; 0 if the file lacks it, as files of models of spectrograms alone do."""


def receivers_of(metadata: Mapping[str, str]) -> tuple[Receiver, ...]:
    """The model's channels, in order; `ExportError` if the entry is not a list of them."""
    try:
        return tuple(
            Receiver(
                composed(str(entry["name"])),
                float(entry["latitude"]),
                float(entry["longitude"]),
                float(entry.get("altitude", 0.0)),
            )
            for entry in parsed_json(metadata[RECEIVERS_KEY])
        )
    except (AttributeError, TypeError, KeyError, ValueError, OverflowError) as error:
        raise _invalid(metadata, RECEIVERS_KEY, "a list of name, latitude, longitude") from error


def region_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The area that the model was trained for; `ExportError` if it is not a JSON object."""
    try:
        region: dict[str, Any] = {**parsed_json(metadata[REGION_KEY])}
    except (ValueError, TypeError) as error:
        raise _invalid(metadata, REGION_KEY, "a JSON object") from error
    return region


def _invalid(metadata: Mapping[str, str], key: str, wanted: str) -> ExportError:
    return ExportError(f"the model's {key} is {metadata[key]:.100}; it must be {wanted}")


def migrated(entries: Mapping[str, str], steps: Sequence[Step] = STEPS) -> dict[str, str]:
    """Metadata of any earlier format, in the format that the last step leads to.

    Raises:
        ExportError: The format is newer than that, or not a number.
    """
    newest = 1 + len(steps)
    found = entries.get(FORMAT_KEY, "1")
    # A later format may be followed by the version that wrote it: "2, heimdall-export 0.4.0".
    number, _, writer = found.partition(", ")
    if not re.fullmatch(r"0*[1-9][0-9]{0,9}", number):
        raise ExportError(
            f"the model has {FORMAT_KEY} {found[:100]!r}; it must be a number above 0"
        )
    if int(number) > newest:
        raise ExportError(
            f"the model file has format {number}, this heimdall-export opens formats up to "
            f"{newest}; install {writer or 'a newer heimdall-export'} or later"
        )
    present = dict(entries)
    for step in steps[int(number) - 1 :]:
        present = step(present)
    return present


def require_metadata(entries: Mapping[str, str], *, timed: bool | None = None) -> None:
    """Refuse metadata that lack one of the contract's keys, or hold anything but text.

    Args:
        entries: Metadata of a model file.
        timed: Require (True) or refuse (False) the keys of models that take times of arrival.

    Raises:
        ExportError: Keys are missing or do not belong there, or a value is not text.
    """
    wanted = METADATA_KEYS + ARRIVAL_KEYS if timed else METADATA_KEYS
    if missing := [key for key in wanted if key not in entries]:
        raise ExportError(
            f"the model's metadata lack {', '.join(missing)}; export the model with export_onnx"
        )
    if timed is False and (beside := [key for key in ARRIVAL_KEYS if key in entries]):
        raise ExportError(
            f"the model's metadata have {', '.join(beside)}, but it takes no arrival times; give "
            "arrivals_shape, or leave them out"
        )
    for key, value in entries.items():
        if not isinstance(value, str):
            raise ExportError(f"metadata {key!r} is {value!r}; it must be text")
