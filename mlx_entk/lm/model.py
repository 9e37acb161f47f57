"""Causal language models of mlx-lm, cut at a layer: the layers below run once and are cached."""

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
from mlx_entk.lm.gguf import read_gguf
from mlx_entk.tracing.functions import ParametricFunction, from_flat

# Weights of a layer to differentiate by unless others are selected: those with which its MLP writes
# into the residual stream.
SELECTION = ("mlp.down_proj.weight",)


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in single precision.

    Attributes
    ----------
    module
        The module of mlx-lm: called on tokens (B, T), it returns logits (B, T, V).
    tokenizer
        An object with ``encode`` and ``decode``, or None.
    """

    module: nn.Module
    tokenizer: Any = None

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks along the residual stream, in order."""
        layers: list[nn.Module] = self.module.layers
        return layers

    @property
    def unembedding(self) -> mx.array:
        """U of shape (V, d): the logits are U times the last hidden state.

        Raises
        ------
        InputError
            If the model has no such matrix, or has it quantised.
        """
        inner = self.module.model
        for owner, name in (
            (self.module, "lm_head"), (inner, "embed_tokens"), (inner, "wte"),
        ):  # fmt: skip
            if name in owner:
                weight: mx.array = owner[name].weight
                if not mx.issubdtype(weight.dtype, mx.floating):
                    raise InputError(f"{name} is quantised: use the model in full precision")
                return weight
        raise InputError(f"no unembedding is known for {type(self.module).__module__}")

    def hidden(self, tokens: mx.array) -> mx.array:
        """Return what the unembedding reads at the last position, shape (B, d)."""
        state: mx.array = self.module.model(tokens)[:, -1]
        return state


def load_model(source: str) -> LanguageModel:
    """Load a model from a folder, by a hub id or from a GGUF file, in single precision.

    Code that the model's files bring is never run.

    Raises
    ------
    InputError
        If mlx-lm is missing or cannot load the model, or ``prepared`` refuses it.
    """
    try:
        from mlx_lm import load
    except ImportError as error:
        raise InputError("language models need the extra lm: pip install 'mlx-entk[lm]'") from error
    if source.endswith(".gguf"):
        return prepared(*read_gguf(Path(source)))
    if Path(source).exists() and not (Path(source) / "config.json").exists():
        raise InputError(f"{source} is not a model folder: it has no config.json")
    try:
        module, tokenizer = load(
            source, tokenizer_config={"trust_remote_code": False}, trust_remote_code=False
        )[:2]
    except Exception as error:  # from many libraries, whose errors have no common base
        raise InputError(f"mlx-lm cannot load {source}: {error}") from error
    return prepared(module, tokenizer)


def prepared(module: nn.Module, tokenizer: Any = None) -> LanguageModel:
    """Set a module of mlx-lm to single precision and check it for ``LanguageModel``.

    Raises
    ------
    InputError
        If its logits are not an unembedding times its last hidden state.
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
    same_width = hidden.ndim == 2 and hidden.shape[-1] == U.shape[-1]
    if not same_width or not mx.allclose(hidden @ U.T, logits, rtol=1e-3, atol=1e-3):
        raise InputError(
            f"the logits of {type(module).__module__} are not a linear function of its last "
            "hidden state: its architecture is not supported"
        )
    return model


class _Given:
    """Stands in for a layer whose output is already known."""

    def __init__(self, layer: nn.Module, hidden: mx.array):
        self._layer, self._hidden = layer, hidden

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        return self._hidden

    def __getattr__(self, name: str) -> Any:  # a model may ask for the kind of a layer
        return getattr(self._layer, name)


class _Recorder(_Given):
    """Stands in for a layer, and stops the model with what the layer would read."""

    def __init__(self, layer: nn.Module):
        self._layer = layer

    def __call__(self, hidden: mx.array, *arguments: Any, **options: Any) -> mx.array:
        raise _ReachedError(hidden)


class _ReachedError(Exception):
    def __init__(self, hidden: mx.array):
        self.hidden = hidden


@contextmanager
def _replaced(layers: list[Any], stand_ins: Sequence[Any]) -> Iterator[None]:
    """Replace the first layers in the model's own list by stand-ins, and restore them later."""
    originals = layers[: len(stand_ins)]
    layers[: len(stand_ins)] = stand_ins
    try:
        yield
    finally:
        layers[: len(stand_ins)] = originals


