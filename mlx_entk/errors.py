"""The errors that a user can cause, each with the exit code that the command line gives it."""


class MlxEntkError(Exception):
    """Base of every error raised on purpose; its message is one line for people to read."""

    exit_code = 1


class InputError(MlxEntkError, ValueError):
    """The caller asked for something that cannot be done: an argument, file or folder is bad."""

    exit_code = 2


class UnnamedCodeError(InputError):
    """A run can only be worked with by running code that its user has not named.

    Attributes
    ----------
    code
        MODULE:NAME, as the run has it. It comes from a file, so it may be anything.
    """

    def __init__(self, message: str, code: str):
        super().__init__(message)
        self.code = code


class RunFailedError(MlxEntkError, RuntimeError):
    """The request was sound, but the computation broke down: a loss became NaN, for example."""

    exit_code = 1


class SlowPathWarning(UserWarning):
    """The result is right, but takes longer than it should; the message says why."""


class ConversionWarning(UserWarning):
    """A file was read as something else than it says; the message tells what."""


class RowsLeftOutWarning(UserWarning):
    """A tracker leaves rows out to keep within the time that it may take; the message says why."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the error's type if it has no message."""
    return (str(error) or type(error).__name__).splitlines()[0]
