"""What passes through a model at the last position: its blocks' outputs, a weight's own input."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk.lm.model import LanguageModel, Place, standing_in, states_above
from mlx_entk.progress import Progress, silent
from mlx_entk.tracing.functions import resolve


@dataclass(frozen=True)
class Streams:
    """Values at the last position of N windows.

    Attributes
    ----------
    outputs
        By layer, the residual stream after it, shape (N, d).
    inputs
        By layer, what its selected weights multiply, side by side, shape (N, D). Layers in which
        they do not belong to linear modules are missing.
    final
        What the unembedding reads, shape (N, d).
    seconds
        Of the passes through the whole model.
    """

    outputs: dict[int, Float64Array]
    inputs: dict[int, Float64Array]
    final: Float64Array
    seconds: float


def last_streams(
    model: LanguageModel,
    tokens: mx.array,
    layers: Sequence[int],
    selection: Sequence[str],
    batch: int,
    progress: Progress = silent,
) -> Streams:
    """Run a model on windows, and collect what passes through some layers at the last position.

    Parameters
    ----------
    model
        The model.
    tokens
        Shape (N, T).
    layers
        Numbers of layers.
    selection
        Names of weights inside each of them.
    batch
        Windows at a time.
    progress
        Told after each batch.
    """
    heard: dict[tuple[int, str], list[Float64Array]] = {}
    paths = list(dict.fromkeys(name.rpartition(".")[0] for name in selection))
    final: list[Float64Array] = []
    N = tokens.shape[0]
    start = time.perf_counter()
    taken: dict[tuple[int, str], mx.array] = {}
    with standing_in(_listeners(model, layers, paths, taken)):
        for begin in range(0, N, batch):
            state = model.hidden(tokens[begin : begin + batch])
            mx.eval(state, list(taken.values()))
            final.append(_host(state))
            for key, value in taken.items():
                heard.setdefault(key, []).append(_host(value))
            taken.clear()
            progress("streams", min(begin + batch, N), N)
    whole = {key: np.concatenate(parts) for key, parts in heard.items()}
    return Streams(
        {layer: whole[layer, ""] for layer in layers},
        {
            layer: np.concatenate([whole[layer, path] for path in paths], axis=1)
            for layer in layers
            if all(path and (layer, path) in whole for path in paths)
        },
        np.concatenate(final),
        time.perf_counter() - start,
    )


def last_inputs(
    model: LanguageModel, hidden: mx.array, layer: int, name: str, batch: int
) -> Float64Array | None:
    """Collect what a weight of a layer multiplies at the last position, from what the layer reads.

    Parameters
    ----------
    model
        The model.
    hidden
        What the layer reads, shape (N, T, d); the layers below do not run.
    layer, name
        The layer, and the name of the weight inside it.
    batch
        Windows at a time.

    Returns
    -------
    Float64Array
        Shape (N, D); None if the weight does not belong to a linear module.
    """
    path = name.rpartition(".")[0]
    taken: dict[tuple[int, str], mx.array] = {}
    found = []
    with standing_in(_listeners(model, [layer], [path], taken)):
        for begin in range(0, hidden.shape[0], batch):
            mx.eval(states_above(model, hidden[begin : begin + batch], layer)[:, -1])
            if (layer, path) not in taken:
                return None
            found.append(_host(taken.pop((layer, path))))
    return np.concatenate(found)


def _host(value: mx.array) -> Float64Array:
    return np.array(value.astype(mx.float32), dtype=np.float64)


class _Listener:
    """Stands in for a module, and keeps what it reads or returns at the last position."""

    def __init__(
        self, module: Any, taken: dict[tuple[int, str], mx.array], key: tuple[int, str]
    ) -> None:
        self._module, self._taken, self._key = module, taken, key

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        output = self._module(*arguments, **options)
        is_block = self._key[1] == ""
        value = (output[0] if isinstance(output, tuple) else output) if is_block else arguments[0]
        self._taken[self._key] = value[:, -1]
        return output

    def __getattr__(self, name: str) -> Any:  # a model may ask for the kind of a layer
        return getattr(self._module, name)

    def __contains__(self, name: str) -> bool:  # or for what is in it
        return name in self._module


def _listeners(
    model: LanguageModel,
    layers: Sequence[int],
    paths: Sequence[str],
    taken: dict[tuple[int, str], mx.array],
) -> Iterator[tuple[Place, _Listener]]:
    """Listeners for layers and for linear modules inside, and where they stand."""
    for layer in layers:
        block = model.layers[layer]
        for path in filter(None, paths):
            owner, leaf = resolve(block, *path.rpartition(".")[::2])
            place = Place(owner, int(leaf) if isinstance(owner, list) else leaf)
            if isinstance(place.module, nn.Linear):
                yield place, _Listener(place.module, taken, (layer, path))
        for place in model.places[layer]:
            yield place, _Listener(block, taken, (layer, ""))
