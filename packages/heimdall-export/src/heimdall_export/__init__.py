"""Export, checks, storage, registry and serving of models.

Importing this package loads none of its parts. Each public name loads its module on first use:
`Predictor` needs only ONNX Runtime and NumPy, the others one of the extras `onnx` (PyTorch and
ONNX), `mlflow` and `s3`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# ONNX Runtime reports on its users to its makers, unless told not to before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from heimdall_export.errors import ExportError
    from heimdall_export.graph.card import write_card
    from heimdall_export.graph.export import export_onnx
    from heimdall_export.graph.parity import ParityReport, check_parity
    from heimdall_export.object_store.store import ArtifactStore, ModelStores
    from heimdall_export.object_store.upload import UploadedModel, upload_model
    from heimdall_export.registry.deletion import delete_version
    from heimdall_export.registry.listing import list_versions
    from heimdall_export.registry.promotion import evaluation_tags, promote, rollback
    from heimdall_export.registry.published import PublishedModel, find_published
    from heimdall_export.registry.registry import register
    from heimdall_export.registry.versions import RegisteredVersion
    from heimdall_export.serving.predictor import Predictor
    from heimdall_export.tracking.run import MLflowTracker, TrackedDataset

__all__ = [
    "ArtifactStore",
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
    "write_card",
]

_PARTS = {
    "errors": ("ExportError",),
    "graph.card": ("write_card",),
    "graph.export": ("export_onnx",),
    "graph.parity": ("ParityReport", "check_parity"),
    "object_store.store": ("ArtifactStore", "ModelStores"),
    "object_store.upload": ("UploadedModel", "upload_model"),
    "registry.deletion": ("delete_version",),
    "registry.promotion": ("evaluation_tags", "promote", "rollback"),
    "registry.published": ("PublishedModel", "find_published"),
    "registry.registry": ("register",),
    "registry.listing": ("list_versions",),
    "registry.versions": ("RegisteredVersion",),
    "serving.predictor": ("Predictor",),
    "tracking.run": ("MLflowTracker", "TrackedDataset"),
}
_MODULES = {name: module for module, names in _PARTS.items() for name in names}
_EXTRAS = {"graph": "onnx", "object_store": "s3", "registry": "mlflow", "tracking": "mlflow"}


def __getattr__(name: str) -> object:
    """Load a public name on first use.

    Raises:
        ImportError: It needs an extra that is not installed; the message says which.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(module.partition(".")[0])
        if extra is None:
            raise
        raise ImportError(
            f"{__name__}.{name} needs {error.name}: pip install 'heimdall-export[{extra}]'"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
