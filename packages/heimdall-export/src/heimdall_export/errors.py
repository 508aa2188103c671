"""What can go wrong between a checkpoint and a model in production."""

__all__ = ["ExportError"]


class ExportError(ValueError):
    """A model cannot be exported, trusted, stored or registered; the message says why."""
