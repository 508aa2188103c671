"""Whether a version may go into production: with figures, and not when it is worse.

Figures compare only when they were measured on the same sessions, so a version carries a hash
of those it was tested on beside its test metrics.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heimdall_export.registry.version import RegisteredVersion

__all__ = ["evaluation_tags", "refuse_worse"]

METRICS_TAG = "metrics"
TESTED_TAG = "test_sessions"
JUDGED = ("test/error_m_median", "test/nll")
"""Where, and how sure: the lower the better, both."""


def evaluation_tags(metrics: Mapping[str, float], test_sessions: Iterable[str]) -> dict[str, str]:
    """The tags by which a version is compared with others.

    Args:
        metrics: By MLflow's names; those that begin with `test/` are kept.
        test_sessions: Ids of the sessions that they were measured on.
    """
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    digest = hashlib.sha256("\n".join(sorted(test_sessions)).encode()).hexdigest()
    return {METRICS_TAG: json.dumps(tested), TESTED_TAG: digest}


def refuse_worse(candidate: RegisteredVersion, present: RegisteredVersion | None) -> None:
    """Let a version pass that has figures no worse than those of the present one.

    Args:
        candidate: The version that is to go into production.
        present: The one that is there; None where there is none.

    Raises:
        ExportError: It lacks figures, is worse, or was tested on other sessions.
    """
    own = tested_metrics(candidate)
    if present is None or present.version == candidate.version:
        return
    try:
        other = tested_metrics(present)
    except ExportError:
        return  # nothing to be worse than
    if candidate.tags.get(TESTED_TAG) != present.tags.get(TESTED_TAG):
        raise ExportError(
            f"version {candidate.version} was tested on other sessions than version "
            f"{present.version}, which is in production: their figures do not compare; "
            "evaluate both on one split, or force it"
        )
    if worse := [name for name in JUDGED if own[name] > other[name]]:
        figures = ", ".join(f"{name} {own[name]:.6g} against {other[name]:.6g}" for name in worse)
        raise ExportError(
            f"version {candidate.version} is worse than version {present.version}, which is in "
            f"production: {figures}; keep the present one, or force it"
        )


def tested_metrics(version: RegisteredVersion) -> dict[str, float]:
    """The test metrics that a version carries.

    Raises:
        ExportError: It has none, or not those that it is judged by.
    """
    try:
        found = {name: float(value) for name, value in json.loads(_metrics(version)).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(
            f"tag {METRICS_TAG!r} of version {version.version} holds no metrics: "
            f"{_metrics(version):.100}; correct or delete it"
        ) from error
    if missing := [name for name in JUDGED if not math.isfinite(found.get(name, math.nan))]:
        raise ExportError(
            f"version {version.version} has no {' and no '.join(missing)}: nobody knows what it "
            "is worth; evaluate it, or force it"
        )
    return found


def _metrics(version: RegisteredVersion) -> str:
    return version.tags.get(METRICS_TAG, "{}")
