"""Errors of this package: all are a `DataError`, and say what is wrong and what to do."""

_LONGEST_LINE = 1000


class DataError(ValueError):
    """Base of every error that this package raises on purpose.

    Long lines are cut in the middle: a message names values of files, which may be megabytes.
    """

    def __init__(self, message: str = "") -> None:
        lines = (
            line if len(line) <= _LONGEST_LINE else f"{line[:600]} [...] {line[-300:]}"
            for line in message.split("\n")
        )
        super().__init__("\n".join(lines))


class CatalogueError(DataError):
    """The Postgres catalogue cannot be reached, or breaks the contract."""


class StoreError(DataError):
    """The object store cannot be reached, refuses us, or lacks the bucket."""


class ObjectMissing(StoreError):
    """The store answers, and has no object under the key."""


class BucketUnusable(StoreError):
    """The store answers, and lacks the bucket or refuses access to it."""


class ObjectUnreadable(StoreError):
    """The store answers, and this one object does not arrive whole, or has an invalid name."""


class EngineError(DataError):
    """The Ray cluster is not installed, cannot be reached, or fails."""


class RecordingError(DataError):
    """A recording that cannot be decoded, or decodes to something unusable."""


class IngestError(DataError):
    """A session that must not be written to the catalogue."""


class SimulationError(DataError):
    """A scenario, or a request for simulated sessions, that is not possible."""


class SplitError(DataError):
    """The sessions cannot be divided as asked."""


class StackError(DataError):
    """The embedded servers cannot be started, found or stopped."""


def first_line(error: BaseException) -> str:
    """First line of a message of a library, without its details."""
    return str(error).strip().partition("\n")[0]


def reason_of(error: BaseException) -> str:
    """What a parser found wrong with somebody's file, without Python's name for it."""
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}" if error.args else "a missing value"
    if isinstance(error, TypeError | AttributeError):
        return "a value of another type than its key has"
    return first_line(error) or "an unusable value"
