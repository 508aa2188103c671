"""The evaluation inside its report, as JSON: what a later comparison reads from the page.

The page then says everything twice, for people and for programs, and cannot disagree with itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_models import Region

from heimdall_evaluation.results import Evaluation, Receiver, ReportError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from heimdall_evaluation.report.contents import ReportContents

__all__ = ["FORMAT", "EmbeddedReport", "embed", "read_report"]

FORMAT = 1
_BLOCK = re.compile(r'<script type="application/json" id="evaluation">(.*?)</script>', re.DOTALL)
_ARRAYS = ("truth_deg", "position_deg", "sigma_m", "error_m", "n_present", "snr_db", "correlation")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddedReport:
    """What a report says of a model, as it was evaluated."""

    model: str
    evaluation: Evaluation
    receivers: tuple[Receiver, ...]
    region: Region


def embed(contents: ReportContents) -> str:
    """The JSON of a report, in which nothing can end the element that it is in."""
    evaluation = contents.evaluation
    arrays = {
        name: None if (values := getattr(evaluation, name)) is None else _plain(values)
        for name in _ARRAYS
    }
    told = {
        "format": FORMAT,
        "model": contents.model.name,
        "receivers": [asdict(receiver) for receiver in contents.receivers],
        "region": json.loads(contents.region.to_json()),
        "sessions": {
            "session_ids": evaluation.session_ids,
            "source_names": evaluation.source_names,
            "part": evaluation.part,
            "trained_on": evaluation.trained_on,
            **arrays,
        },
    }
    text = json.dumps(told, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c")


def read_report(path: str | os.PathLike[str]) -> EmbeddedReport:
    """The evaluation in a report.

    Raises:
        ReportError: It cannot be read, is no report, or is one of another version.
    """
    try:
        found = _BLOCK.search(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"no report can be read at {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is no report: it is not text") from error
    if found is None:
        raise ReportError(
            f"{path} holds no evaluation: it is not a report of ours, or of an older version; "
            "make it again with heimdall evaluate"
        )
    return _read(found[1], path)


def _read(text: str, path: str | os.PathLike[str]) -> EmbeddedReport:
    try:
        told: dict[str, Any] = json.loads(text)
        version = told["format"]
        if version == FORMAT:
            return EmbeddedReport(
                model=str(told["model"]),
                evaluation=_evaluation(told["sessions"]),
                receivers=tuple(Receiver(**receiver) for receiver in told["receivers"]),
                region=Region.from_json(json.dumps(told["region"])),
            )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ReportError(f"{path} holds a damaged evaluation ({error}); make it again") from error
    raise ReportError(
        f"{path} is of format {version}, this version reads {FORMAT}; make it again with heimdall "
        "evaluate"
    )


def _evaluation(told: dict[str, Any]) -> Evaluation:
    seen = told["trained_on"]

    def array(name: str, *axes: int) -> NDArray[np.float64]:
        listed = [np.nan if value is None else value for value in told[name]]
        return np.array(listed, dtype=np.float64).reshape(-1, *axes)

    def array_or_none(name: str) -> NDArray[np.float64] | None:
        return None if told[name] is None else array(name)

    return Evaluation(
        session_ids=tuple(str(id_) for id_ in told["session_ids"]),
        source_names=tuple(str(name) for name in told["source_names"]),
        truth_deg=array("truth_deg", 2),
        position_deg=array("position_deg", 2),
        sigma_m=array("sigma_m", 2),
        error_m=array("error_m"),
        n_present=array("n_present").astype(np.int64),
        snr_db=array_or_none("snr_db"),
        correlation=array_or_none("correlation"),
        part=told["part"],
        trained_on=None if seen is None else tuple(seen),
    )


def _plain(values: NDArray[Any]) -> list[Any]:
    """Numbers as JSON has them: none for NaN."""
    if np.ndim(values) == 1 and values.dtype.kind == "f":
        return [value if np.isfinite(value) else None for value in values.tolist()]
    listed: list[Any] = values.tolist()
    return listed
