"""The errors of this package."""


class ModelError(ValueError):
    """Something given to a model, a loss, a metric or a region cannot be used as it is.

    The message says what was expected, what came and what to do.
    """


class TrainingError(ModelError):
    """Training cannot start, go on or end as asked."""


class OptionError(TrainingError):
    """An option has a value that cannot be used; `heimdall` then ends with exit status 2."""
