"""The evaluation as JSON inside its report, for programs that compare reports.

So a report can be compared wherever it was sent, without the model or the recordings.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_export.serving.metadata import Receiver
from heimdall_models import Region
from heimdall_models.metrics import Posteriors

from heimdall_evaluation.errors import ReportError
from heimdall_evaluation.results import PAIRS, Evaluation, ModelResult

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from heimdall_evaluation.results import ReportContents

FORMAT = 2
"""Format 1 had no mixtures."""
_BLOCK = re.compile(r'<script type="application/json" id="evaluation">(.*?)</script>', re.DOTALL)
_ARRAYS = (*PAIRS, "error_m", "n_present", "snr_db", "correlation")


def embed(contents: ReportContents) -> str:
    """Return the JSON of a report, without any `<` that could end its HTML element."""
    evaluation = contents.evaluation
    report = {
        "format": FORMAT,
        "model": contents.model.name,
        "receivers": [asdict(receiver) for receiver in contents.receivers],
        "region": json.loads(contents.region.to_json()),
        "sessions": {
            "session_ids": evaluation.session_ids,
            "source_names": evaluation.source_names,
            "part": evaluation.part,
            "trained_on": evaluation.trained_on,
            **{name: _listed(getattr(evaluation, name)) for name in _ARRAYS},
            "posteriors": evaluation.posteriors
            and [part.tolist() for part in evaluation.posteriors],
        },
    }
    return json.dumps(report, separators=(",", ":"), allow_nan=False).replace("<", r"\u003c")


def read_report(path: str | os.PathLike[str]) -> ModelResult:
    """Read the evaluation in a report.

    Raises:
        ReportError: It cannot be read, is not a report, or is one of another version.
    """
    try:
        block = _BLOCK.search(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"cannot read report {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is not a report: it is not text") from error
    if block is None:
        raise ReportError(
            f"{path} holds no evaluation: it is not a report, or one of an older version; "
            "make it again with `heimdall evaluate`"
        )
    try:
        report: dict[str, Any] = json.loads(block[1])
        if (version := report["format"]) in (1, FORMAT):
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
    columns = dict(sessions)
    for name in _ARRAYS:
        if columns[name] is not None:
            shape = (-1, 2) if name in PAIRS else (-1,)
            columns[name] = np.array(columns[name], dtype=np.float64).reshape(shape)  # null is NaN
    if (parts := columns.get("posteriors")) is not None:
        columns["posteriors"] = Posteriors(*(np.array(part, dtype=np.float64) for part in parts))
    columns["n_present"] = np.array(sessions["n_present"], dtype=np.int64)
    for name in ("session_ids", "source_names"):
        columns[name] = tuple(columns[name])
    if columns["trained_on"] is not None:
        columns["trained_on"] = tuple(columns["trained_on"])
    return Evaluation(**columns)


def _listed(values: NDArray[Any] | None) -> list[Any] | None:
    """Values as JSON has them: null for NaN."""
    if values is None:
        return None
    listed = values.astype(object)
    listed[~np.isfinite(values)] = None
    return [*listed.tolist()]
