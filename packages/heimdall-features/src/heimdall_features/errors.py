"""The one error of this package."""

__all__ = ["FeatureError"]


class FeatureError(ValueError):
    """An input or a configuration from which no true feature can be made."""