def hidden_before(model: LanguageModel, tokens: mx.array, layer: int, batch: int) -> mx.array:
    """Compute the residual stream that a layer reads.

    Parameters
    ----------
    model
        The model.
    tokens
        Shape (N, T).
    layer
        Number of the layer.
    batch
        How many rows of tokens to run at a time.

    Returns
    -------
    mx.array
        Shape (N, T, d).
    """
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
    """Compute the residual stream after a layer, at the last position.

    Parameters
    ----------
    model
        The model.
    hidden
        What the layer reads, as ``hidden_before`` returns it, shape (B, T, d).
    layer
        Number of the layer.

    Returns
    -------
    mx.array
        Shape (B, d).

    Raises
    ------
    InputError
        If the model does not run that layer.
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
    """Return a model of the same architecture with newly drawn parameters.

    The parameters are those that the module draws by itself after ``mx.random.seed(seed)``.
    """
    module = model.module
    mx.random.seed(seed)
    fresh = type(module)(module.args)  # type: ignore[call-arg]
    if "lm_head" in fresh and "lm_head" not in module:  # tied while the weights were loaded
        fresh.sanitize({})
    return prepared(fresh, model.tokenizer)


def layer_function(
    model: LanguageModel, layer: int, selection: Sequence[str], readout: mx.array | None
) -> ParametricFunction:
    """Return the last hidden state at the last position as a function of weights of a layer.

    Parameters
    ----------
    model
        The model.
    layer
        Number of the layer; those below it do not run.
    selection
        Dotted names inside the layer, such as ``mlp.down_proj.weight``.
    readout
        Symmetric matrix to multiply the state by, shape (d, d), or None.

    Returns
    -------
    ParametricFunction
        A function of what ``hidden_before`` returns, shape (N, T, d), with outputs (N, d).
        Its parameters are called ``layers.NUMBER.NAME``.

    Raises
    ------
    InputError
        If the model lacks the layer or a name, or the weights are quantised.
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
            raise InputError(
                f"{name} of layer {layer} is quantised: use the model in full precision"
            )
    params = {f"layers.{layer}.{name}": own[name] for name in selection}

    def apply(values: Params, hidden: mx.array) -> mx.array:
        chosen = {name: values[f"layers.{layer}.{name}"] for name in selection}
        block.update(unflatten_tree(chosen))
        tokens = mx.zeros(hidden.shape[:2], dtype=mx.int32)  # only their shape matters
        first = _Through(block, hidden)
        below = [_Given(lower, hidden) for lower in model.layers[:layer]]
        try:
            with _replaced(model.layers, [*below, first]):
                state: mx.array = model.module.model(tokens)[:, -1]
        finally:  # a transform may have left tracers in the block
            block.update(unflatten_tree({name: own[name] for name in selection}))
        return state if readout is None else state @ readout

    return from_flat(apply, params)


class _Through(_Given):
    """Runs a layer on the cached stream, whatever the model passes to it."""

    def __init__(self, layer: nn.Module, hidden: mx.array, stop: bool = False):
        super().__init__(layer, hidden)
        self._stop = stop

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        output: mx.array = self._layer(self._hidden, *arguments[1:], **options)
        if self._stop:
            raise _ReachedError(output)
        return output


def square_root_of_readout(unembedding: mx.array) -> mx.array:
    """Compute S^{1/2} for S = UᵀU by an eigendecomposition in double precision.

    Parameters
    ----------
    unembedding
        U, shape (V, d).

    Returns
    -------
    mx.array
        Shape (d, d), float32.
    """
    U = linalg.as_numpy(unembedding).astype(np.float64)
    values, vectors = linalg.eigh(U.T @ U)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return mx.array(root.astype(np.float32))
