"""What can go wrong between a checkpoint and a model in production."""

__all__ = ["ExportError", "OutOfReach"]


class ExportError(ValueError):
    """A model cannot be exported, trusted, stored or registered; the message says why."""


class OutOfReach(ExportError):
    """MLflow does not answer, or cannot do anything now; later it may."""
