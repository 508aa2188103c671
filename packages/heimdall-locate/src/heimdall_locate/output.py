"""A position as files for people and programs: JSON, GeoJSON, KML, Cursor on Target, SigMF, map.

Sources: H. Butler et al., "The GeoJSON Format", RFC 7946 (2016); T. Wilson (ed.), "OGC KML",
version 2.2.0, OGC 07-147r2 (2008); MITRE, "Cursor on Target" event schema, version 2.0, and its
`shape` detail (2003 to 2005); The Signal Metadata Format Specification, v1.2, and its extension
`spatial` 1.1.0, sigmf.org.
"""

import html
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from xml.etree import ElementTree

from heimdall_features.names import json_text, shown

from heimdall_locate.atomic import write_whole
from heimdall_locate.description import (
    coordinates_text,
    ellipse_text,
    placed_receivers,
    probability_text,
    receiver_text,
    shown_candidates,
    shown_ellipses,
    title,
)
from heimdall_locate.errors import LocateError
from heimdall_locate.map.page import map_html
from heimdall_locate.outlines import Ring, ellipse_outline, polygon
from heimdall_locate.position import Candidate, Position
from heimdall_locate.sites import Site

COT_VALID_FOR: Final = timedelta(days=1)
"""Time until a map of events hides this one: a transmitter found from a recording does not soon
leave, but the recording says nothing about the day after."""
COT_UNKNOWN: Final = "9999999.0"
"""An unknown height or error, as in Cursor on Target."""
ESTIMATE_KEY: Final = "heimdall:estimate"
"""Key of a SigMF annotation that tells an estimate from a known position."""
_GENERATOR = "heimdall locate"


def write_position(
    position: Position,
    sites: Sequence[Site],
    folder: str | os.PathLike[str],
    *,
    time: datetime | None = None,
    metadata: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    warn: Callable[[str], object] = lambda _: None,
) -> tuple[Path, ...]:
    """Write position.json, position.geojson, position.kml, position.cot.xml and map.html.

    Files of these names are replaced. A file is complete or not there, and where one cannot be
    written, none is replaced.

    Args:
        position: What was found.
        sites: Receivers' places; names as in `position.receivers`.
        folder: Made if it does not exist.
        time: Of the event in position.cot.xml; now if None.
        metadata: Of SigMF recordings, by name; `sigmf/{name}.sigmf-meta` has them with the
            position. Such a file is only replaced if it holds an estimate, and no annotation
            of others that the metadata lack.
        warn: Called with a sentence if metadata cannot have the position, and are not written.

    Returns:
        Paths of the files, in the order above.

    Raises:
        LocateError: A file cannot be written, or is somebody else's; the message names it.
    """
    time = time or datetime.now(UTC)
    here = Path(folder)
    texts = {
        here / "position.json": as_json(position.to_dict()),
        here / "position.geojson": as_json(geojson(position, sites)),
        here / "position.kml": kml(position, sites),
        here / "position.cot.xml": cot(position, time),
        here / "map.html": map_html(position, sites),
    }
    try:
        here.mkdir(parents=True, exist_ok=True)
        for name, each in metadata.items():
            path = here / "sigmf" / f"{name}.sigmf-meta"
            try:
                text = as_json(sigmf(position, each))
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
                warn(
                    f"{name}: its SigMF metadata are not written with the position, because their "
                    f"captures, annotations or extensions have another form; correct them"
                )
                continue
            path.parent.mkdir(exist_ok=True)
            if path.exists():
                _require_replaceable(path, text)
            texts[path] = text
        write_whole(texts)
    except OSError as error:
        raise LocateError(f"cannot write {error.filename}: {error.strerror}") from error
    except LocateError:
        raise
    except ValueError as error:
        raise LocateError(f"cannot write {str(here)!r}: {error}") from error
    return tuple(texts)


def _require_replaceable(path: Path, text: str) -> None:
    """Raise `LocateError` unless a SigMF file is an earlier answer and nothing of others is lost.

    Args:
        path: The file.
        text: What shall replace it.
    """
    try:
        # A pipe would never end.
        before = json.loads(path.read_bytes() if path.is_file() else "")["annotations"]
        theirs, kept = (
            {json.dumps(one, sort_keys=True) for one in some if not _is_estimate(one)}
            for some in (before, json.loads(text)["annotations"])
        )
        problem = "" if any(map(_is_estimate, before)) else "holds no estimate"
        if theirs - kept:
            problem = problem or "has annotations that the recording lacks"
    except (ValueError, TypeError, KeyError, RecursionError):
        problem = "is no SigMF metadata with an estimate"
    if problem:
        raise LocateError(
            f"{path} is there and {problem}, so it is not replaced; move it away, or give another "
            f"folder"
        )


def _is_estimate(annotation: object) -> bool:
    return isinstance(annotation, dict) and ESTIMATE_KEY in annotation


