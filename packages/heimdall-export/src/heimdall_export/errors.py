"""Errors of this package."""


class ExportError(ValueError):
    """A model cannot be exported, trusted, stored or registered; the message says why."""


class OutOfReach(ExportError):
    """MLflow does not answer or is temporarily unable to; a later attempt may succeed."""
