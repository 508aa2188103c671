"""A model by path, contents or address, as something that ONNX Runtime can open.

A download is written under another name until its hash is right, and kept under that hash: a file
of that name has those contents, whoever else reads the folder and whatever interrupted the writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from heimdall_features.outside_json import parsed_json

from heimdall_export.atomic import whole_file
from heimdall_export.errors import ExportError
from heimdall_export.model_files import SUFFIX, file_sha256, weights_beside
from heimdall_export.object_store.store import (
    S3_SCHEME,
    TRANSIENT_STATUS,
    ModelStores,
    chunks_of,
    split_address,
    store_errors,
)
from heimdall_export.registry.published import SCHEME, PublishedModel, find_published
from heimdall_export.temporary import TemporaryFolder

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from minio import Minio

    from heimdall_export.object_store.store import ArtifactStore

    Model = str | os.PathLike[str] | bytes | PublishedModel
    Opened = tuple[str | os.PathLike[str] | bytes, PublishedModel | None]

_WAITS_S = (0.1, 0.4, 1.6)
"""Before each further attempt after a transient failure."""
_Answer = TypeVar("_Answer")


@contextlib.contextmanager
def local_model(
    model: Model, stores: ModelStores | None, cache_dir: str | os.PathLike[str] | None
) -> Iterator[Opened]:
    """Yield a path or contents to load, and the registered version if a registry was asked.

    A downloaded file is `{sha256}.onnx`, and its weights, if they are an object of their own,
    `{sha256}.data`, in `cache_dir`. Without one, they are removed when the context ends.

    Raises:
        ExportError: There is no such object, sidecar or version; the store is out of reach or
            refuses; the file is not the one uploaded; or the folder cannot be written.
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
        folder = cache_dir or temporary.enter_context(TemporaryFolder("model"))
        try:
            path = _fetched(uri, store, Path(folder), sha256)
        except ExportError as error:
            if published is None or getattr(error.__cause__, "code", "") != "NoSuchKey":
                raise
            raise ExportError(
                f"version {published.version} of {published.name!r} was deleted: its file {uri} "
                "is gone; use another version"
            ) from error
        yield path, published


def _fetched(uri: str, store: ArtifactStore, folder: Path, sha256: str | None) -> Path:
    """A model file in the folder, downloaded unless it is there; None takes its sidecar's hash."""
    client = store.client()
    bucket, key = split_address(uri)
    stem = key.removesuffix(".onnx")

    def ensure(name: str, target: Path, source: str, expected: Mapping[str, object]) -> None:
        if target.is_file() and file_sha256(target) == expected["sha256"]:
            return
        with whole_file(target) as part:
            digest = hashlib.sha256()
            with part.open("wb") as file:
                for chunk in chunks_of(client, bucket, name):
                    file.write(chunk)
                    digest.update(chunk)
            found = {"size": part.stat().st_size, "sha256": digest.hexdigest()}
            for what, wanted in expected.items():
                if found[what] != wanted:
                    raise ExportError(
                        f"s3://{bucket}/{name} has {what} {found[what]}, {source} says {wanted}: "
                        "it is not the file that was uploaded, do not use it"
                    )

    try:
        with store_errors(f"fetch {uri}"):
            expected: Mapping[str, object] = {"sha256": sha256}
            source = "the registry"
            if sha256 is None:
                expected, source = _sidecar(client, bucket, f"{stem}.json"), "its sidecar"
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{expected['sha256']}.onnx"
            _with_retries(lambda: ensure(key, target, source, expected))
            if weights := weights_beside(target):
                held = {"sha256": weights.stem}
                _with_retries(lambda: ensure(stem + SUFFIX, weights, "the model", held))
    except OSError as error:
        raise ExportError(
            f"cannot keep {uri} in {folder}: {error.strerror}; give another cache_dir"
        ) from error
    return target


def _sidecar(client: Minio, bucket: str, key: str) -> dict[str, object]:
    text = _with_retries(lambda: b"".join(chunks_of(client, bucket, key)))
    try:
        entries = parsed_json(text)
        return {"size": int(entries["size"]), "sha256": str(entries["sha256"])}
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ExportError(
            f"the sidecar {key} in bucket {bucket!r} has no sha256 and size: {text[:100]!r}; "
            "upload the model with upload_model"
        ) from error


def _with_retries(act: Callable[[], _Answer]) -> _Answer:
    """Act, up to four times while the store's failure may be transient."""
    import urllib3
    from minio.error import MinioException

    for wait_s in _WAITS_S:
        try:
            return act()
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            answer = getattr(error, "response", None)  # the answer that an S3Error stands for
            if answer is not None and answer.status not in TRANSIENT_STATUS:
                raise
        time.sleep(wait_s)
    return act()
