"""`heimdall evaluate`: figures of a model on recordings of known transmitters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from heimdall_trainer.config import OF_SPLIT, TrainingConfig, require_writable
from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.errors import ThresholdNotMet, UsageError, one_line
from heimdall_trainer.flags import ConfigFile, acting

if TYPE_CHECKING:
    from heimdall_evaluation.evaluate import EvaluatedModel

DEFAULTS = TrainingConfig()
NOWHERE = Connections()
Share = Annotated[float | None, Parameter(validator=Number(gt=0, lt=1))]
Metres = Annotated[float | None, Parameter(validator=Number(gt=0, lt=float("inf")))]


@Parameter(name="*", group="Thresholds")
@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Figures that a model must reach, by the names of the contract's metrics."""

    min_coverage_68: Share = None
    """Least share of the truths inside the 68 % ellipse, such as 0.6."""
    min_coverage_95: Share = None
    """Least share of the truths inside the 95 % ellipse, such as 0.9."""
    max_error_m_median: Metres = None
    """Largest median error, in metres."""
    max_error_m_p95: Metres = None
    """Largest error of 95 % of the sessions, in metres."""

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set, by their names."""
        return {name: limit for name, limit in asdict(self).items() if limit is not None}


NONE = Thresholds()


# `since` comes before the filter of the same name in `config`: the command line sets the first,
# and a file, such as that of the training, the second.
def evaluate(
    model: str,
    /,
    *,
    split: Literal["train", "validation", "test", "all"] = "test",
    since: datetime | timedelta | None = None,
    thresholds: Thresholds = NONE,
    report: Path | None = None,
    config: Annotated[TrainingConfig, acting(*OF_SPLIT, "summary")] = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Evaluate a model on a part of the split or on new sessions, and write its report.

    The split is that of the training where --seed, --split_by and the fractions are the same.
    A model file has its own receivers and rate: --receivers, --sample_rate_hz and --opset are for
    checkpoints.
    --summary writes metrics, sessions and the report's path as JSON.

    With --since, sessions are judged that were approved since then and that the training of the
    model has not used: a monitor of a model in production. Exit status 3 means that a threshold is
    not met, as far as the number of sessions can tell.

    Parameters
    ----------
    model
        A model file, a checkpoint (.ckpt), s3://bucket/key, or models:/name@alias.
    split
        Which part of the sessions.
    since
        Judge sessions approved then or later, such as 7d or 2026-11-01 (in UTC unless it names a
        zone), in place of a split. Where no approval is on record, their start counts.
    report
        Path of the HTML report; beside the model, or in the state directory, when unset.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    if since is not None and split != "test":
        raise UsageError("--since judges new sessions, whatever part they are in; remove --split")
    begin = None if since is None else _moment(since)
    from heimdall_evaluation.evaluate import print_evaluation

    from heimdall_trainer.console import write_json

    require_writable(config.summary)
    check_connections(connections)
    from heimdall_trainer.models import evaluate_file, evaluate_new

    limits = thresholds.limits
    evaluated: EvaluatedModel | None
    page: Path | None
    chosen: dict[str, object] = {"split": split}
    if begin is None:
        evaluated, page = evaluate_file(model, config, connections, report, split, limits)
    else:
        new, evaluated, page = evaluate_new(model, config, connections, begin, report, limits)
        chosen = {"split": "new", "since": begin.isoformat()}
        chosen |= {"n_left_out": new.n_known, "n_unusable": len(new.exclusions)}
        n_new = len(new.dataset)
        print(
            f"{n_new} new sessions since {begin.isoformat()}; besides {new.n_known} that the "
            f"training of the model used and {len(new.exclusions)} that cannot be used"
        )
        if evaluated is None:
            for name, limit in limits.items():
                print(f"no sessions --{name} {limit:g}: nothing to judge it by")
    if evaluated is not None:
        print_evaluation(evaluated)
        print(f"report      {one_line(str(page))}")
    if config.summary:
        write_json(config.summary, {"model": model, **chosen, **_summary(evaluated, page, limits)})
    _require_met(evaluated)


def _moment(since: datetime | timedelta) -> datetime:
    """The time, or the time so long ago, in UTC."""
    try:
        if isinstance(since, timedelta):
            return (datetime.now(UTC) - since).replace(microsecond=0)
        return (since if since.tzinfo else since.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise UsageError(f"--since {since} is before or after all years; correct it") from None


def _summary(
    evaluated: EvaluatedModel | None, page: Path | None, limits: dict[str, float]
) -> dict[str, object]:
    if evaluated is None:
        unseen = [
            {"threshold": name, "limit": limit, "verdict": "no sessions"}
            for name, limit in limits.items()
        ]
        return {"n_sessions": 0, "metrics": {}, "thresholds": unseen, "report": None}
    found = evaluated.evaluation
    return {
        "n_sessions": len(found),
        "n_sources": len(set(found.source_names)),
        "n_trained_on": None if found.trained_on is None else sum(found.trained_on),
        "metrics": dict(evaluated.metrics),
        "thresholds": [asdict(check) for check in evaluated.checks],
        "report": str(page),
    }


def _require_met(evaluated: EvaluatedModel | None) -> None:
    failed = [
        f"--{check.threshold} {check.limit:g}"
        for check in (evaluated.checks if evaluated else ())
        if check.verdict == "not met"
    ]
    if failed:
        raise ThresholdNotMet(f"not met: {', '.join(failed)}; the lines above have the figures")
