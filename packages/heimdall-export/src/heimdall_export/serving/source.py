"""What a `Predictor` is given, as something that ONNX Runtime can open."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_export.object_store.download import S3_SCHEME, fetch_model
from heimdall_export.object_store.settings import ModelStores
from heimdall_export.registry.published import SCHEME, PublishedModel, find_published

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    Model = str | os.PathLike[str] | bytes | PublishedModel
    Opened = tuple[str | os.PathLike[str] | bytes, PublishedModel | None]

__all__ = ["local_model"]


@contextlib.contextmanager
def local_model(
    model: Model, stores: ModelStores | None, cache_dir: str | os.PathLike[str] | None
) -> Iterator[Opened]:
    """A path or contents to load from, and the version that it is of if a registry said so.

    A download without a cache is gone when the context ends.

    Raises:
        ExportError: The address leads nowhere, or what is there is not what it must be.
    """
    if isinstance(model, str) and model.startswith(SCHEME):
        model = find_published(model, stores)
    published = model if isinstance(model, PublishedModel) else None
    if published is None and not (isinstance(model, str) and model.startswith(S3_SCHEME)):
        yield model, None  # type: ignore[misc] # no PublishedModel here
        return
    uri, sha256 = (published.uri, published.sha256) if published else (str(model), None)
    store = (stores or ModelStores.from_environment()).need_s3()
    with contextlib.ExitStack() as temporary:
        folder = cache_dir or temporary.enter_context(
            tempfile.TemporaryDirectory(prefix="heimdall-model-")
        )
        yield fetch_model(uri, store, Path(folder), sha256=sha256), published
