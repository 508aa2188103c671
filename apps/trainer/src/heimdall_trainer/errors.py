"""What the trainer itself can find wrong, and which errors a user may see as one line."""

__all__ = ["TrainerError", "UsageError", "is_expected"]


class TrainerError(ValueError):
    """A setting, an address or a file that the trainer cannot work with."""


class UsageError(TrainerError):
    """A value that the command line or a configuration must not have; exit status 2."""


def is_expected(error: BaseException) -> bool:
    """Whether an error was raised on purpose for the user, by us or by the operating system."""
    ours = type(error).__module__.startswith("heimdall_")
    return ours or isinstance(error, OSError)
