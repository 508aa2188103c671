"""From a checkpoint to a model in production, proven equal.

Importing this package loads none of its parts. Each name below loads what it needs when it is
first used: `Predictor` ONNX Runtime and NumPy alone; the others one of the extras `onnx`
(PyTorch and ONNX), `mlflow` and `s3`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heimdall_export.artifact_store import ArtifactStore
    from heimdall_export.deletion import delete_version
    from heimdall_export.errors import ExportError
    from heimdall_export.estimate import Estimate
    from heimdall_export.model_stores import ModelStores
    from heimdall_export.onnx_file import export_onnx
    from heimdall_export.parity import ParityReport, check_parity
    from heimdall_export.published_model import PublishedModel, find_published
    from heimdall_export.registry import (
        RegisteredVersion,
        list_versions,
        promote,
        register,
        rollback,
    )
    from heimdall_export.runtime import Predictor
    from heimdall_export.tracked_dataset import TrackedDataset
    from heimdall_export.tracking import MLflowTracker
    from heimdall_export.upload import UploadedModel, upload_model

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
    "ArtifactStore": ("artifact_store", "mlflow"),
    "Estimate": ("estimate", None),
    "ExportError": ("errors", None),
    "MLflowTracker": ("tracking", "mlflow"),
    "ModelStores": ("model_stores", None),
    "ParityReport": ("parity", "onnx"),
    "Predictor": ("runtime", None),
    "PublishedModel": ("published_model", None),
    "RegisteredVersion": ("registered_version", None),
    "TrackedDataset": ("tracked_dataset", "mlflow"),
    "UploadedModel": ("upload", "s3"),
    "check_parity": ("parity", "onnx"),
    "delete_version": ("deletion", "mlflow"),
    "evaluation_tags": ("promotion", None),
    "export_onnx": ("onnx_file", "onnx"),
    "find_published": ("published_model", None),
    "list_versions": ("registry", "mlflow"),
    "promote": ("registry", "mlflow"),
    "register": ("registry", "mlflow"),
    "rollback": ("registry", "mlflow"),
    "upload_model": ("upload", "s3"),
}
"""Where each name is, and the extra that it needs."""


def __getattr__(name: str) -> object:
    """A public name, on first use.

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
