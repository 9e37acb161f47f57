"""A causal language model of mlx-lm, cut at a layer: what lies below computed once and cached."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk import _linalg as linalg
from mlx_entk._parameters import Params, flatten_tree, unflatten_tree
from mlx_entk.errors import InputError
from mlx_entk.tracing.functions import ParametricFunction, from_flat

# What of a layer counts unless told otherwise: what its MLP writes into the residual stream.
SELECTION = ("mlp.down_proj.weight",)


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in single precision.

    Attributes
    ----------
    module
        The module of mlx-lm: called on tokens (B, T) it gives logits (B, T, V).
    tokenizer
        With ``encode`` and ``decode``; None for a model without.
    """

    module: nn.Module
    tokenizer: Any = None

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks of the residual stream, in their order."""
        found: list[nn.Module] = self.module.layers
        return found

    @property
    def unembedding(self) -> mx.array:
        """U, shape (V, d): logits are U times the last hidden state.

        Raises
        ------
        InputError
            Where the model keeps no such matrix, or keeps it quantised.
        """
        inner = self.module.model
        for owner, name in (
            (self.module, "lm_head"), (inner, "embed_tokens"), (inner, "wte"),
        ):  # fmt: skip
            if name in owner:
                weight: mx.array = owner[name].weight
                if not mx.issubdtype(weight.dtype, mx.floating):
                    raise InputError(f"{name} is quantised: take the model in full precision")
                return weight
        raise InputError(f"no unembedding is known for {type(self.module).__module__}")

    def hidden(self, tokens: mx.array) -> mx.array:
        """What the unembedding reads at the last position, shape (B, d)."""
        found: mx.array = self.module.model(tokens)[:, -1]
        return found


def load_model(source: str) -> LanguageModel:
    """Load a model from a folder or a hub id by mlx-lm, in single precision.

    Raises
    ------
    InputError
        Where mlx-lm is missing, or has no such model.
    """
    try:
        from mlx_lm import load
    except ImportError as error:
        raise InputError("language models need the extra lm: pip install 'mlx-entk[lm]'") from error
    if Path(source).exists() and not (Path(source) / "config.json").exists():
        raise InputError(f"{source} is no model folder: it has no config.json")
    try:
        module, tokenizer = load(source)[:2]
    except Exception as error:  # of many libraries, whose errors have no common base
        raise InputError(f"mlx-lm cannot load {source}: {error}") from error
    return prepared(module, tokenizer)


def prepared(module: nn.Module, tokenizer: Any = None) -> LanguageModel:
    """A module of mlx-lm in single precision, checked for what :class:`LanguageModel` needs.

    Raises
    ------
    InputError
        Where its logits are not an unembedding times its last hidden state.
    """
    module.eval()
    module.set_dtype(mx.float32)
    model = LanguageModel(module, tokenizer)
    probe = mx.arange(4)[None]
    try:
        hidden = model.hidden(probe)
    except (AttributeError, IndexError, TypeError) as error:
        raise InputError(
            f"{type(module).__module__} gives no last hidden state ({error}): its architecture "
            "is not supported"
        ) from error
    U = model.unembedding
    logits = module(probe)[:, -1]
    fits = hidden.ndim == 2 and hidden.shape[-1] == U.shape[-1]
    if not fits or not mx.allclose(hidden @ U.T, logits, rtol=1e-3, atol=1e-3):
        raise InputError(
            f"the logits of {type(module).__module__} are no linear function of its last hidden "
            "state: its architecture is not supported"
        )
    return model


class _Given:
    """Stands for a layer whose output is known already."""

    def __init__(self, layer: nn.Module, hidden: mx.array):
        self._layer, self._hidden = layer, hidden

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        return self._hidden

    def __getattr__(self, name: str) -> Any:  # a model may ask for the kind of a layer
        return getattr(self._layer, name)


class _Recorder(_Given):
    """Stands for a layer, notes what goes in, and stops there."""

    def __init__(self, layer: nn.Module):
        self._layer = layer

    def __call__(self, hidden: mx.array, *arguments: Any, **options: Any) -> mx.array:
        raise _ReachedError(hidden)


class _ReachedError(Exception):
    def __init__(self, hidden: mx.array):
        self.hidden = hidden


@contextmanager
def _replaced(layers: list[Any], stand_ins: Sequence[Any]) -> Iterator[None]:
    """Put stand-ins for the first layers into the model's own list, and take them out again."""
    originals = layers[: len(stand_ins)]
    layers[: len(stand_ins)] = stand_ins
    try:
        yield
    finally:
        layers[: len(stand_ins)] = originals


