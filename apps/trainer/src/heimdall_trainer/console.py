"""Output of a run: the overview before it, the closing table after it, and `--summary FILE`."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.catalogue.table import SessionTable
from heimdall_data.distance import great_circle_m
from heimdall_evaluation.coverage import shares_inside
from heimdall_evaluation.report.quantities import count
from heimdall_evaluation.report.sentences import about_trained_on, session_kind
from heimdall_export.atomic import write_whole
from rich.console import Console
from rich.table import Table

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.events import tell

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    import numpy.typing as npt
    from heimdall_data import HeimdallDataset
    from heimdall_evaluation.evaluate import EvaluatedModel
    from heimdall_models import LocalizationModule
    from numpy.typing import NDArray

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.data import TrainingData
    from heimdall_trainer.delivery import Delivery

__all__ = [
    "ModelSize",
    "RunOutcome",
    "RunSummary",
    "data_table",
    "print_closing",
    "print_evaluation",
    "require_writable",
    "tell_data",
    "tell_model",
    "write_json",
    "write_summary",
]


N_EXAMPLES = 4
NBSP = "\N{NO-BREAK SPACE}"


def print_evaluation(evaluated: EvaluatedModel, console: Console | None = None) -> None:
    """Print the errors of a model and of the baselines, on the same sessions."""
    title = count(len(evaluated.evaluation), session_kind(evaluated.evaluation)).replace(NBSP, " ")
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("median error", "68 %", "95 %", "in 68 / 95 % ellipse"):
        table.add_column(heading, justify="right")
    coverage = _coverage(evaluated.metrics)
    table.add_row("model", *_quantiles_km(evaluated.evaluation.error_m), coverage)
    for baseline in evaluated.baselines:
        inside = shares_inside(baseline, evaluated.evaluation.truth_deg)
        said = f"{inside[0]:.0%} / {inside[1]:.0%}" if inside else ""
        table.add_row(baseline.name, *_quantiles_km(baseline.error_m), said)
    out = console or Console(highlight=False, soft_wrap=True)
    out.print(table)
    if any(evaluated.evaluation.trained_on or ()):
        out.print(about_trained_on(evaluated.evaluation).replace(NBSP, " "), markup=False)


def print_closing(outcome: RunOutcome, console: Console | None = None) -> None:
    """Print what a run came to, as tables that also read well in a log file."""
    out = console or Console(highlight=False, soft_wrap=True)
    print_evaluation(outcome.delivery.evaluated, out)
    _print_left_out(outcome, out)
    summary = outcome.summary
    for name, value in (
        ("model file", f"{summary.onnx_uri}  (version {summary.model_version}, alias staging)"),
        ("local copy", summary.onnx_path),
        ("MLflow run", f"{outcome.run_name}  ({summary.run_id})"),
        ("checkpoint", summary.checkpoint),
        ("report", summary.report),
        ("took", f"{summary.elapsed_seconds:.0f} s"),
    ):
        out.print(f"{name:11s} {value}", markup=False)


def _quantiles_km(error_m: NDArray[np.float64]) -> tuple[str, ...]:
    return tuple(_km(float(q)) for q in np.nanquantile(error_m, (0.5, 0.68, 0.95)))


def _km(length_m: float) -> str:
    return f"{length_m / 1000:.1f} km" if length_m >= 1000 else f"{length_m:.0f} m"


def _coverage(metrics: Mapping[str, float]) -> str:
    found = {name.rpartition("/")[2]: value for name, value in metrics.items()}
    return f"{found['coverage_68']:.0%} / {found['coverage_95']:.0%}"


def _print_left_out(outcome: RunOutcome, out: Console) -> None:
    data = outcome.data
    not_used = ", ".join(f"{count} {reason}" for reason, count in data.not_used.items())
    out.print(f"sessions not for training: {not_used or 'none'}", markup=False)
    out.print(f"sessions excluded as unusable: {len(data.exclusions) or 'none'}", markup=False)
    _print_some([f"{left.session_id}: {left.reason}" for left in data.exclusions], out)
    out.print(f"recordings left out: {len(data.unusable) or 'none'}", markup=False)
    _print_some(
        [f"{left.session_id}, {left.station}: {left.reason}" for left in data.unusable], out
    )


def _print_some(lines: list[str], out: Console) -> None:
    for line in lines[:N_EXAMPLES]:
        out.print(f"  {line}", markup=False)
    if len(lines) > N_EXAMPLES:
        out.print(f"  and {len(lines) - N_EXAMPLES} more, in the report", markup=False)


BYTES_OF_A_WEIGHT = 4
ADAM = 2
"""Moments that AdamW keeps of each weight that learns."""
SIDES = ("train", "validation", "test")


def tell_data(data: TrainingData) -> None:
    """Log the sessions of each side of the split."""
    parts = _parts(data)
    tell(
        "data",
        data_table(data),
        sessions={side: len(part) for side, part in parts.items()},
        receivers={side: _heard(part, data) for side, part in parts.items()},
        region=asdict(data.region),
        excluded=len(data.exclusions),
    )


def data_table(data: TrainingData) -> str:
    """Sessions and recordings of each receiver on each side of the split, and the map."""
    parts = _parts(data)
    heard = {side: _heard(part, data) for side, part in parts.items()}
    names = [station.name for station in data.receivers]
    width = max(len("recordings of"), *(len(name) + 2 for name in names))
    rows = [
        _row("", parts, width),
        _row("sessions", [len(part) for part in parts.values()], width),
        "recordings of",
        *(_row(f"  {name}", [heard[side][name] for side in parts], width) for name in names),
    ]
    width_km, height_km = _extent_km(parts)
    return "\n".join(
        (
            *rows,
            f"transmitters over {width_km:.0f} km by {height_km:.0f} km; region of "
            f"{data.region.scale_m / 1000:.0f} km around "
            f"{data.region.latitude_deg:.3f}, {data.region.longitude_deg:.3f}",
            f"{len(data.exclusions)} sessions excluded as unusable, "
            f"{len(data.unusable)} recordings left out",
        )
    )


def _row(head: str, cells: object, width: int) -> str:
    return f"{head:{width}s}" + "".join(f"{cell!s:>12s}" for cell in cells)  # type: ignore[attr-defined]


def _parts(data: TrainingData) -> dict[str, HeimdallDataset]:
    return {side: getattr(data, side) for side in SIDES}


def _heard(part: HeimdallDataset, data: TrainingData) -> dict[str, int]:
    """Number of sessions of a part with a used recording, by receiver."""
    left_out = Counter(recording.station for recording in part.unusable_recordings)
    found = _n_sessions(part)
    names = [station.name for station in data.receivers]
    return {name: found.get(name, 0) - left_out[name] for name in names}


def _n_sessions(part: HeimdallDataset) -> Mapping[str, int]:
    if isinstance(part.sessions, SessionTable):
        return part.sessions.n_sessions_of_stations()
    return Counter(name for s in part.sessions for name in {m.station for m in s.measurements})


def _extent_km(parts: Mapping[str, HeimdallDataset]) -> tuple[float, float]:
    """Width and height of the box around all transmitters."""
    places = np.concatenate([_positions_deg(part) for part in parts.values() if len(part)])
    # From the first transmitter, so that a box over the 180th meridian is no wider than it is.
    first = places[0, 1]
    east = (places[:, 1] - first + 180) % 360 - 180
    (south, north), west_deg, east_deg = np.percentile(places[:, 0], (0, 100)), *_ends(east)
    middle = (south + north) / 2
    width_m = great_circle_m((middle, west_deg), (middle, east_deg))
    return width_m / 1000, great_circle_m((south, 0.0), (north, 0.0)) / 1000


def _ends(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _positions_deg(part: HeimdallDataset) -> npt.NDArray[np.float64]:
    if isinstance(part.sessions, SessionTable):
        return part.sessions.positions_deg
    return np.array([session.position_deg for session in part.sessions])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Size of a network, and the memory that its training takes before any batch."""

    parameters: int
    trainable_parameters: int
    memory_bytes: int
    """Weights, their average, and of what learns the gradient and the optimizer's moments."""

    @classmethod
    def of(cls, module: LocalizationModule, *, averaged: bool) -> ModelSize:
        """The size of a network, to be trained with or without an average of its weights."""
        total = sum(each.numel() for each in module.parameters())
        learns = sum(each.numel() for each in module.parameters() if each.requires_grad)
        kept = total * (2 if averaged else 1) + learns * (1 + ADAM)
        return cls(
            parameters=total, trainable_parameters=learns, memory_bytes=kept * BYTES_OF_A_WEIGHT
        )


