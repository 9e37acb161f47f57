"""A module's state kept while it is called under a transform, and given back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import FunctionType, MethodType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_entk.errors import InputError

# The transform that goes on, and what to do at its end.
_TRANSFORM: ContextVar[ExitStack | None] = ContextVar("_TRANSFORM", default=None)

# Objects that are walked through at most; a model has fewer, what it refers to may be anything.
_MOST = 20_000


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Give a module back as it was, whatever a call writes: weights, statistics, caches.

    A call under a transform leaves arrays behind that are dead once the transform ends. What is
    kept are the contents of modules, lists, dictionaries and other objects that the module
    holds. Arrays are handed to the call as copies of the handle, so that ``+=`` and ``[:] =``,
    which write into an array, leave the module's own alone.
    """
    kept = [(owner, _content(owner)) for owner in _owners(module)]

    def give_back() -> None:
        for owner, content in kept:
            _refill(owner, content)

    if (transform := _TRANSFORM.get()) is not None:
        transform.callback(give_back)
    try:
        for owner, content in kept:
            _refill(owner, {part: _handles(value) for part, value in content.items()})
        yield
    finally:
        give_back()


@contextmanager
def restored_at_the_end() -> Iterator[None]:
    """Give the modules that are called inside back once more at the end of a transform.

    MLX runs a checkpointed part again when it differentiates or maps what was called, and
    ``nn.utils.checkpoint`` then writes into the module.
    """
    with ExitStack() as stack:
        token = _TRANSFORM.set(stack)
        try:
            yield
        finally:
            _TRANSFORM.reset(token)


def require_initialised(module: nn.Module) -> None:
    """Raise InputError for a module whose ``__init__`` leaves out that of its base."""
    for owner in _owners(module):
        if isinstance(owner, nn.Module) and "_no_grad" not in vars(owner):
            name = type(owner).__name__
            raise InputError(f"{name} does not call super().__init__() in its __init__: add it")


def random_or_batch_dependent(module: nn.Module) -> list[str]:
    """Names of submodules that draw numbers or mix inputs while they train: to call eval() on."""
    return [
        f"{name or 'it'} ({type(part).__name__})"
        for name, part in module.named_modules()
        if part.training and _changes_in_training(part)
    ]


def _changes_in_training(module: nn.Module) -> bool:
    if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
        return bool(vars(module).get("_p_1", 0) != 1)
    return isinstance(module, nn.BatchNorm)


def _owners(module: nn.Module) -> list[Any]:
    """Everything in a module that holds something else and can be written to, each once."""
    owners: list[Any] = []
    seen: set[int] = set()
    pending: list[Any] = [module]
    while pending and len(owners) < _MOST:
        value = pending.pop()
        if id(value) in seen or not _holds(value):
            continue
        seen.add(id(value))
        if not isinstance(value, tuple):
            owners.append(value)
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
        pending.extend(getattr(value, "__dict__", {}).values())
    return owners


def _holds(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return True
    if isinstance(value, type | ModuleType | FunctionType | MethodType | mx.array):
        return False
    return hasattr(value, "__dict__")


def _content(owner: Any) -> dict[str, Any]:
    """Copies of what an owner holds: its entries and its attributes."""
    content: dict[str, Any] = {}
    if isinstance(owner, dict):
        content["entries"] = dict(owner)
    elif isinstance(owner, list):
        content["entries"] = list(owner)
    if hasattr(owner, "__dict__"):
        content["attributes"] = dict(vars(owner))
    return content


def _handles(held: Any) -> Any:
    if isinstance(held, dict):
        return {k: v[...] if isinstance(v, mx.array) else v for k, v in held.items()}
    return [v[...] if isinstance(v, mx.array) else v for v in held]


def _refill(owner: Any, content: dict[str, Any]) -> None:
    if "entries" in content:
        if isinstance(owner, list):
            owner[:] = content["entries"]
        else:
            dict.clear(owner)
            dict.update(owner, content["entries"])
    if "attributes" in content:
        vars(owner).clear()
        vars(owner).update(content["attributes"])
