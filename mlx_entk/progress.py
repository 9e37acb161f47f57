"""The protocol by which long computations report their progress."""

from typing import Protocol


class Progress(Protocol):
    """A function that is called as work proceeds; the library itself prints nothing."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that ``done`` of ``total`` steps of ``stage`` are done; people read ``note``."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""
