"""The package's error, and checks that several modules share."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from heimdall_features.names import composed

Value = TypeVar("Value")


class FeatureError(ValueError):
    """Input or configuration from which no valid feature can be computed."""


@contextmanager
def naming(receiver: str) -> Iterator[None]:
    """Add the receiver's name to errors raised inside."""
    try:
        yield
    except FeatureError as error:
        raise FeatureError(f"receiver {receiver!r}: {error}") from error


def by_receiver(given: Mapping[str, Value], receivers: tuple[str, ...]) -> dict[str, Value]:
    """Return values by the configured receivers' names, which `given` may spell decomposed.

    Raises:
        FeatureError: Some names are not configured receivers, or two are the same one.
    """
    own = {composed(name): name for name in receivers}
    found: dict[str, Value] = {}
    unknown = []
    for name, value in given.items():
        receiver = own.get(composed(name)) if isinstance(name, str) else None
        if receiver is None:
            unknown.append(f"{name!s:.50}")
        elif receiver in found:
            raise FeatureError(f"receiver {receiver!r} is given twice, in two spellings; give one")
        else:
            found[receiver] = value
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise FeatureError(f"unknown receivers {sorted(unknown)[:5]}{more}; known: {[*receivers]}")
    return found


def require_limits(settings: Mapping[str, float | None], *, signed: str) -> None:
    """Raise a `FeatureError` if a value is not finite, or negative (except the `signed` one)."""
    for name, value in settings.items():
        if value is None:
            continue
        if not math.isfinite(value) or (value < 0 and name != signed):
            raise FeatureError(f"{name} is {value}; it must be finite and not negative")
