"""What was found out about a graph before, by its fingerprint."""

from collections.abc import Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")

# Entries at most; then the oldest goes.
_MOST = 256


class Remembered(Generic[Found]):
    """Results by a key that says all that they depend on."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], Found] = {}

    def get(self, key: tuple[str, ...], find: Callable[[], Found]) -> Found:
        """What is known for a key, or else is found now."""
        if key not in self._found:
            if len(self._found) >= _MOST:
                self._found.pop(next(iter(self._found)))
            self._found[key] = find()
        return self._found[key]
