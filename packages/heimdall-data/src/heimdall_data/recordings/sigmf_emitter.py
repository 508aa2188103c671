"""Places of transmitters in the annotations of a SigMF recording.

Only annotations say where a transmitter is: `core:geolocation`, in captures or in `global`, is the
receiver's place. `signal:emitter` describes the transmitter, so its `geolocation` comes before
`spatial:emitter_location` of the same annotation, which may be somebody's measurement. An
annotation with `heimdall:estimate` is an answer of `heimdall locate`, and no known position.

Source: The Signal Metadata Format Specification, extensions `signal` 1.0.0 and `spatial` 1.1.0,
sigmf.org.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heimdall_features.names import composed

from heimdall_data.errors import RecordingError, reason_of
from heimdall_data.recordings.sigmf_recording import geojson_place, sigmf_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable

ESTIMATE_KEY = "heimdall:estimate"
"""Key of an annotation whose place was estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitter:
    """A transmitter's place in an annotation."""

    position_deg: tuple[float, float]
    """Latitude and longitude, WGS84."""
    label: str | None
    """Name of the transmitter, if the annotation has one."""
    is_estimate: bool
    where: str
    """File, number of the annotation and field, for messages."""


def emitters_in(metadata: bytes, name: str) -> tuple[Emitter, ...]:
    """Return the places of transmitters that the annotations of a `.sigmf-meta` state.

    Raises:
        RecordingError: The annotations have another form, or a place is none.
    """
    found = []
    meta = sigmf_metadata(metadata, name)
    where = f"{name}: annotations"
    try:
        for number, said in enumerate(meta.get("annotations") or (), 1):
            where = f"{name}, annotation {number}"
            about = said.get("signal:emitter") or {}
            field, place = "signal:emitter", about.get("geolocation")
            if place is None:
                field, place = "spatial:emitter_location", said.get("spatial:emitter_location")
            if (at := geojson_place(place, field)) is None:
                continue
            label = about.get("label")
            found.append(
                Emitter(
                    position_deg=at[:2],
                    label=None if label is None else composed(str(label)),
                    is_estimate=ESTIMATE_KEY in said,
                    where=f"{where}, {field}",
                )
            )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordingError(f"{where}: {reason_of(error)}; correct the .sigmf-meta") from error
    return tuple(found)


def known_places(emitters: Iterable[Emitter], source: str) -> list[Emitter]:
    """Return those that may be the source: labelled with its name if any is, and no estimate."""
    known = [one for one in emitters if not one.is_estimate]
    named = [one for one in known if one.label and one.label.casefold() == source.casefold()]
    return named or known
