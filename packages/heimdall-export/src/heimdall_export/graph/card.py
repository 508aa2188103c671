"""The card of a model file: what it is, in Markdown, for whoever finds the file.

Source: M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from heimdall_features.names import shown

from heimdall_export.atomic import write_whole
from heimdall_export.contract import ARRIVALS, MIXTURE_OUTPUTS, REGISTERED_MODEL
from heimdall_export.errors import ExportError
from heimdall_export.model_files import CARD_SUFFIX, require_small_metadata, weights_beside
from heimdall_export.serving.metadata import (
    PRECISION_KEY,
    migrated,
    receivers_of,
    region_of,
    require_metadata,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

_MARKUP = re.compile(r"[&<>|\\`*_\[\]~$#!@]|:(?=//)|/(?=/)|\.(?!\d)|(?<!\d)\.")
"""Characters that a renderer might take for Markdown, HTML or a link, even inside a table. A dot is
one wherever it is not within a number: some renderers make a link of `example.org`."""
_FIGURES = {
    "error_m_median": "median error, m",
    "error_m_p68": "68 % of the errors are within, m",
    "error_m_p95": "95 % of the errors are within, m",
    "error_m_rmse": "root mean square error, m",
    "accuracy_30m": "share of errors within 30 m",
    "coverage_68": "share of truths in the 68 % ellipse",
    "coverage_95": "share of truths in the 95 % ellipse",
    "ece": "calibration error",
    "nll": "negative log-likelihood, nats",
}
_REGION = {
    "latitude_deg": "latitude of the centre",
    "longitude_deg": "longitude of the centre",
    "scale_m": "half-width, m",
}
_LIMITS = (
    "It knows these receivers, at these places, in this order of channels. One that was moved "
    "makes answers wrong; one that is down may be missing.",
    "It was trained for transmitters in the region. Elsewhere it answers too, and neither the "
    "position nor its ellipses can be relied on.",
    "The figures are of transmitters of the same data that it was not trained on. Other bands, "
    "antennas or powers may be worse: judge it on sessions of your own (`heimdall evaluate`).",
    "An ellipse holds its share of many answers; a single one may be outside.",
)
_LIMIT_OF_TIMES = (
    "Where the output `unexplained` is above 1, the times of arrival are unlike those that it was "
    "trained on; `Predictor` widens the ellipses by that factor."
)


def write_card(
    path: str | os.PathLike[str],
    *,
    metrics: Mapping[str, float] | None = None,
    data: Mapping[str, object] | None = None,
) -> Path:
    """Write the card of a model file beside it, with the ending `.md`; replaces an older one.

    Args:
        path: The ONNX file.
        metrics: Figures by the contract's names, with `val/` and `test/`.
        data: Rows about the data that the model was trained on: name and value.

    Raises:
        ExportError: The file cannot be read or is not a model of ours, or the card cannot be
            written.
    """
    source = Path(path)
    try:
        require_small_metadata(source)
        model = onnx.load(source, load_external_data=False)
        entries = {entry.key: entry.value for entry in model.metadata_props}
        weights = weights_beside(source)
        size = source.stat().st_size + (weights.stat().st_size if weights else 0)
    except OSError as error:
        raise ExportError(f"cannot read the model file {source}: {error.strerror}") from error
    except (DecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"{source} is not an ONNX file") from error
    card = source.with_suffix(CARD_SUFFIX)
    text = _card(source.name, size, model, migrated(entries), metrics or {}, data or {})
    try:
        write_whole(card, text)
    except OSError as error:
        raise ExportError(f"cannot write {card}: {error.strerror}") from error
    return card


def _card(
    name: str,
    size: int,
    model: onnx.ModelProto,
    metadata: Mapping[str, str],
    metrics: Mapping[str, float],
    data: Mapping[str, object],
) -> str:
    ends = {end.name for end in (*model.graph.input, *model.graph.output)}
    timed = ARRIVALS in ends
    require_metadata(metadata, timed=timed)
    region = {_REGION.get(key, key): value for key, value in region_of(metadata).items()}
    takes = "levels and times of arrival" if timed else "levels"
    answer = "a mixture of Gaussians" if MIXTURE_OUTPUTS[0] in ends else "a Gaussian"
    lines = [
        f"# {_text(name)}",
        "",
        f"Position of a radio transmitter from {takes} at {len(receivers_of(metadata))} receivers, "
        f"as {answer}: latitude and longitude in degrees (WGS84), standard deviations in metres.",
        "",
        *_table(
            ("", ""),
            {
                "made": metadata["heimdall.created_at"],
                "by": f"{model.producer_name} {model.producer_version}",
                "MLflow run": metadata["heimdall.run_id"] or "none",
                "size": f"{size / 1e6:.1f} MB",
                "precision": metadata.get(PRECISION_KEY, "float32"),
                "features": f"heimdall-features {metadata['heimdall.features.version']}, "
                f"fingerprint {metadata['heimdall.features.fingerprint']}",
            }.items(),
        ),
        "",
        "## Receivers",
        "",
        *_table(
            ("channel", "name", "latitude", "longitude", "altitude, m"),
            (
                (n, one.name, one.latitude_deg, one.longitude_deg, one.altitude_m)
                for n, one in enumerate(receivers_of(metadata))
            ),
        ),
        "",
        "## Region",
        "",
        *_table(("", ""), region.items()),
        "",
        "## Data",
        "",
        *(_table(("", ""), data.items()) if data else ["Not told."]),
        "",
        "## Figures",
        "",
        *_figures(metrics),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in (*_LIMITS, *([_LIMIT_OF_TIMES] if timed else []))),
        "",
        "## How to load it",
        "",
        "```python",
        "from heimdall_export import Predictor  # pip install heimdall-export",
        "",
        f'model = Predictor("model.onnx")  # or "models:/{REGISTERED_MODEL}@production"',
        "position = model.predict({receiver: (iq, rate_hz), ...})  # IQ as complex64, full scale 1",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _figures(metrics: Mapping[str, float]) -> list[str]:
    sides = {"val": "validation", "test": "test"}
    rows = [
        (about, *(_number(metrics.get(f"{side}/{name}", math.nan)) for side in sides))
        for name, about in _FIGURES.items()
        if any(f"{side}/{name}" in metrics for side in sides)
    ]
    return _table(("", *sides.values()), rows) if rows else ["Not measured."]


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not known"


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    cells = [head, ("---",) * len(head), *(tuple(map(_text, row)) for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def _text(value: object) -> str:
    """A value as text that no renderer takes for anything else, in one line."""
    return _MARKUP.sub(lambda found: f"&#{ord(found.group())};", shown(str(value)))
