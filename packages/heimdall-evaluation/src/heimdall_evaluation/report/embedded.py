"""The evaluation as JSON inside its report, for programs that compare reports.

A report can so be compared wherever it was sent, and cannot disagree with its own figures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_export.serving.metadata import Receiver
from heimdall_models import Region

from heimdall_evaluation.errors import ReportError
from heimdall_evaluation.results import Evaluation, ModelResult

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from heimdall_evaluation.results import ReportContents

__all__ = ["FORMAT", "embed", "read_report"]

FORMAT = 1
_BLOCK = re.compile(r'<script type="application/json" id="evaluation">(.*?)</script>', re.DOTALL)
_ARRAYS = ("truth_deg", "position_deg", "sigma_m", "error_m", "n_present", "snr_db", "correlation")


def embed(contents: ReportContents) -> str:
    """Return the JSON of a report, without any `<` that could end its HTML element."""
    evaluation = contents.evaluation
    report = {
        "format": FORMAT,
        "model": contents.model.name,
        "receivers": [
            {"name": r.name, "latitude_deg": r.latitude_deg, "longitude_deg": r.longitude_deg}
            for r in contents.receivers
        ],
        "region": json.loads(contents.region.to_json()),
        "sessions": {
            "session_ids": evaluation.session_ids,
            "source_names": evaluation.source_names,
            "part": evaluation.part,
            "trained_on": evaluation.trained_on,
            **{name: _listed(getattr(evaluation, name)) for name in _ARRAYS},
        },
    }
    text = json.dumps(report, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c")


def read_report(path: str | os.PathLike[str]) -> ModelResult:
    """Read the evaluation in a report.

    Raises:
        ReportError: It cannot be read, is no report, or is one of another version.
    """
    try:
        block = _BLOCK.search(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"cannot read report {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is no report: it is not text") from error
    if block is None:
        raise ReportError(
            f"{path} holds no evaluation: it is no report, or one of an older version; "
            "make it again with `heimdall evaluate`"
        )
    try:
        report: dict[str, Any] = json.loads(block[1])
        version = report["format"]
        if version == FORMAT:
            return ModelResult(
                name=str(report["model"]),
                evaluation=_evaluation(report["sessions"]),
                receivers=tuple(Receiver(**receiver) for receiver in report["receivers"]),
                region=Region.from_json(json.dumps(report["region"])),
            )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ReportError(f"{path} holds a damaged evaluation ({error}); make it again") from error
    raise ReportError(
        f"{path} is of format {version}, this version reads {FORMAT}; make it again with "
        "`heimdall evaluate`"
    )


def _evaluation(sessions: dict[str, Any]) -> Evaluation:
    columns: dict[str, Any] = {
        name: tuple(sessions[name]) for name in ("session_ids", "source_names")
    }
    for name in _ARRAYS:
        shape = (-1, 2) if name in ("truth_deg", "position_deg", "sigma_m") else (-1,)
        if (values := sessions[name]) is not None:
            numbers = [np.nan if value is None else value for value in values]
            columns[name] = np.array(numbers, dtype=np.float64).reshape(shape)
    trained_on = sessions["trained_on"]
    return Evaluation(
        **columns | {"n_present": columns["n_present"].astype(np.int64)},
        part=sessions["part"],
        trained_on=None if trained_on is None else tuple(trained_on),
    )


def _listed(values: NDArray[Any] | None) -> list[Any] | None:
    """Values as JSON has them: null for NaN."""
    if values is None or values.ndim > 1 or values.dtype.kind != "f":
        return None if values is None else values.tolist()
    return [value if np.isfinite(value) else None for value in values.tolist()]
