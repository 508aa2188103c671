"""The page of a comparison: one HTML file that needs nothing else, like a report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from heimdall_trainer.comparing import figures
from heimdall_trainer.comparing import wording as say
from heimdall_trainer.report.page import template
from heimdall_trainer.report.quantities import count, distance, factor
from heimdall_trainer.run_record import command_line, package_versions, provenance_of_source
from heimdall_trainer.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from heimdall_trainer.comparing.pairs import Pair
    from heimdall_trainer.comparing.significance import Outcome

__all__ = ["ComparedSession", "most_different", "render_comparison"]

N_LISTED = 10


@dataclass(frozen=True, slots=True)
class ComparedSession:
    """A session on which the models differ much."""

    source: str
    session_id: str
    a: str
    b: str
    ratio: str


def render_comparison(pair: Pair, found: Outcome, fair: Outcome | None, path: Path) -> Path:
    """Write the page, whole or not at all.

    Args:
        pair: The models on the same sessions.
        found: What these tell.
        fair: What those tell that no model was trained on, where that is another set.
        path: Where it goes.

    Raises:
        OSError: It cannot be written.
    """
    page = template("comparison.html").render(
        pair=pair,
        headline=say.headline(found),
        about_errors=say.about_errors(found),
        about_nll=say.about_nll(found),
        about_seen=say.about_seen(pair),
        fair=None if fair is None else f"{say.headline(fair)} {say.about_errors(fair)}",
        rows=say.metric_rows(pair),
        figures={
            "pairs": figures.pairs_svg(pair),
            "distributions": figures.distributions_svg(pair),
            "coverages": figures.coverages_svg(pair),
        },
        better_a=most_different(pair, better="A"),
        better_b=most_different(pair, better="B"),
        seen=[pair.a.evaluation.session_ids[k] for k in pair.seen],
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        command=command_line(),
        versions=provenance_of_source() | package_versions(),
        count=count,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def most_different(pair: Pair, *, better: str) -> list[ComparedSession]:
    """The sessions on which that model is better by the largest factor, at most ten."""
    a, b = pair.a.evaluation, pair.b.evaluation
    ratio = np.log(np.maximum(b.error_m, 1e-3) / np.maximum(a.error_m, 1e-3))
    gain = ratio if better == "A" else -ratio
    order = [k for k in np.argsort(-gain, kind="stable")[:N_LISTED] if gain[k] > 0]
    return [
        ComparedSession(
            a.source_names[k],
            a.session_ids[k],
            distance(float(a.error_m[k])),
            distance(float(b.error_m[k])),
            factor(float(np.exp(ratio[k]))),
        )
        for k in order
    ]
