"""The one error of this package."""


class ModelError(ValueError):
    """Something given to a model, a loss, a metric or a region cannot be used as it is.

    The message says what was expected, what came and what to do.
    """
