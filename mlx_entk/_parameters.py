"""Parameter trees by dotted name, as in MLX's own files and errors."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

Params = dict[str, mx.array]


def flatten_tree(tree: Any) -> Params:
    """The arrays of a tree of dicts and lists, by dotted name."""
    return dict(tree_flatten(tree))


def unflatten_tree(params: Params) -> Any:
    """The tree whose arrays have these dotted names."""
    return tree_unflatten(list(params.items()))


def patterns_in(text: str) -> list[str] | None:
    """Patterns of names as a command line writes them, ``a.*,b``; None for an empty text."""
    return [part.strip() for part in text.split(",") if part.strip()] or None
