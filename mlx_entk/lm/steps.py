"""Steps of a layer's weight along directions, and what they do to the next word.

A mode v of R J Jᵀ R, with eigenvalue λ, has the direction u = Jᵀ R v / √λ in the weight W, with
norm 1: the change of W of that size that moves the outputs R h most along v, by √λ. A step of
dose ε is W + ε ‖W‖ u, with ‖W‖ the Frobenius norm. What stands below the layer is not changed by
it, so that it runs once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk._parameters import flatten_tree, unflatten_tree
from mlx_entk.errors import InputError
from mlx_entk.kernel.operator import EntkOperator
from mlx_entk.lm.model import LanguageModel, layer_function, states_above
from mlx_entk.lm.positions import pulled_back
from mlx_entk.tracing.graph import Graph, record, require_known
from mlx_entk.tracing.partial import folded, split
from mlx_entk.tracing.primitives import RIGHT, UntraceableError
from mlx_entk.tracing.pruning import pruned

# Windows of one pass to the last position; logits at every position take more memory.
_BATCH, _LOGITS = 32, 4
# A product with a mode may be so far off, as a share of the eigenvalue: modes need not have
# converged, and with a vector that is none it is off by the whole.
_FURTHEST = 0.5
# How far a traced model may be from the model itself, over the largest entry.
_CLOSE = 1e-4


@dataclass(frozen=True)
class Weight:
    """A weight of a layer of a language model, to be changed and put back.

    Attributes
    ----------
    model
        The model; it is the same again after every measurement, also after one that fails.
    layer
        Number of the layer.
    name
        Of the weight inside the layer, such as ``mlp.down_proj.weight``.
    """

    model: LanguageModel
    layer: int
    name: str

    @property
    def value(self) -> mx.array:
        """The weight as it is in the model."""
        array: mx.array = flatten_tree(self.model.layers[self.layer].parameters())[self.name]
        return array

    @property
    def norm(self) -> float:
        """Its Frobenius norm."""
        return _norm(self.value)

    def stepped(self, direction: mx.array, dose: float) -> mx.array:
        """W + ε ‖W‖ u, for a direction u of norm 1 and the shape of the weight."""
        return self.value + dose * self.norm * direction

    @contextmanager
    def replaced(self, value: mx.array) -> Iterator[None]:
        """Let the model have another value of the weight for a while."""
        block, own = self.model.layers[self.layer], self.value
        if value.shape != own.shape:
            raise InputError(f"{self.name} has shape {own.shape}, not {value.shape}")
        try:
            block.update(unflatten_tree({self.name: value}))
            yield
        finally:
            block.update(unflatten_tree({self.name: own}))

    def states(self, value: mx.array, hidden: mx.array, last: bool) -> mx.array:
        """With another value, what the unembedding reads.

        ``hidden`` is what the layer reads, shape (B, T, d), and so is the result; of the last
        position alone it has shape (B, d).
        """
        with self.replaced(value):
            states = states_above(self.model, hidden, self.layer)
        return states[:, -1] if last else states


class Above:
    """What stands above a weight, on some windows: from its value to what the unembedding reads.

    What does not depend on the weight is computed once, and of the rest only what is read, if MLX
    can report the model as a graph; otherwise the layer and those above it run whole.

    Parameters
    ----------
    weight
        The weight.
    hidden
        What the layer reads on N windows, shape (N, T, d).
    last
        Whether the last position alone is of interest.
    """

    def __init__(self, weight: Weight, hidden: mx.array, last: bool):
        self.weight, self._last = weight, last
        size = _BATCH if last else _LOGITS
        self._batches = [hidden[i : i + size] for i in range(0, hidden.shape[0], size)]
        self._stages = {rows.shape: self._traced(rows) for rows in self._batches}
        self._kept = [self._ahead(rows) for rows in self._batches]

    def states(self, value: mx.array) -> Iterator[mx.array]:
        """With another value, what the unembedding reads, batch by batch.

        Each batch has shape (B, T, d), or (B, d) of the last position.
        """
        for rows, kept in zip(self._batches, self._kept, strict=True):
            stages = self._stages[rows.shape]
            if stages is None:
                state = self.weight.states(value, rows, self._last)
            else:
                state = stages[1](value, *kept)
            mx.eval(state)
            yield state

    def _traced(self, rows: mx.array) -> tuple[Graph, Callable[..., mx.array]] | None:
        """What does not depend on the weight, and the rest; None if the two are not the model."""

        def states(value: mx.array, hidden: mx.array) -> mx.array:
            return self.weight.states(value, hidden, self._last)

        value = self.weight.value
        try:
            graph = record(states, value, rows)
            require_known(graph)
            graph = folded(pruned(graph), graph.inputs)
            first, second = split(graph, graph.inputs[:1])
        except UntraceableError:
            return None

        @mx.compile
        def rest(*inputs: mx.array) -> mx.array:
            return second.run(list(inputs), instead=RIGHT)[second.outputs[0]]

        for tried in (value, 0.5 * value):
            found, own = rest(tried, *_run(first, rows)), states(tried, rows)
            if not mx.abs(found - own).max() <= _CLOSE * mx.abs(own).max():
                return None
        return first, rest

    def _ahead(self, rows: mx.array) -> list[mx.array]:
        stages = self._stages[rows.shape]
        return [] if stages is None else _run(stages[0], rows)


def _run(graph: Graph, rows: mx.array) -> list[mx.array]:
    values = graph.run([rows], instead=RIGHT)
    kept = [mx.contiguous(values[name]) for name in graph.outputs]
    mx.eval(kept)
    return kept


def _norm(array: mx.array) -> float:
    return float(np.linalg.norm(np.array(array.astype(mx.float32), dtype=np.float64)))


def mode_direction(operator: EntkOperator, vector: Float64Array, value: float) -> mx.array:
    """The direction of a mode in the one weight that an operator is about, u = Jᵀ v / √λ.

    Parameters
    ----------
    operator
        The kernel that has the mode, by a single parameter; takes one product.
    vector
        The mode, shape (d·N,), of norm 1.
    value
        Its eigenvalue λ.

    Returns
    -------
    mx.array
        Of the weight's shape, with norm 1.

    Raises
    ------
    InputError
        If the eigenvalue is not positive, or the vector is no mode of the operator.
    """
    if not value > 0:
        raise InputError(f"the eigenvalue is {value:g}: only a positive one has a mode in weights")
    if vector.shape != operator.shape[:1]:
        raise InputError(
            f"a mode of this kernel has {operator.shape[0]} entries, not shape {vector.shape}"
        )
    product = operator @ vector
    off = float(np.linalg.norm(product - value * vector)) / value
    if not off <= _FURTHEST:
        raise InputError(
            f"what is stored as a mode of eigenvalue {value:.3g} is not one of this model and "
            f"these windows: its product is off by {off:.0%}"
        )
    (tangent,) = operator.tangent
    return tangent / _norm(tangent)


def random_direction(shape: tuple[int, ...], seed: Sequence[int]) -> mx.array:
    """A direction drawn evenly from all of norm 1."""
    drawn = np.random.default_rng(list(seed)).standard_normal(shape)
    return mx.array((drawn / np.linalg.norm(drawn)).astype(np.float32))


def input_direction(
    direction: mx.array,
    components: Float64Array,
    known: Sequence[tuple[float, mx.array]],
) -> tuple[mx.array, int]:
    """The control of a mode that needs no kernel on its input side: a rank-one direction b cᵀ.

    Parameters
    ----------
    direction
        The mode's direction u, shape (O, I).
    components
        Principal directions of what the weight multiplies, as rows of norm 1, shape (k, I). The
        input side c is the one that the mode reads most of: the largest ‖u c‖.
    known
        Eigenvalue λ and direction of modes. The output side b is the one of norm 1 that moves the
        outputs most, as far as these modes tell: the largest Σ λ (bᵀ u c)².

    Returns
    -------
    direction, number
        Of norm 1; and the number of the principal direction.
    """
    rows = np.array(direction, dtype=np.float64) @ components.T
    number = int(np.linalg.norm(rows, axis=0).argmax())
    c = components[number]
    sides = [np.sqrt(value) * (np.array(u, dtype=np.float64) @ c) for value, u in known]
    b = np.linalg.svd(np.stack(sides, axis=1), full_matrices=False)[0][:, 0]
    return mx.array(np.outer(b, c).astype(np.float32)), number


def log_masses(above: Above, value: mx.array, words: Sequence[mx.array]) -> Float64Array:
    """How probable sets of words are as the next one, with another value of the weight.

    Parameters
    ----------
    above
        What stands above the weight on N windows, of the last position.
    value
        What stands in the weight's place.
    words
        Sets of tokens, an array of numbers each.

    Returns
    -------
    Float64Array
        Logarithm of the probability of each set, shape (L, N).
    """
    model = above.weight.model
    found = [
        np.array(mx.stack([_log_mass(model, state, tokens) for tokens in words]))
        for state in above.states(value)
    ]
    return np.concatenate(found, axis=1).astype(np.float64)


def _log_mass(model: LanguageModel, state: mx.array, tokens: mx.array) -> mx.array:
    logits = model.logits(state)
    return mx.logsumexp(logits[:, tokens], axis=1) - mx.logsumexp(logits, axis=1)


def log_mass_gradient(
    weight: Weight, hidden: mx.array, tokens: mx.array, shares: Float64Array
) -> Float64Array:
    """The gradient of a weighted mean of log-probabilities of a set of words, by the weight.

    Its product with ε ‖W‖ u is the first-order prediction of what a step does.

    Parameters
    ----------
    weight
        The weight, at its value in the model.
    hidden
        What the layer reads on N windows, shape (N, T, d).
    tokens
        The set of words.
    shares
        What each window counts, shape (N,); windows that count 0 are left out.

    Returns
    -------
    Float64Array
        Of the weight's shape.
    """
    counted = mx.array(np.flatnonzero(shares))
    hidden, share = hidden[counted], mx.array(shares.astype(np.float32))[counted]
    function = layer_function(weight.model, weight.layer, [weight.name], None)

    def mean(state: mx.array) -> mx.array:
        return _log_mass(weight.model, state, tokens).sum()

    parts = []
    for start in range(0, hidden.shape[0], _BATCH):
        state = function.apply(function.params, hidden[start : start + _BATCH])
        parts.append(mx.grad(mean)(state))
        mx.eval(parts)
    cotangents = share[:, None] * mx.concatenate(parts)
    (gradient,) = pulled_back(function, hidden, cotangents, _BATCH)
    return np.array(gradient, dtype=np.float64)


def perplexity(above: Above, value: mx.array, tokens: mx.array, ahead: int) -> float:
    """The perplexity of text with another value of the weight.

    Parameters
    ----------
    above
        What stands above the weight on windows of the text, of all positions.
    value
        What stands in the weight's place.
    tokens
        The windows, shape (N, T).
    ahead
        How many tokens stand before each window, which are not counted.

    Returns
    -------
    float
        exp of the mean negative log-likelihood of all tokens, the first of each window left out
        if nothing stands before it; infinite if the logits are not finite.
    """
    first = max(1, ahead)
    losses: list[Float64Array] = []
    start = 0
    for states in above.states(value):
        logits = above.weight.model.logits(states[:, first - 1 : -1])
        following = tokens[start : start + states.shape[0], first:, None]
        chosen = mx.take_along_axis(logits, following, axis=-1).squeeze(-1)
        losses.append(np.array(mx.logsumexp(logits, axis=-1) - chosen, dtype=np.float64))
        start += states.shape[0]
    with np.errstate(over="ignore"):
        found = float(np.exp(np.concatenate(losses).mean()))
    return found if np.isfinite(found) else float("inf")


def likeliest(above: Above, value: mx.array, count: int) -> list[list[tuple[int, float]]]:
    """The likeliest next tokens with another value of the weight, and their probabilities.

    ``above`` is as for ``log_masses``; there are ``count`` tokens for each window.
    """
    found = []
    for state in above.states(value):
        chances = mx.softmax(above.weight.model.logits(state), axis=-1)
        order = mx.argsort(-chances, axis=-1)[:, :count]
        at_them = np.array(mx.take_along_axis(chances, order, axis=-1), dtype=np.float64)
        pairs = zip(np.array(order), at_them, strict=True)
        found += [list(zip(map(int, t), map(float, p), strict=True)) for t, p in pairs]
    return found
