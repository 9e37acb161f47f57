"""Causal language models of mlx-lm, cut at a layer: the layers below run once and are cached."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk import _linalg as linalg
from mlx_entk._memory import available_bytes, default_limit, format_bytes, limit_of
from mlx_entk._parameters import Params, flatten_tree, unflatten_tree
from mlx_entk.errors import InputError
from mlx_entk.lm.gguf import read_gguf
from mlx_entk.lm.rope import require_rope, rope_changes
from mlx_entk.tracing.functions import ParametricFunction, from_flat

# Weights of a layer to differentiate by unless others are selected: those with which its MLP writes
# into the residual stream.
SELECTION = ("mlp.down_proj.weight",)


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in single precision, as ``prepared`` makes it.

    Attributes
    ----------
    module
        The module of mlx-lm: called on tokens (B, T), it returns logits (B, T, V).
    tokenizer
        An object with ``encode`` and ``decode``, or None.
    layers
        The blocks along the residual stream, in order.
    unembedding
        U of shape (V, d): the logits are U times the last hidden state, a constant factor
        included, plus a constant, and then soft-capped if ``cap`` says so.
    bias
        That constant, shape (V,), or None.
    cap
        The logits are cap · tanh(z / cap) of the linear ones z; None if they are z.
    places
        Where the module holds each of the layers: in one place or in several.
    notes
        Sentences on what was changed while the model was loaded.
    """

    module: nn.Module
    tokenizer: Any
    layers: list[nn.Module]
    unembedding: mx.array
    bias: mx.array | None
    cap: float | None
    _head: "Place"
    places: "list[list[Place]]"
    _returned: list[int]  # how many values each layer returns in a tuple, or 0
    notes: tuple[str, ...] = ()

    def hidden(self, tokens: mx.array) -> mx.array:
        """Return what the unembedding reads at the last position, shape (B, d)."""
        return self.states(tokens)[:, -1]

    def states(self, tokens: mx.array, **options: Any) -> mx.array:
        """Return what the unembedding reads, shape (B, T, d); options are for the module's call."""
        with standing_in([(self._head, _HeadRecorder(self._head.module))]):
            try:
                self.module(tokens, **options)
            except _ReachedError as reached:
                return reached.hidden
        raise InputError("the model does not run its unembedding")

    def logits(self, states: mx.array) -> mx.array:
        """Return the logits of what the unembedding reads, shape (…, V)."""
        z = states @ self.unembedding.T
        if self.bias is not None:
            z = z + self.bias
        return z if self.cap is None else self.cap * mx.tanh(z / self.cap)


@dataclass(frozen=True)
class Place:
    """Where a module is held: in another one by its name, or in a list by its number."""

    container: Any
    key: Any

    @property
    def module(self) -> nn.Module:
        """What is held there."""
        module: nn.Module = self.container[self.key]
        return module


def load_model(source: str, dequantise: bool = False) -> LanguageModel:
    """Load a model from a folder, by a hub id or from a GGUF file, in single precision.

    Code that the model's files bring is never run.

    Parameters
    ----------
    source
        The folder or file, or the name on the hub.
    dequantise
        Whether to turn quantised weights of MLX into float32; else they are refused where they
        are needed in full precision. Those of a GGUF file are always dequantised.

    Raises
    ------
    InputError
        If mlx-lm is missing or cannot load the model, the module's rotary positions are not those
        of its configuration, or ``prepared`` refuses it.
    """
    try:
        from mlx_lm import load
    except ImportError as error:
        raise InputError("language models need the extra lm: pip install 'mlx-entk[lm]'") from error
    if source.endswith(".gguf"):
        model = prepared(*read_gguf(Path(source)))
        return replace(model, notes=("weights of a GGUF file were dequantised to float32",))
    if Path(source).exists() and not (Path(source) / "config.json").exists():
        raise InputError(f"{source} is not a model folder: it has no config.json")
    options: dict[str, Any] = {
        "tokenizer_config": {"trust_remote_code": False},
        "trust_remote_code": False,
    }
    try:
        loaded: Any = load(source, lazy=True, return_config=True, **options)
        module, tokenizer, configuration = loaded
        if changes := rope_changes(configuration):
            module, tokenizer = load(source, lazy=True, model_config=changes, **options)[:2]
    except Exception as error:  # from many libraries, whose errors have no common base
        raise InputError(f"mlx-lm cannot load {source}: {error}") from error
    require_rope(module, configuration, source)
    notes: tuple[str, ...] = ()
    if dequantise and _dequantise(module):
        notes = ("quantised weights were dequantised to float32",)
    return replace(prepared(module, tokenizer), notes=notes)


