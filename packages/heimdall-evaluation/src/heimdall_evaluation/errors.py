"""Errors of this package."""


class EvaluationError(ValueError):
    """A model, a report or a comparison that cannot be evaluated; the message says why."""


class ReportError(EvaluationError):
    """A report cannot be made, written or read."""


class ServingError(EvaluationError):
    """The model file failed in a process with only the serving dependencies."""
