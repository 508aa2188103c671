"""Output of a run: the overview before it, the closing table after it, and `--summary FILE`."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from heimdall_data.catalogue.table import SessionTable
from heimdall_export.atomic import write_whole
from heimdall_features.names import shown
from heimdall_models.training.curves import (
    LEVELS_LOSS,
    NETWORK_LOSS,
    SIGMA_FACTOR,
    TEMPERATURE,
    takes_levels_alone,
)
from rich.console import Console

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.events import tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from heimdall_data import HeimdallDataset
    from heimdall_models import LocalizationModule

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.data import TrainingData
    from heimdall_trainer.delivery import Delivery

N_EXAMPLES = 4
SIDES = ("train", "validation", "test")


def print_closing(outcome: RunOutcome) -> None:
    """Print the results of a run, as tables that also read well in a log file."""
    out = Console(highlight=False, soft_wrap=True)
    from heimdall_evaluation.evaluate import print_evaluation  # torch, needless for calibrate

    print_evaluation(outcome.delivery.evaluated, out)
    data, summary = outcome.data, outcome.summary
    not_used = ", ".join(f"{number} {reason}" for reason, number in data.not_used.items())
    out.print(f"sessions not for training: {not_used or 'none'}", markup=False)
    excluded = [f"{left.session_id}: {left.reason}" for left in data.exclusions]
    left_out = [f"{left.session_id}, {left.station}: {left.reason}" for left in data.unusable]
    for what, lines in (
        ("sessions excluded as unusable", excluded),
        ("recordings left out", left_out),
    ):
        out.print(f"{what}: {len(lines) or 'none'}", markup=False)
        for line in lines[:N_EXAMPLES]:
            out.print(f"  {shown(line)}", markup=False)
        if len(lines) > N_EXAMPLES:
            out.print(f"  and {len(lines) - N_EXAMPLES} more, in the report", markup=False)
    if (beaten := about_levels(summary.metrics)) is not None:
        out.print(beaten, markup=False)
    for name, value in (
        ("model file", f"{summary.onnx_uri}  (version {summary.model_version}, alias staging)"),
        ("local copy", summary.onnx_path),
        ("MLflow run", f"{outcome.run_name}  ({summary.run_id})"),
        ("checkpoint", summary.checkpoint),
        ("report", summary.report or "none"),
        ("took", f"{summary.elapsed_seconds:.0f} s"),
    ):
        out.print(f"{name:11s} {shown(str(value))}", markup=False)


def about_levels(metrics: Mapping[str, float]) -> str | None:
    """What is shipped, and how it was calibrated on validation; None if not measured."""
    if LEVELS_LOSS not in metrics:
        return None
    levels, network = metrics[LEVELS_LOSS], metrics[NETWORK_LOSS]
    losses = f"val/loss {network:.4f}, by levels alone {levels:.4f}"
    fitted, value = next((n, metrics[n]) for n in (SIGMA_FACTOR, TEMPERATURE) if n in metrics)
    calibration = f"its regions are calibrated, {fitted} {value:.2f}"
    if not takes_levels_alone(metrics):
        return f"on validation the network beats the posterior by levels: {losses}; {calibration}"
    return (
        f"on validation the network does not beat the posterior by levels: {losses}; the model "
        f"takes levels alone from spectrograms; {calibration}"
    )


def tell_data(data: TrainingData) -> None:
    """Log sessions and recordings of each receiver on each side of the split, and the region."""
    parts = {side: getattr(data, side) for side in SIDES}
    heard = {side: _heard(part, data) for side, part in parts.items()}
    width = max(len("recordings of"), *(len(shown(each.name)) + 2 for each in data.receivers))

    def row(head: str, cells: Iterable[object]) -> str:
        return f"{head:{width}s}" + "".join(f"{cell!s:>12s}" for cell in cells)

    lines = (
        row("", parts),
        row("sessions", map(len, parts.values())),
        "recordings of",
        *(
            row(f"  {shown(s.name)}", (heard[side][s.name] for side in parts))
            for s in data.receivers
        ),
        f"region of {data.region.scale_m / 1000:.0f} km around "
        f"{data.region.latitude_deg:.3f}, {data.region.longitude_deg:.3f}",
        f"{len(data.exclusions)} sessions excluded as unusable, "
        f"{len(data.unusable)} recordings left out",
    )
    tell(
        "data",
        "\n".join(lines),
        sessions={side: len(part) for side, part in parts.items()},
        receivers=heard,
        region=asdict(data.region),
        excluded=len(data.exclusions),
    )


def _heard(part: HeimdallDataset, data: TrainingData) -> dict[str, int]:
    """Number of sessions of a part with a usable recording, by receiver."""
    left_out = Counter(recording.station for recording in part.unusable_recordings)
    if isinstance(part.sessions, SessionTable):
        found = part.sessions.n_sessions_of_stations()
    else:
        found = Counter(n for s in part.sessions for n in {m.station for m in s.measurements})
    return {s.name: found.get(s.name, 0) - left_out[s.name] for s in data.receivers}


def tell_model(module: LocalizationModule, config: TrainingConfig) -> None:
    """Log the size of the network before training, and the memory it takes without any batch."""
    n_weights = sum(each.numel() for each in module.parameters())
    n_learning = sum(each.numel() for each in module.parameters() if each.requires_grad)
    # All weights and their average; the gradient and AdamW's two moments of those that learn.
    memory_bytes = 4 * (n_weights * (2 if config.ema_decay else 1) + n_learning * 3)
    tell(
        "model",
        f"{config.backbone}: {n_weights / 1e6:.1f} M parameters, "
        f"{n_learning / 1e6:.1f} M of them learn; "
        f"{memory_bytes / 1e6:.0f} MB of weights, gradients and optimizer, "
        f"and more for a batch of {config.batch_size} (--dry_run measures it)",
        parameters=n_weights,
        trainable_parameters=n_learning,
        memory_bytes=memory_bytes,
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
    """Page on this machine; None if it could not be written, which a warning tells."""


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """Everything that one run of the pipeline made."""

    summary: RunSummary
    delivery: Delivery
    data: TrainingData
    report: Path | None
    run_name: str


def require_writable(path: Path | None, flag: str = "summary") -> None:
    """Check before a run that the file of a flag can be written after it.

    Raises:
        TrainerError: It is a folder, or its folder is missing or not writable.
    """
    if path is None:
        return
    if path.is_dir():
        raise TrainerError(f"--{flag} {path} is a folder; give a file")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TrainerError(f"--{flag} {path}: the folder {folder} is missing or not writable")


def write_json(path: Path, contents: Mapping[str, Any], note: str = "") -> None:
    """Write a summary as JSON, whole or not at all.

    Raises:
        TrainerError: The file cannot be written; the message ends with the note.
    """
    try:
        write_whole(path, json.dumps(contents, indent=2) + "\n")
    except OSError as error:
        raise TrainerError(
            f"the summary cannot be written to {path} ({error.strerror}){note}"
        ) from error
