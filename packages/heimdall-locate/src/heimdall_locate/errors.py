"""The error of this package."""


class LocateError(ValueError):
    """The input cannot be used; the message names the value and what to do."""
