"""End of a training run whose gradients are not finite.

The gradients are checked after all processes have added theirs and before the optimiser changes
the weights, so that every process stops at the same step and the last good state is saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.nn.utils import get_total_norm

from heimdall_models.errors import ModelError
from heimdall_models.module import of_all_processes

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch.nn import Parameter
    from torch.optim import Optimizer

DIVERGED = "diverged.ckpt"
N_NAMED = 8
PATIENCE_WITH_SCALER = 32
"""Steps in a row. A gradient scaler halves its scale after each of them until one fits."""


class DivergenceGuard(Callback):
    """Stops training at gradients that are not finite, before they reach the weights.

    `diverged.ckpt` is saved in the folder. The error names it and the sessions of the batch; if
    some have features that are not finite, only those.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path, self._bad_steps = Path(folder) / DIVERGED, 0
        self._batches: list[dict[str, Any]] = []
        self._parameters: list[Parameter] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the parameters once; looking for them takes longer than their gradients' norm."""
        del trainer
        self._parameters = list(pl_module.parameters())

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: dict[str, Any],
        batch_idx: int,
    ) -> None:
        """Keep the batches of the coming step; there are several where gradients accumulate."""
        del trainer, pl_module, batch_idx
        self._batches.append(batch)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Check the gradients of all processes; a ModelError if they are not finite."""
        del pl_module, optimizer
        batches, self._batches = self._batches, []
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if get_total_norm(gradients).isfinite():
            self._bad_steps = 0
            return
        self._bad_steps += 1
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None or self._bad_steps >= PATIENCE_WITH_SCALER:
            trainer.save_checkpoint(self.path)
            raise ModelError(self._message(trainer, batches))

    def _message(self, trainer: pl.Trainer, batches: list[dict[str, Any]]) -> str:
        mine: list[tuple[str, bool]] = []
        for batch in batches:
            finite = torch.isfinite(batch["features"].flatten(1)).all(dim=1).tolist()
            names = batch["session_id"] or [f"row {row}" for row in range(len(finite))]
            mine += zip(names, finite, strict=True)
        sessions = dict(pair for pairs in of_all_processes(mine) for pair in pairs)
        broken = [name for name, is_finite in sessions.items() if not is_finite]
        where = f"training diverged in epoch {trainer.current_epoch}, step {trainer.global_step}"
        kept = f"the state before that step is in {self.path}"
        if broken:
            return (
                f"{where}: the features of {_listed(broken)} are not finite; leave "
                f"{'them' if len(broken) > 1 else 'it'} out or record again; {kept}"
            )
        return (
            f"{where}: the gradients are not finite, on the batch with {_listed(list(sessions))}; "
            f"lower the learning rate, clip gradients, or use precision 32-true; {kept}"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return f"session{'s' if len(names) > 1 else ''} {', '.join(names[:N_NAMED])}{more}"