def geojson(position: Position, sites: Sequence[Site]) -> dict[str, Any]:
    """The position as a GeoJSON FeatureCollection.

    Every candidate is a point, with two polygons for its ellipses, and every receiver a point.
    `kind` tells them apart: `candidate`, `ellipse` or `receiver`.
    """
    features = []
    for rank, one in enumerate(shown_candidates(position), start=1):
        properties: dict[str, Any] = {
            "kind": "candidate",
            "name": _name(rank, one),
            "candidate": rank,
            "probability": one.probability,
        }
        if rank == 1:
            properties |= {
                "frequency_hz": position.frequency_hz,
                "propagation": shown(position.propagation),
                "termination": shown(position.termination),
            }
        features.append(point_feature(one.longitude_deg, one.latitude_deg, properties))
        for probability, ellipse in shown_ellipses(position, rank):
            rings = polygon(ellipse_outline(one.latitude_deg, one.longitude_deg, ellipse))
            properties = {
                "kind": "ellipse",
                "name": f"{100 * probability:.0f} % of candidate {rank}",
                "candidate": rank,
                "probability": probability,
                "semi_major_m": ellipse.semi_major_m,
                "semi_minor_m": ellipse.semi_minor_m,
                "bearing_deg": ellipse.bearing_deg,
            }
            features.append(outline_feature(rings, properties))
    for site, result in placed_receivers(position, sites):
        properties = {
            "kind": "receiver",
            "name": shown(site.name),
            "used": result.used,
            "reason": shown(result.reason),
            "residual_us": result.residual_us,
            "sigma_us": result.sigma_us,
            "snr_db": result.snr_db,
        }
        features.append(point_feature(site.longitude_deg, site.latitude_deg, properties))
    return {"type": "FeatureCollection", "features": features}


def kml(position: Position, sites: Sequence[Site]) -> str:
    """The position as a KML 2.2 document, such as Google Earth opens."""
    root = ElementTree.Element("kml", xmlns="http://www.opengis.net/kml/2.2")
    document = child(root, "Document")
    child(document, "name", title(position))
    child(document, "description", position.termination)
    # Colours are opacity, blue, green, red.
    for style, colour, icon in (
        ("candidate", "ffd65724", "paddle/blu-circle"),
        ("used", "ff1e26b3", "shapes/triangle"),
        ("unused", "ff8d857d", "shapes/triangle"),
    ):
        element = child(document, "Style", id=style)
        picture = child(element, "IconStyle")
        child(picture, "color", "ffffffff" if style == "candidate" else colour)
        address = f"http://maps.google.com/mapfiles/kml/{icon}.png"
        child(child(picture, "Icon"), "href", address)
    for style, opacity in (("ellipse-68", "40"), ("ellipse-95", "20")):
        element = child(document, "Style", id=style)
        outline, area = child(element, "LineStyle"), child(element, "PolyStyle")
        child(outline, "color", "ffd65724")
        child(outline, "width", "2")
        child(area, "color", f"{opacity}d65724")
    for rank, one in enumerate(shown_candidates(position), start=1):
        folder = child(document, "Folder")
        child(folder, "name", _name(rank, one))
        about = f"{coordinates_text(one)}, probability {probability_text(one.probability)}"
        mark = placemark(folder, _name(rank, one), about, "candidate")
        child(
            child(mark, "Point"), "coordinates", f"{one.longitude_deg:.7f},{one.latitude_deg:.7f}"
        )
        for probability, ellipse in shown_ellipses(position, rank):
            percent = f"{100 * probability:.0f}"
            mark = placemark(folder, f"{percent} %", ellipse_text(ellipse), f"ellipse-{percent}")
            around = ellipse_outline(one.latitude_deg, one.longitude_deg, ellipse)
            outline_shape(mark, polygon(around))
    folder = child(document, "Folder")
    child(folder, "name", "Receivers")
    for site, result in placed_receivers(position, sites):
        style = "used" if result.used else "unused"
        mark = placemark(folder, site.name, receiver_text(result), style)
        child(
            child(mark, "Point"),
            "coordinates",
            f"{site.longitude_deg:.7f},{site.latitude_deg:.7f}",
        )
    return as_xml(root)


