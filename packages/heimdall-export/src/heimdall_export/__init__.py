"""From a checkpoint to a model in production, proven equal.

Importing this package loads none of its parts. Each name below loads what it needs when it is
first used: `Predictor` ONNX Runtime and NumPy alone; the others one of the extras `onnx`
(PyTorch and ONNX), `mlflow` and `s3`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heimdall_export.errors import ExportError
    from heimdall_export.graph.export import export_onnx
    from heimdall_export.graph.parity import ParityReport, check_parity
    from heimdall_export.object_store.store import ArtifactStore, ModelStores
    from heimdall_export.object_store.upload import UploadedModel, upload_model
    from heimdall_export.registry.deletion import delete_version
    from heimdall_export.registry.promotion import evaluation_tags, promote, rollback
    from heimdall_export.registry.published import PublishedModel, find_published
    from heimdall_export.registry.registry import RegisteredVersion, list_versions, register
    from heimdall_export.serving.predictor import Estimate, Predictor
    from heimdall_export.tracking.run import MLflowTracker, TrackedDataset

__all__ = [
    "ArtifactStore",
    "Estimate",
    "ExportError",
    "MLflowTracker",
    "ModelStores",
    "ParityReport",
    "Predictor",
    "PublishedModel",
    "RegisteredVersion",
    "TrackedDataset",
    "UploadedModel",
    "check_parity",
    "delete_version",
    "evaluation_tags",
    "export_onnx",
    "find_published",
    "list_versions",
    "promote",
    "register",
    "rollback",
    "upload_model",
]

_MODULES = {
    "ArtifactStore": ("object_store.store", None),
    "Estimate": ("serving.predictor", None),
    "ExportError": ("errors", None),
    "MLflowTracker": ("tracking.run", "mlflow"),
    "ModelStores": ("object_store.store", None),
    "ParityReport": ("graph.parity", "onnx"),
    "Predictor": ("serving.predictor", None),
    "PublishedModel": ("registry.published", None),
    "RegisteredVersion": ("registry.registry", "mlflow"),
    "TrackedDataset": ("tracking.run", "mlflow"),
    "UploadedModel": ("object_store.upload", "s3"),
    "check_parity": ("graph.parity", "onnx"),
    "delete_version": ("registry.deletion", "mlflow"),
    "evaluation_tags": ("registry.promotion", "mlflow"),
    "export_onnx": ("graph.export", "onnx"),
    "find_published": ("registry.published", None),
    "list_versions": ("registry.registry", "mlflow"),
    "promote": ("registry.promotion", "mlflow"),
    "register": ("registry.registry", "mlflow"),
    "rollback": ("registry.promotion", "mlflow"),
    "upload_model": ("object_store.upload", "s3"),
}
"""Module of each name, and the extra that it needs."""


def __getattr__(name: str) -> object:
    """Load a public name on first use.

    Raises:
        ImportError: It needs an extra that is not installed; the message says which.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _MODULES[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        raise ImportError(
            f"{__name__}.{name} needs {error.name}: pip install 'heimdall-export[{extra}]'"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
