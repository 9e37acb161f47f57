"""Functions of ``mlx.core`` replaced by others while calls of a kind go on."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import mlx.core as mx


class Replacing:
    """A context, which several calls may be in at once, in which functions are others.

    Parameters
    ----------
    functions
        What stands in for the function of each name, made from that.
    """

    def __init__(self, functions: Mapping[str, Callable[[Callable[..., Any]], Callable[..., Any]]]):
        self._originals = {name: getattr(mx, name) for name in functions}
        self._others = {name: make(self._originals[name]) for name, make in functions.items()}
        self._calls = 0
        self._lock = Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._calls:
                self._set(self._others)
            self._calls += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._calls -= 1
            if not self._calls:
                self._set(self._originals)

    @staticmethod
    def _set(functions: Mapping[str, Callable[..., Any]]) -> None:
        for name, function in functions.items():
            setattr(mx, name, function)
