"""A module's state kept while it is called under a transform, and given back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn

from mlx_entk.errors import InputError


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Give a module back as it was, whatever a call writes: weights, statistics, caches.

    A call under a transform leaves arrays behind that are dead once the transform ends.
    """
    kept = [(owner, owner.copy(), _attributes(owner)) for owner in _containers(module)]
    try:
        yield
    finally:
        for owner, content, attributes in kept:
            if isinstance(owner, list):
                owner[:] = content
            else:
                dict.clear(owner)
                dict.update(owner, content)
            if attributes is not None:
                vars(owner).clear()
                vars(owner).update(attributes)


def require_initialised(module: nn.Module) -> None:
    """Raise InputError for a module whose ``__init__`` leaves out that of its base."""
    for owner in _containers(module):
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


def _containers(module: nn.Module) -> list[Any]:
    """Every module, dictionary and list inside a module, each once."""
    found: list[Any] = []
    seen: set[int] = set()
    pending: list[Any] = [module]
    while pending:
        value = pending.pop()
        if not isinstance(value, dict | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        if not isinstance(value, tuple):
            found.append(value)
        pending.extend(value.values() if isinstance(value, dict) else value)
    return found


def _attributes(owner: Any) -> dict[str, Any] | None:
    return dict(vars(owner)) if isinstance(owner, nn.Module) else None
