"""What can be wrong with recordings and with the places they live in.

Every error of this package is a `DataError`, so that a caller can turn all of them into one
line and an exit status. The message says what came, what was expected and what to do.
"""

__all__ = [
    "BucketUnusable",
    "CatalogueError",
    "DataError",
    "EngineError",
    "IngestError",
    "ObjectMissing",
    "ObjectUnreadable",
    "RecordingError",
    "SimulationError",
    "SplitError",
    "StackError",
    "StoreError",
]


class DataError(ValueError):
    """Base of every error that this package raises on purpose."""


class CatalogueError(DataError):
    """The Postgres catalogue cannot be reached, or is not what the contract says it is."""


class StoreError(DataError):
    """The object store cannot be reached, refuses us, or lacks the bucket."""


class ObjectMissing(StoreError):
    """The store answers, and has no object under the key."""


class BucketUnusable(StoreError):
    """The store answers, and lacks the bucket or keeps us out of it."""


class ObjectUnreadable(StoreError):
    """The store answers, and this one object does not come whole, or can be none."""


class EngineError(DataError):
    """What computes on many machines is not installed, cannot be reached, or fails."""


class RecordingError(DataError):
    """A recording that cannot be decoded, or decodes to something unusable."""


class IngestError(DataError):
    """A session that must not be written to the catalogue as it stands."""


class SimulationError(DataError):
    """A scenario, or a request for simulated sessions, that makes no sense."""


class SplitError(DataError):
    """The sessions cannot be divided as asked."""


class StackError(DataError):
    """The embedded servers cannot be started, found or stopped."""