def tell_model(module: LocalizationModule, config: TrainingConfig) -> None:
    """Log the size of the network that is about to be trained."""
    size = ModelSize.of(module, averaged=bool(config.ema_decay))
    tell(
        "model",
        f"{config.backbone}: {size.parameters / 1e6:.1f} M parameters, "
        f"{size.trainable_parameters / 1e6:.1f} M of them learn; "
        f"{size.memory_bytes / 1e6:.0f} MB of weights, gradients and optimizer, "
        f"and more for a batch of {config.batch_size} (--dry_run measures it)",
        **asdict(size),
    )


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Results of a run; the fields are the keys of the contract's JSON."""

    run_id: str
    model_version: str
    onnx_uri: str
    onnx_path: str
    checkpoint: str
    metrics: Mapping[str, float]
    elapsed_seconds: float
    excluded_sessions: tuple[Mapping[str, str], ...]
    report: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """Everything that one run of the pipeline made."""

    summary: RunSummary
    delivery: Delivery
    data: TrainingData
    report: Path
    run_name: str


def require_writable(path: Path | None) -> None:
    """Refuse, before a run, a summary path that cannot be written after it.

    Raises:
        TrainerError: The folder is missing or not writable.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TrainerError(f"--summary {path}: the folder {folder} is missing or not writable")


def write_json(path: Path, contents: Mapping[str, Any], note: str = "") -> None:
    """Write a summary as JSON, whole or not at all.

    Args:
        path: The file.
        contents: The summary.
        note: What to add to the message of an error.

    Raises:
        TrainerError: The file cannot be written.
    """
    try:
        write_whole(path, json.dumps(contents, indent=2) + "\n")
    except OSError as error:
        raise TrainerError(
            f"the summary cannot be written to {path} ({error.strerror}){note}"
        ) from error


def write_summary(summary: RunSummary, path: Path) -> None:
    """Write the summary of a run, whole or not at all.

    Raises:
        TrainerError: The file cannot be written; the message says where the model is.
    """
    write_json(
        path,
        asdict(summary),
        f"; the run itself is complete: MLflow run {summary.run_id}, model {summary.onnx_uri}",
    )
