"""Pytest fixtures on real servers: `pytest_plugins = ["heimdall_data.testing"]`.

One stack serves a whole test session; each test gets a bucket and a database of its own.
Needs the extra `heimdall-data[embedded]` and pytest.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from heimdall_data.embedded import EmbeddedStack
from heimdall_data.postgres import Catalogue
from heimdall_data.s3 import ObjectStore, S3Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["catalogue", "database_url", "raw_iq_store", "s3_settings", "stack"]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A running Postgres and S3, stopped when the tests end or are killed."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def s3_settings(stack: EmbeddedStack) -> Iterator[S3Settings]:
    """The stack's object store with an empty raw-IQ bucket for this test alone."""
    settings = replace(stack.s3, raw_iq_bucket=f"test-{uuid.uuid4()}")
    store = ObjectStore(settings, settings.raw_iq_bucket)
    store.ensure_bucket()
    yield settings
    for found in list(store.list()):
        store.delete(found.key)
    settings.client().remove_bucket(settings.raw_iq_bucket)


@pytest.fixture
def raw_iq_store(s3_settings: S3Settings) -> ObjectStore:
    """This test's empty raw-IQ bucket."""
    return ObjectStore(s3_settings, s3_settings.raw_iq_bucket)


@pytest.fixture
def database_url(stack: EmbeddedStack) -> Iterator[str]:
    """An empty database for this test alone: no schema, no tables."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield stack.database_url.rpartition("/")[0] + f"/{name}"
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def catalogue(database_url: str) -> Iterator[Catalogue]:
    """An empty catalogue for this test alone, with its tables."""
    with Catalogue(database_url) as fresh:
        fresh.create_schema()
        yield fresh
