"""The sessions of an evaluation as CSV, GeoJSON and KML, for spreadsheets, maps and programs.

Sources: Y. Shafranovich, "CSV Files", RFC 4180 (2005); OWASP, "CSV Injection"; and those of
`heimdall_locate.output`, with which shapes across the antimeridian are cut there.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import math
import unicodedata
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from heimdall_features.names import shown
from heimdall_locate.description import ellipse_text
from heimdall_locate.outlines import ellipse_outline, polygon
from heimdall_locate.output import (
    as_json,
    as_xml,
    child,
    outline_feature,
    outline_shape,
    placemark,
    point_feature,
)
from heimdall_locate.position import Candidate

from heimdall_evaluation.coverage import inside, radius_sigmas
from heimdall_evaluation.quantities import distance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from heimdall_locate.position import Ellipse

    from heimdall_evaluation.results import Evaluation, ReportContents

_FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the start of a formula, in Chinese or Japanese also full-width."""
_DECIMALS = 6
"""Of a degree in maps: a decimetre."""


def session_files(contents: ReportContents) -> dict[str, str]:
    """The sessions, at least one, as text by the ending of its file: `csv`, `geojson` and `kml`.

    Lengths are in metres, positions in degrees, `nll` in nats for positions in km. Maps have the
    truth, the estimate and the 95 % ellipse of each session, and the receivers.
    """
    return {
        "csv": _csv([row for row, _ in _rows(contents.evaluation)]),
        "geojson": as_json({"type": "FeatureCollection", "features": [*_features(contents)]}),
        "kml": _kml(contents),
    }


def compressed(text: str) -> str:
    """A text as base64 of gzip, the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")


def _rows(evaluation: Evaluation) -> Iterator[tuple[dict[str, Any], Ellipse]]:
    """Values of each session by name, None where they are not known, and its 95 % ellipse."""
    scores = evaluation.scores()
    in_68, in_95 = (inside(evaluation, claimed) for claimed in (0.68, 0.95))
    for k, session_id in enumerate(evaluation.session_ids):
        (latitude_deg, longitude_deg), (east_m, north_m) = (
            pair[k].tolist() for pair in (evaluation.position_deg, evaluation.sigma_m)
        )
        correlation = float(evaluation.tilt[k])
        both_m2 = correlation * east_m * north_m
        covariance_m2 = ((east_m**2, both_m2), (both_m2, north_m**2))
        candidate = Candidate(1.0, latitude_deg, longitude_deg, covariance_m2)
        ellipse = candidate.ellipse(radius_sigmas(0.95) ** 2)
        snr_db = float(evaluation.snr_or_nan_db[k])
        yield (
            {
                "session": session_id,
                "transmitter": evaluation.source_names[k],
                "truth_latitude_deg": float(evaluation.truth_deg[k, 0]),
                "truth_longitude_deg": float(evaluation.truth_deg[k, 1]),
                "latitude_deg": latitude_deg,
                "longitude_deg": longitude_deg,
                "error_m": float(evaluation.error_m[k]),
                "sigma_east_m": east_m,
                "sigma_north_m": north_m,
                "correlation": correlation,
                "semi_major_95_m": ellipse.semi_major_m,
                "semi_minor_95_m": ellipse.semi_minor_m,
                "bearing_95_deg": ellipse.bearing_deg,
                "nll": float(scores.nll[k]),
                "smallest_region": float(scores.smallest_region[k]),
                "inside_68": bool(in_68[k]),
                "inside_95": bool(in_95[k]),
                "receivers": int(evaluation.n_present[k]),
                "snr_db": None if math.isnan(snr_db) else snr_db,
                "trained_on": evaluation.trained_on and evaluation.trained_on[k],
            },
            ellipse,
        )


def _csv(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: object) -> object:
    """A value for a spreadsheet, in which a name must not become a formula."""
    if not isinstance(value, str):
        return value
    text = shown(value)
    start = unicodedata.normalize("NFKC", text.lstrip()[:1])
    return f"'{text}" if start in _FORMULA else text


def _features(contents: ReportContents) -> Iterator[dict[str, Any]]:
    for row, ellipse in _rows(contents.evaluation):
        told = {name: shown(v) if isinstance(v, str) else v for name, v in row.items()}
        name = {"name": told["transmitter"]}
        truth = row["truth_longitude_deg"], row["truth_latitude_deg"]
        estimate = row["longitude_deg"], row["latitude_deg"]
        yield point_feature(*truth, {"kind": "truth", **name, "session": told["session"]})
        yield point_feature(*estimate, {"kind": "estimate", **name, **told})
        yield outline_feature(
            _outline(row, ellipse),
            {"kind": "ellipse", **name, "session": told["session"], "probability": 0.95},
        )
    for receiver in contents.receivers:
        place = receiver.longitude_deg, receiver.latitude_deg
        yield point_feature(*place, {"kind": "receiver", "name": shown(receiver.name)})


def _outline(row: Mapping[str, Any], ellipse: Ellipse) -> list[list[list[float]]]:
    rings = polygon(ellipse_outline(row["latitude_deg"], row["longitude_deg"], ellipse))
    return [[[round(x, _DECIMALS), round(y, _DECIMALS)] for x, y in ring] for ring in rings]


def _kml(contents: ReportContents) -> str:
    root = ElementTree.Element("kml", xmlns="http://www.opengis.net/kml/2.2")
    document = child(root, "Document")
    child(document, "name", contents.title)
    for style, colour in (
        ("truth", "ff26b31e"),
        ("estimate", "ffd65724"),
        ("receiver", "ff1e26b3"),
    ):
        icon = child(child(document, "Style", id=style), "IconStyle")
        child(icon, "color", colour)
    ellipse_style = child(document, "Style", id="ellipse")
    child(child(ellipse_style, "LineStyle"), "color", "ffd65724")
    child(child(ellipse_style, "PolyStyle"), "color", "20d65724")
    for row, ellipse in _rows(contents.evaluation):
        folder = child(document, "Folder")
        child(folder, "name", f"{row['transmitter']}, {distance(row['error_m'])}")
        about = f"session {row['session']}: error {distance(row['error_m'])}"
        size = f"95 % ellipse {ellipse_text(ellipse)}"
        place = row["truth_longitude_deg"], row["truth_latitude_deg"]
        _mark(folder, row["transmitter"], "the truth", "truth", place)
        place = row["longitude_deg"], row["latitude_deg"]
        _mark(folder, row["transmitter"], f"{about}, {size}", "estimate", place)
        mark = placemark(folder, "95 %", size, "ellipse")
        outline_shape(mark, _outline(row, ellipse))
    folder = child(document, "Folder")
    child(folder, "name", "Receivers")
    for one in contents.receivers:
        _mark(folder, one.name, "", "receiver", (one.longitude_deg, one.latitude_deg))
    return as_xml(root)


def _mark(
    folder: ElementTree.Element, name: str, about: str, style: str, place: tuple[float, float]
) -> None:
    mark = placemark(folder, name, about, style)
    child(child(mark, "Point"), "coordinates", f"{place[0]:.7f},{place[1]:.7f}")