def _dequantise(module: nn.Module) -> bool:
    """Replace quantised parts of a module by those they approximate; say whether there were any."""
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear
    from mlx_lm.utils import dequantize_model

    kinds = (nn.QuantizedLinear, nn.QuantizedEmbedding, QuantizedSwitchLinear)
    quantised = [part for _, part in module.named_modules() if isinstance(part, kinds)]
    needed = sum(part.weight.size * 32 // part.bits * 4 for part in quantised)
    if needed > available_bytes():
        raise InputError(
            f"the dequantised weights need {format_bytes(needed)}, and "
            f"{format_bytes(available_bytes())} are available"
        )
    module.set_dtype(mx.float32)  # the scales first: products of them in half precision are coarse
    dequantize_model(module)
    return bool(quantised)


def prepared(module: nn.Module, tokenizer: Any = None) -> LanguageModel:
    """Set a module of mlx-lm to single precision and find the parts of ``LanguageModel`` in it.

    The unembedding is the weight that the module really multiplies its last hidden state by. What
    happens to the logits after it is measured: made-up logits in its place show a factor and a cap.

    Raises
    ------
    InputError
        If the parts are not found, or the logits are another function of the last hidden state.
    """
    module.eval()
    module.set_dtype(mx.float32)
    name = type(module).__module__
    try:
        logits = module(_PROBE)
        mx.eval(logits)
    except Exception as error:  # of the architecture's own code, which has no common base
        raise InputError(
            f"{name} gives no logits of tokens ({error}): its architecture is not supported"
        ) from error
    found = _places(module)
    head, state, weight, bias = _unembedding(module, found, logits)
    scale, cap = _of_logits(module, head, logits.shape)
    linear = scale * (state @ weight.T + (0 if bias is None else bias))
    expected = linear if cap is None else cap * mx.tanh(linear / cap)
    if not _close(expected, logits):
        raise _nonlinear(name)
    layers = list(getattr(module, "layers", ()))
    places = [found.get(id(layer), []) for layer in layers]
    if not layers or not all(places):
        raise InputError(f"{name} does not say where its layers are: it is not supported")
    return LanguageModel(
        module, tokenizer, layers, weight if scale == 1 else scale * weight,
        None if bias is None else scale * bias, cap, head, places, _returned(module, places),
    )  # fmt: skip


_PROBE = mx.arange(4)[None]  # in every vocabulary, and without a token twice


def _nonlinear(name: str) -> InputError:
    return InputError(
        f"the logits of {name} are not a linear function of its last hidden state, nor one that is "
        "soft-capped: its architecture is not supported"
    )


def _close(value: mx.array, expected: mx.array) -> bool:
    """Whether two results are equal up to rounding in single precision."""
    if value.shape != expected.shape:
        return False
    size = mx.maximum(mx.abs(expected).max(), 1e-6)
    return bool((mx.abs(value - expected).max() <= 1e-3 * size).item())


def _places(module: nn.Module) -> dict[int, list[Place]]:
    """Where each module below is held, by its identity."""
    found: dict[int, list[Place]] = {}
    seen = set()
    waiting: list[Any] = [module]
    while waiting:
        container = waiting.pop()
        if id(container) in seen:
            continue
        seen.add(id(container))
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in list(pairs):
            if isinstance(value, nn.Module):
                found.setdefault(id(value), []).append(Place(container, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def _unembedding(
    module: nn.Module, found: dict[int, list[Place]], logits: mx.array
) -> tuple[Place, mx.array, mx.array, mx.array | None]:
    """Where the unembedding is, what it reads (B, T, d), its weight (V, d) and bias (V,)."""
    calls: list[tuple[Place, mx.array]] = []
    candidates = [
        (place, _HeadRecorder(place.module, calls, place))
        for places in found.values()
        for place in places
        if getattr(place.module.get("weight"), "shape", (0,))[0] == logits.shape[-1]
    ]
    with standing_in(candidates):
        module(_PROBE)
    if not calls:
        raise InputError(
            f"{type(module).__module__} gives no last hidden state (no weight makes logits of it): "
            "its architecture is not supported"
        )
    head, state = calls[-1]
    weight = head.module["weight"]
    if not mx.issubdtype(weight.dtype, mx.floating):
        raise InputError(
            f"{head.key} is quantised: use the model in full precision, or load it with "
            "dequantise=True"
        )
    if weight.ndim != 2 or state.ndim != 3 or state.shape[-1] != weight.shape[-1]:
        raise _nonlinear(type(module).__module__)
    return head, state, weight, head.module.get("bias")


def _returned(module: nn.Module, places: list[list[Place]]) -> list[int]:
    """How many values each layer returns in a tuple; 0 for one alone, and for what does not run."""
    counts: dict[int, int] = {}

    def count(number: int, output: Any) -> None:
        counts[number] = len(output) if isinstance(output, tuple) else 0

    with standing_in(
        (place, _Observed(place.module, partial(count, number)))
        for number, held in enumerate(places)
        for place in held
    ):
        module(_PROBE)
    return [counts.get(number, 0) for number in range(len(places))]


def _of_logits(
    module: nn.Module, head: Place, shape: tuple[int, ...]
) -> tuple[float, float | None]:
    """The factor and the cap by which the module makes logits of what its unembedding gives."""

    def after(values: mx.array) -> mx.array:
        with standing_in([(head, _HeadGiven(head.module, values))]):
            outputs: mx.array = module(_PROBE)
        return outputs

    # Values of every size from 1e-2 to 1e6 and both signs, each in several places.
    size = int(np.prod(shape))
    exponents = mx.array(np.random.default_rng(0).uniform(-2, 6, size).astype(np.float32))
    signs = mx.where(mx.arange(size) % 2 == 0, 1.0, -1.0)
    values = (signs * mx.power(10.0, exponents)).reshape(shape)
    outputs = after(values)
    if outputs.shape != values.shape or not mx.isfinite(outputs).all():
        raise _nonlinear(type(module).__module__)
    small = mx.full(shape, 1e-3)
    scale = float(after(small)[0, 0, 0]) / 1e-3
    scale = 1.0 if abs(scale - 1) < 1e-5 else scale
    relative = mx.abs(outputs / (scale * values) - 1).max() if scale else mx.array(1.0)
    if relative < 1e-4:
        return scale, None
    cap = float(mx.abs(outputs).max())
    if scale <= 0 or not _close(cap * mx.tanh(scale * values / cap), outputs):
        raise _nonlinear(type(module).__module__)
    return scale, cap


class _Given:
    """Stands in for a layer whose output is already known."""

    def __init__(self, layer: nn.Module, hidden: mx.array, returned: int = 0):
        self._layer, self._hidden, self._returned = layer, hidden, returned

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not self._returned:
            return self._hidden
        # What else it returns is not cached: ``layer_function`` checks that nothing needs it.
        return (self._hidden, *[None] * (self._returned - 1))

    def __getattr__(self, name: str) -> Any:  # a model may ask for the kind of a layer
        return getattr(self._layer, name)

    def __contains__(self, name: str) -> bool:  # or for what is in it
        return name in self._layer


class _Observed(_Given):
    """Runs a layer and shows what it returns."""

    def __init__(self, layer: nn.Module, show: Callable[[Any], None]):
        self._layer, self._show = layer, show

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        output = self._layer(*arguments, **options)
        self._show(output)
        return output


class _HeadGiven(_Given):
    """Stands in for an unembedding whose output is already known, not for the embedding it is."""

    def __call__(self, first: mx.array, *arguments: Any, **options: Any) -> Any:
        if not mx.issubdtype(first.dtype, mx.floating):
            return self._layer(first, *arguments, **options)
        return self.as_linear(first)

    def as_linear(self, hidden: mx.array) -> mx.array:
        return self._hidden


class _HeadRecorder(_HeadGiven):
    """Records what an unembedding reads; without a list, stops the model with it."""

    def __init__(
        self,
        layer: nn.Module,
        calls: list[tuple[Place, mx.array]] | None = None,
        place: Place | None = None,
    ):
        self._layer, self._calls, self._place = layer, calls, place

    def as_linear(self, hidden: mx.array) -> mx.array:
        if self._calls is None or self._place is None:
            raise _ReachedError(hidden)
        self._calls.append((self._place, hidden))
        embedding = isinstance(self._layer, nn.Embedding | nn.QuantizedEmbedding)
        outputs: mx.array = (self._layer.as_linear if embedding else self._layer)(hidden)
        return outputs


class _Recorder(_Given):
    """Stands in for a layer, and stops the model with what the layer would read."""

    def __init__(self, layer: nn.Module):
        self._layer = layer

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        raise _ReachedError(_stream(arguments, options)[1])


class _ReachedError(Exception):
    def __init__(self, hidden: mx.array):
        self.hidden = hidden


def _stream(arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[int | str, mx.array]:
    """Which argument of a layer is the residual stream, and its value."""
    named: list[tuple[int | str, Any]] = [*enumerate(arguments), *options.items()]
    for key, value in named:
        if isinstance(value, mx.array) and value.ndim == 3:
            return key, value
    raise InputError("a layer of the model reads no residual stream: it is not supported")


@contextmanager
def standing_in(pairs: Iterable[tuple[Place, Any]]) -> Iterator[None]:
    """Put stand-ins where modules are held, and the modules back later."""
    originals = []
    try:
        for place, stand_in in pairs:
            originals.append((place, place.container[place.key]))
            # As an item: the attributes of a module that are no arrays are kept elsewhere.
            place.container[place.key] = stand_in
        yield
    finally:
        for place, original in reversed(originals):
            place.container[place.key] = original


def _below(model: LanguageModel, layer: int, hidden: mx.array) -> list[_Given]:
    """Stand-ins for the layers below one, all of which give what it reads."""
    return [
        _Given(lower, hidden, returned)
        for lower, returned in zip(model.layers[:layer], model._returned, strict=False)
    ]


@contextmanager
def _replaced(model: LanguageModel, stand_ins: Sequence[Any]) -> Iterator[None]:
    """Replace the first layers by stand-ins wherever the model holds them."""
    with standing_in(
        (place, stand_in)
        for places, stand_in in zip(model.places, stand_ins, strict=False)
        for place in places
    ):
        yield


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
    with _replaced(model, [*model.layers[:layer], recorder]):
        for start in range(0, tokens.shape[0], batch):
            try:
                model.module(tokens[start : start + batch])
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
    below = _below(model, layer, hidden)
    with _replaced(model, [*below, _Through(block, hidden, stop=True)]):
        try:
            model.module(mx.zeros(hidden.shape[:2], dtype=mx.int32))
        except _ReachedError as reached:
            return reached.hidden[:, -1]
    raise InputError(f"layer {layer} does not run when the model does")


def states_above(model: LanguageModel, hidden: mx.array, layer: int) -> mx.array:
    """Compute what the unembedding reads from what a layer reads; the layers below do not run.

    Parameters
    ----------
    model
        The model; ``layer_function`` checks that it can be cut at the layer.
    hidden
        What the layer reads, as ``hidden_before`` returns it, shape (B, T, d).
    layer
        Number of the layer.

    Returns
    -------
    mx.array
        Shape (B, T, d).
    """
    tokens = mx.zeros(hidden.shape[:2], dtype=mx.int32)  # only their shape matters
    first = _Through(model.layers[layer], hidden)
    with _replaced(model, [*_below(model, layer, hidden), first]):
        return model.states(tokens)


def initialised(model: LanguageModel, seed: int) -> LanguageModel:
    """Return a model of the same architecture with newly drawn parameters.

    The parameters are those that the module draws by itself after ``mx.random.seed(seed)``.
    """
    module = model.module
    mx.random.seed(seed)
    arguments = getattr(module, "args", None) or getattr(module, "config", None)
    fresh: nn.Module = type(module)(arguments)  # type: ignore[call-arg]
    own = dict(module.named_modules())
    for path, part in fresh.named_modules():
        if "lm_head" in part and path in own and "lm_head" not in own[path]:
            part.sanitize({})  # tied while the weights were loaded
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
        Symmetric matrix to multiply the state by, shape (d, d), or None. One for each input, as
        ``readout_roots`` gives them for soft-capped logits, is passed as a second input of shape
        (N, d, d) instead.

    Returns
    -------
    ParametricFunction
        A function of what ``hidden_before`` returns, shape (N, T, d), with outputs (N, d).
        Its parameters are called ``layers.NUMBER.NAME``.

    Raises
    ------
    InputError
        If the model lacks the layer or a name, the weights are quantised, or the model cannot be
        cut at the layer: on a short text, it does not reproduce its own last hidden state.
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
                f"{name} of layer {layer} is quantised: use the model in full precision, or load "
                "it with dequantise=True"
            )
    params = {f"layers.{layer}.{name}": own[name] for name in selection}

    def final(values: Params, hidden: mx.array) -> mx.array:
        chosen = {name: values[f"layers.{layer}.{name}"] for name in selection}
        block.update(unflatten_tree(chosen))
        try:
            state = states_above(model, hidden, layer)[:, -1]
        finally:  # a transform may have left tracers in the block
            block.update(unflatten_tree({name: own[name] for name in selection}))
        return state

    def apply(values: Params, hidden: mx.array, *roots: mx.array) -> mx.array:
        state = final(values, hidden)
        for root in roots:
            state = (state[:, None] @ root)[:, 0]
        return state if readout is None else state @ readout

    _require_cut(model, layer, partial(final, params))
    return from_flat(apply, params)


def _require_cut(model: LanguageModel, layer: int, cut: Callable[[mx.array], mx.array]) -> None:
    """Refuse a layer whose output, and the rest of the model, need more than its input."""
    message = (
        f"layer {layer} of {type(model.module).__module__} cannot be cut: other layers need more "
        "than the stream that it reads and writes"
    )
    try:
        state = cut(hidden_before(model, _PROBE, layer, 1))
        same = _close(state, model.hidden(_PROBE))
    except Exception as error:  # of the architecture's own code, which has no common base
        raise InputError(f"{message} ({error})") from error
    if not same:
        raise InputError(message)


class _Through(_Given):
    """Runs a layer on the cached stream, whatever the model passes to it."""

    def __init__(self, layer: nn.Module, hidden: mx.array, stop: bool = False):
        super().__init__(layer, hidden)
        self._stop = stop

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        key, _ = _stream(arguments, options)
        if isinstance(key, int):
            arguments = (*arguments[:key], self._hidden, *arguments[key + 1 :])
        else:
            options = {**options, key: self._hidden}
        output = self._layer(*arguments, **options)
        if self._stop:
            raise _ReachedError(output[0] if isinstance(output, tuple) else output)
        return output


def square_root_of_readout(unembedding: mx.array) -> mx.array:
    """Compute S^½ for S = UᵀU by an eigendecomposition in double precision.

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


def readout_roots(
    model: LanguageModel, states: mx.array, memory_limit: int | str | None = None
) -> mx.array:
    """Compute the square root by which the last hidden state is read out as logits.

    Parameters
    ----------
    model
        The model.
    states
        Last hidden states h, shape (N, d); they count only if the logits are soft-capped.
    memory_limit
        Bytes that the result may take, as a number or text such as ``4GB``; None is half of the
        available memory.

    Returns
    -------
    mx.array
        ``square_root_of_readout(model.unembedding)``, shape (d, d), if the logits are linear. Else
        the roots of Uᵀ diag(c'(z)²) U for each input, shape (N, d, d), float32, where z = U h + b
        and c' is the derivative of the cap.

    Raises
    ------
    InputError
        If the result does not fit in the limit.
    """
    if model.cap is None:
        return square_root_of_readout(model.unembedding)
    N, d = states.shape
    limit = limit_of(memory_limit) or default_limit()
    if 4 * N * d * d > limit:
        raise InputError(
            f"the readouts of {N} inputs would take {format_bytes(4 * N * d * d)}, more than the "
            f"memory limit of {format_bytes(limit)}: the logits are soft-capped, so that each "
            "input has its own"
        )
    roots = []
    for state in states:
        z = model.unembedding @ state + (0 if model.bias is None else model.bias)
        slope = 1 - mx.square(mx.tanh(z / model.cap))
        roots.append(square_root_of_readout(slope[:, None] * model.unembedding))
    return mx.stack(roots)
