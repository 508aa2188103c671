"""What a model file says about itself, read from its metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heimdall_export.contract import METADATA_KEYS, RECEIVERS_KEY, REGION_KEY
from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Receiver", "receivers_of", "region_of", "require_metadata"]


@dataclass(frozen=True, slots=True)
class Receiver:
    """A channel of the model: a station at a known place."""

    name: str
    latitude_deg: float
    longitude_deg: float
    altitude_m: float = 0.0
    """Above sea level; 0 if the file does not say, as in models of spectrograms alone."""


def require_metadata(metadata: Mapping[str, str]) -> None:
    """Refuse a file that does not say what every model of ours says.

    Raises:
        ExportError: Keys are missing; the message names them.
    """
    if missing := [key for key in METADATA_KEYS if key not in metadata]:
        raise ExportError(
            f"the model's metadata lack {', '.join(missing)}; export it with export_onnx"
        )


def region_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The area that a model was trained for.

    Raises:
        ExportError: The entry is no JSON object.
    """
    text = metadata[REGION_KEY]
    region = _json(REGION_KEY, text)
    if not isinstance(region, dict):
        raise ExportError(f"the model's {REGION_KEY} is {text:.100}; it must be an object")
    return region


def receivers_of(metadata: Mapping[str, str]) -> tuple[Receiver, ...]:
    """The model's channels, in order.

    Raises:
        ExportError: The entry is no list of name, latitude and longitude.
    """
    text = metadata[RECEIVERS_KEY]
    entries = _json(RECEIVERS_KEY, text)
    try:
        return tuple(
            Receiver(
                str(entry["name"]),
                float(entry["latitude"]),
                float(entry["longitude"]),
                float(entry.get("altitude", 0.0)),
            )
            for entry in entries
        )
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ExportError(
            f"the model's {RECEIVERS_KEY} is {text:.100}; it must list name, latitude and longitude"
        ) from error


def _json(key: str, text: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except ValueError as error:
        raise ExportError(f"the model's {key} is not JSON: {text:.100}") from error