def hidden_before(model: LanguageModel, tokens: mx.array, layer: int, batch: int) -> mx.array:
    """The residual stream that a layer reads, shape (N, T, d); computed in batches."""
    recorder = _Recorder(model.layers[layer])
    parts = []
    with _replaced(model.layers, [*model.layers[:layer], recorder]):
        for start in range(0, tokens.shape[0], batch):
            try:
                model.module.model(tokens[start : start + batch])
            except _ReachedError as reached:
                parts.append(reached.hidden)
                mx.eval(parts[-1])
    return mx.concatenate(parts)


def hidden_after(model: LanguageModel, hidden: mx.array, layer: int) -> mx.array:
    """The residual stream at the last position that a layer leaves, shape (B, d).

    Parameters
    ----------
    hidden
        What the layer reads, as :func:`hidden_before` gives it, shape (B, T, d).
    """
    block = model.layers[layer]
    below = [_Given(lower, hidden) for lower in model.layers[:layer]]
    with _replaced(model.layers, [*below, _Through(block, hidden, stop=True)]):
        try:
            model.module.model(mx.zeros(hidden.shape[:2], dtype=mx.int32))
        except _ReachedError as reached:
            return reached.hidden[:, -1]
    raise InputError(f"layer {layer} does not run when the model does")


def initialised(model: LanguageModel, seed: int) -> LanguageModel:
    """A model of the same architecture with parameters drawn anew, as its module draws them."""
    module = model.module
    mx.random.seed(seed)
    fresh = type(module)(module.args)  # type: ignore[call-arg]
    if "lm_head" in fresh and "lm_head" not in module:  # tied while the weights were loaded
        fresh.sanitize({})
    return prepared(fresh, model.tokenizer)


def layer_function(
    model: LanguageModel, layer: int, selection: Sequence[str], readout: mx.array | None
) -> ParametricFunction:
    """The last hidden state at the last position, as a function of some weights of a layer.

    Parameters
    ----------
    layer
        Number of the layer; those below it do not run.
    selection
        Dotted names inside the layer, such as ``mlp.down_proj.weight``.
    readout
        Symmetric matrix that the state is multiplied by, shape (d, d); None for none.

    Returns
    -------
    ParametricFunction
        Of what :func:`hidden_before` gives, shape (N, T, d), with outputs (N, d). Parameters
        are called ``layers.NUMBER.NAME``.

    Raises
    ------
    InputError
        For a layer or name that the model does not have, and for quantised weights.
    """
    if not 0 <= layer < len(model.layers):
        raise InputError(f"the model has layers 0 to {len(model.layers) - 1}, not {layer}")
    block = model.layers[layer]
    own = flatten_tree(block.parameters())
    unknown = [name for name in selection if name not in own]
    if unknown or not selection:
        raise InputError(
            f"layer {layer} has no {', '.join(unknown) or 'parameter without a name'}: it has "
            f"{', '.join(own)}"
        )
    for name in selection:
        if not mx.issubdtype(own[name].dtype, mx.floating):
            raise InputError(f"{name} of layer {layer} is quantised: take the full precision")
    params = {f"layers.{layer}.{name}": own[name] for name in selection}

    def apply(values: Params, hidden: mx.array) -> mx.array:
        chosen = {name: values[f"layers.{layer}.{name}"] for name in selection}
        block.update(unflatten_tree(chosen))
        tokens = mx.zeros(hidden.shape[:2], dtype=mx.int32)  # only their shape counts
        first = _Through(block, hidden)
        below = [_Given(lower, hidden) for lower in model.layers[:layer]]
        try:
            with _replaced(model.layers, [*below, first]):
                state: mx.array = model.module.model(tokens)[:, -1]
        finally:  # a transform may have put tracers in
            block.update(unflatten_tree({name: own[name] for name in selection}))
        return state if readout is None else state @ readout

    return from_flat(apply, params)


class _Through(_Given):
    """The first layer that runs: on the cached stream, whatever the model gives it."""

    def __init__(self, layer: nn.Module, hidden: mx.array, stop: bool = False):
        super().__init__(layer, hidden)
        self._stop = stop

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        found: mx.array = self._layer(self._hidden, *arguments[1:], **options)
        if self._stop:
            raise _ReachedError(found)
        return found


def square_root_of_readout(unembedding: mx.array) -> mx.array:
    """S^{1/2} for S = UᵀU, shape (d, d), by an eigendecomposition in double precision."""
    U = linalg.as_numpy(unembedding).astype(np.float64)
    values, vectors = linalg.eigh(U.T @ U)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return mx.array(root.astype(np.float32))
