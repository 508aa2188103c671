"""The package's error, and the check of receivers' names."""

from collections.abc import Iterable

__all__ = ["FeatureError", "require_known"]


class FeatureError(ValueError):
    """An input or a configuration that allows no valid feature."""


def require_known(names: Iterable[object], receivers: tuple[str, ...]) -> None:
    """Refuse names that are not among a configuration's receivers.

    Raises:
        FeatureError: names the unknown ones.
    """
    if unknown := sorted(map(str, set(names) - set(receivers))):
        raise FeatureError(f"unknown receivers {unknown}; known: {receivers}")
