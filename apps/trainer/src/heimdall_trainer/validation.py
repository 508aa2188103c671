"""What a whole model is worth on the validation part, as it would be served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from heimdall_models import localization_metrics

from heimdall_trainer.training import make_loader

if TYPE_CHECKING:
    from heimdall_data import HeimdallDataset

    from heimdall_trainer.training_config import TrainingConfig

__all__ = ["validated"]


@torch.inference_mode()
def validated(
    network: torch.nn.Module, dataset: HeimdallDataset, config: TrainingConfig
) -> dict[str, float]:
    """The contract's `val/` metrics of the whole model: those of training were of a part.

    Args:
        network: Takes features, and arrival times where the dataset measures them; gives
            positions, uncertainties, and perhaps correlations and more.
        dataset: The validation part.
        config: How batches are loaded.
    """
    said, truth_deg = [], []
    for batch in make_loader(dataset, config):
        inputs = [batch[name] for name in ("features", "arrivals") if name in batch]
        said.append(network(*inputs))
        truth_deg.append(batch["position_deg"])
    outputs = [torch.cat(part).numpy() for part in zip(*said, strict=True)]
    correlation = outputs[2] if len(outputs) > 2 else 0.0
    found = localization_metrics(outputs[0], outputs[1], torch.cat(truth_deg).numpy(), correlation)
    return {f"val/{name}": value for name, value in found.items()}
