"""The errors that a reader can cause, each with the exit code the command line gives it."""


class MlxEntkError(Exception):
    """Base of every error raised on purpose; its message is one line for a person."""

    exit_code = 1


class InputError(MlxEntkError, ValueError):
    """The caller asked for something that cannot be done: bad argument, file or folder."""

    exit_code = 2


class RunFailedError(MlxEntkError, RuntimeError):
    """The request was sound, but the computation broke down (a loss that became NaN, say)."""

    exit_code = 1


class SlowPathWarning(UserWarning):
    """The result is right, but takes longer than it should; the message says why."""


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
