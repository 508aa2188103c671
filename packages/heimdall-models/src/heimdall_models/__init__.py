"""A network that says where a transmitter is and how sure it is.

Names load on first use: torch, timm and Lightning together take many seconds to import, and
geometry, metrics and baselines need none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heimdall_models.baselines import (
        empirical_sigma_m,
        mean_position,
        power_weighted_centroid,
    )
    from heimdall_models.config import LocalizationConfig
    from heimdall_models.ensembles import EnsembleNet, TimedEnsembleNet
    from heimdall_models.errors import ModelError
    from heimdall_models.losses import GaussianNLLLoss
    from heimdall_models.metrics import error_m, localization_metrics
    from heimdall_models.module import LocalizationModule
    from heimdall_models.network import LocalizationNet
    from heimdall_models.region import Region
    from heimdall_models.serving import ServingNet, Standardize, TimedServingNet
    from heimdall_models.timing.module import TimingConfig, TimingModule
    from heimdall_models.timing.receivers import ReceiverSite
    from heimdall_models.training.averaging import AveragedWeights
    from heimdall_models.training.divergence import DivergenceGuard

__version__ = "0.1.0"

__all__ = [
    "AveragedWeights",
    "DivergenceGuard",
    "EnsembleNet",
    "GaussianNLLLoss",
    "LocalizationConfig",
    "LocalizationModule",
    "LocalizationNet",
    "ModelError",
    "ReceiverSite",
    "Region",
    "ServingNet",
    "Standardize",
    "TimedEnsembleNet",
    "TimedServingNet",
    "TimingConfig",
    "TimingModule",
    "empirical_sigma_m",
    "error_m",
    "localization_metrics",
    "mean_position",
    "power_weighted_centroid",
]

_HOME = {
    "AveragedWeights": "training.averaging",
    "DivergenceGuard": "training.divergence",
    "EnsembleNet": "ensembles",
    "GaussianNLLLoss": "losses",
    "LocalizationConfig": "config",
    "LocalizationModule": "module",
    "LocalizationNet": "network",
    "ModelError": "errors",
    "ReceiverSite": "timing.receivers",
    "Region": "region",
    "ServingNet": "serving",
    "Standardize": "serving",
    "TimedEnsembleNet": "ensembles",
    "TimedServingNet": "serving",
    "TimingConfig": "timing.module",
    "TimingModule": "timing.module",
    "empirical_sigma_m": "baselines",
    "error_m": "metrics",
    "localization_metrics": "metrics",
    "mean_position": "baselines",
    "power_weighted_centroid": "baselines",
}


def __getattr__(name: str) -> object:
    """The public name, from the module that holds it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"heimdall_models has no {name!r}; it has {', '.join(__all__)}")
    value: object = getattr(import_module(f"heimdall_models.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
