"""A network that locates a transmitter and states its uncertainty.

Names load on first use: torch, timm and Lightning together take many seconds to import, and
geometry and metrics need none of them.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# Lightning loads ONNX Runtime where it is installed, by way of torchmetrics; that reports on its
# users to its makers, unless told not to before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from heimdall_models.config import LocalizationConfig as LocalizationConfig
    from heimdall_models.ensembles import EnsembleNet as EnsembleNet
    from heimdall_models.ensembles import TimedEnsembleNet as TimedEnsembleNet
    from heimdall_models.errors import ModelError as ModelError
    from heimdall_models.metrics import error_m as error_m
    from heimdall_models.metrics import localization_metrics as localization_metrics
    from heimdall_models.module import LocalizationModule as LocalizationModule
    from heimdall_models.network import LocalizationNet as LocalizationNet
    from heimdall_models.region import Region as Region
    from heimdall_models.serving import ServingNet as ServingNet
    from heimdall_models.serving import Standardize as Standardize
    from heimdall_models.serving import TimedServingNet as TimedServingNet
    from heimdall_models.timing.module import TimingConfig as TimingConfig
    from heimdall_models.timing.module import TimingModule as TimingModule
    from heimdall_models.timing.receivers import ReceiverSite as ReceiverSite
    from heimdall_models.trained import Trained as Trained
    from heimdall_models.training.averaging import AveragedWeights as AveragedWeights
    from heimdall_models.training.divergence import DivergenceGuard as DivergenceGuard

__version__ = "0.2.0"

_NAMES = {
    "config": "LocalizationConfig",
    "ensembles": "EnsembleNet TimedEnsembleNet",
    "errors": "ModelError",
    "metrics": "error_m localization_metrics",
    "module": "LocalizationModule",
    "network": "LocalizationNet",
    "region": "Region",
    "serving": "ServingNet Standardize TimedServingNet",
    "timing.module": "TimingConfig TimingModule",
    "timing.receivers": "ReceiverSite",
    "trained": "Trained",
    "training.averaging": "AveragedWeights",
    "training.divergence": "DivergenceGuard",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """The public name, from the module that holds it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"heimdall_models has no {name!r}; it has {', '.join(__all__)}")
    value: object = getattr(import_module(f"heimdall_models.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
