"""A model by path, contents or address, as something that ONNX Runtime can open."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_export.object_store.download import fetch_model
from heimdall_export.object_store.store import S3_SCHEME, ModelStores
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
    """Yield a path or contents to load, and the registered version if a registry was asked.

    A download without a cache is removed when the context ends.

    Raises:
        ExportError: The address leads nowhere, or the file there is not the one uploaded.
    """
    if isinstance(model, str) and model.startswith(SCHEME):
        model = find_published(model, stores)
    if isinstance(model, PublishedModel):
        uri, sha256, published = model.uri, model.sha256, model
    elif isinstance(model, str) and model.startswith(S3_SCHEME):
        uri, sha256, published = model, None, None
    else:
        yield model, None
        return
    store = (stores or ModelStores.from_environment()).need_s3()
    with contextlib.ExitStack() as temporary:
        folder = cache_dir or temporary.enter_context(
            tempfile.TemporaryDirectory(prefix="heimdall-model-")
        )
        yield fetch_model(uri, store, Path(folder), sha256=sha256), published
