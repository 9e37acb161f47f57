"""How long computations tell what they are at."""

from typing import Protocol


class Progress(Protocol):
    """Called as work goes on; the library itself prints nothing."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` steps of ``stage`` are done; ``note`` is for a person."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """A progress that nobody watches."""
