"""The package's error, and checks that several modules share."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


class FeatureError(ValueError):
    """Input or configuration from which no valid feature can be computed."""


@contextmanager
def naming(receiver: str) -> Iterator[None]:
    """Add the receiver's name to errors raised inside."""
    try:
        yield
    except FeatureError as error:
        raise FeatureError(f"receiver {receiver!r}: {error}") from error


def require_known(names: Iterable[object], receivers: tuple[str, ...]) -> None:
    """Raise a `FeatureError` with the first names that are not configured receivers."""
    if unknown := sorted(f"{name!s:.50}" for name in set(names) - set(receivers)):
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise FeatureError(f"unknown receivers {unknown[:5]}{more}; known: {receivers}")


def require_limits(settings: Mapping[str, float | None], *, signed: str) -> None:
    """Raise a `FeatureError` if a value is not finite, or negative (except the `signed` one)."""
    for name, value in settings.items():
        if value is None:
            continue
        if not math.isfinite(value) or (value < 0 and name != signed):
            raise FeatureError(f"{name} is {value}; it must be finite and not negative")