def cot(position: Position, time: datetime) -> str:
    """The first candidate as a Cursor on Target event, such as ATAK reads.

    `ce` is the radius of the circle around the ellipse of 95 %, in metres, which is more than the
    one sigma that the schema suggests for errors: who goes there searches the whole circle. The
    ellipse itself is in the event's shape, and further candidates are in its remarks.

    Args:
        position: What was found.
        time: Of the event; with a time zone.
    """
    first, ellipse = position.candidates[0], position.ellipse_95
    seed = f"{position.frequency_hz} {first.latitude_deg:.6f} {first.longitude_deg:.6f}"
    event = ElementTree.Element(
        "event",
        version="2.0",
        uid=f"heimdall-{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        type="a-u-G",  # of unknown affiliation, on the ground
        how="m-f",  # by a machine, fused from several sensors
        time=_zulu(time),
        start=_zulu(time),
        stale=_zulu(time + COT_VALID_FOR),
    )
    child(
        event,
        "point",
        lat=f"{first.latitude_deg:.7f}",
        lon=f"{first.longitude_deg:.7f}",
        hae=COT_UNKNOWN,
        ce=f"{ellipse.semi_major_m:.1f}",
        le=COT_UNKNOWN,
    )
    detail = child(event, "detail")
    child(detail, "contact", callsign=title(position))
    child(
        child(detail, "shape"),
        "ellipse",
        major=f"{ellipse.semi_major_m:.1f}",
        minor=f"{ellipse.semi_minor_m:.1f}",
        angle=f"{ellipse.bearing_deg:.1f}",
    )
    remarks = [f"95 % ellipse: {ellipse_text(ellipse)}.", position.termination]
    remarks += [
        f"{_name(rank, one)}: {coordinates_text(one)}."
        for rank, one in enumerate(shown_candidates(position)[1:], start=2)
    ]
    child(detail, "remarks", " ".join(filter(None, remarks)))
    return as_xml(event)


def sigmf(position: Position, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """SigMF metadata of a recording with the position: an annotation for each candidate.

    `spatial:emitter_location` is the place. `heimdall:estimate` has its probability and its
    covariance, and tells programs that learn from known positions that this is none. Annotations
    of an earlier answer are left out.
    """
    first, *_ = metadata["captures"] or [{}]
    begin = first.get("core:sample_start", 0)
    annotations = [one for one in metadata.get("annotations") or () if not _is_estimate(one)]
    for rank, one in enumerate(shown_candidates(position), 1):
        ellipses = "; ".join(
            f"{100 * held:.0f} %: {ellipse_text(ellipse)}"
            for held, ellipse in shown_ellipses(position, rank)
        )
        annotations.append({
            "core:sample_start": begin,
            "core:label": "position estimate",
            "core:comment": f"{_name(rank, one)}, not a known position. {ellipses}",
            "core:generator": _GENERATOR,
            "spatial:emitter_location": {
                "type": "Point",
                "coordinates": [one.longitude_deg, one.latitude_deg],
            },
            ESTIMATE_KEY: {
                "probability": one.probability,
                "covariance_m2": one.covariance_m2,
                "termination": position.termination,
            },
        })  # fmt: skip
    about = dict(metadata["global"])
    extensions = [*(about.get("core:extensions") or ())]
    declared = {each["name"] for each in extensions}
    extensions += [
        {"name": name, "version": version, "optional": True}
        for name, version in (("spatial", "1.1.0"), ("heimdall", "1.0.0"))
        if name not in declared
    ]
    # Sorted by their first sample, as the format requires; the sort is stable.
    annotations.sort(key=lambda one: one["core:sample_start"])
    return {
        **metadata,
        "global": about | {"core:extensions": extensions},
        "annotations": annotations,
    }


def _name(rank: int, candidate: Candidate) -> str:
    return f"Candidate {rank}, {probability_text(candidate.probability)}"


def point_feature(
    longitude_deg: float, latitude_deg: float, properties: dict[str, Any]
) -> dict[str, Any]:
    """A place as a GeoJSON Feature."""
    geometry = {"type": "Point", "coordinates": [longitude_deg, latitude_deg]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def outline_feature(rings: list[Ring], properties: dict[str, Any]) -> dict[str, Any]:
    """A shape, as `polygon` returns it, as a GeoJSON Feature."""
    geometry = (
        {"type": "Polygon", "coordinates": rings}
        if len(rings) == 1
        else {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
    )
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def outline_shape(mark: ElementTree.Element, rings: list[Ring]) -> None:
    """Add a shape, as `polygon` returns it, to a placemark of KML."""
    shape = child(mark, "MultiGeometry")
    for ring in rings:
        edge = child(child(shape, "Polygon"), "outerBoundaryIs")
        text = " ".join(f"{x:.7f},{y:.7f}" for x, y in ring)
        child(child(edge, "LinearRing"), "coordinates", text)


def child(
    parent: ElementTree.Element, tag: str, text: str = "", **attributes: str
) -> ElementTree.Element:
    """A new last child; control characters, most of which XML cannot hold, are escaped."""
    legal = {key: shown(value) for key, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, legal)
    element.text = shown(text) or None
    return element


def placemark(
    parent: ElementTree.Element, name: str, about: str, style: str
) -> ElementTree.Element:
    """A new placemark of KML, without a place yet."""
    element = child(parent, "Placemark")
    child(element, "name", name)
    child(element, "description", html.escape(about))  # a viewer shows it as HTML
    child(element, "styleUrl", f"#{style}")
    return element


def as_xml(root: ElementTree.Element) -> str:
    """A document as the text of its file; changes its indentation."""
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def as_json(value: object) -> str:
    """JSON as the text of its file; null for numbers that are not finite."""
    return json_text(_finite(value), indent=1) + "\n"


def _finite(value: object) -> object:
    """The value with null for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _zulu(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
