"""Recurrent layers: one step after the other, written out as operations on arrays."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_entk._memory import default_limit
from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import require_room
from mlx_entk.onnx.operators.gates import Function, activations
from mlx_entk.onnx.operators.values import (
    Attributes,
    Indices,
    Inputs,
    Operator,
    Value,
    as_mlx,
    choice,
    note_chain,
    note_indices,
    optional,
)

State = tuple[mx.array, ...]


@dataclass(frozen=True)
class _Direction:
    """One direction of a layer of H units with G gates.

    Attributes
    ----------
    functions
        The activation functions.
    W, R
        Weights of the input and of the last state, (I, G·H) and (H, G·H).
    bias
        Bias of the input, (G·H,), if there is one.
    bias_of_state
        Bias of the state, (G·H,), if there is one that cannot be part of the former.
    peepholes
        Weights from the cell to the input, output and forget gates, (H,) each, if there are any.
    coupled
        Whether the forget gate is what the input gate leaves.
    reset_last
        Whether the reset gate acts on the product with R and its bias, not on the state in it.
    taken
        What the products of an LSTM with R take instead of the state.
    """

    functions: list[Function]
    W: mx.array
    R: mx.array
    bias: mx.array | None
    bias_of_state: mx.array | None
    peepholes: list[mx.array]
    coupled: bool
    reset_last: bool
    taken: Function


def _affine(value: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    product = value @ weight
    return product if bias is None else product + bias


def _rnn_step(layer: _Direction, z: mx.array, state: State) -> State:
    """The next state, for what the step's input gives to the gates, (B, G·H)."""
    (f,) = layer.functions
    return (f(z + state[0] @ layer.R),)


def _gru_step(layer: _Direction, z: mx.array, state: State) -> State:
    f, g = layer.functions
    (h,) = state
    first_two = [2 * h.shape[-1]]
    z_gates, z_new = mx.split(z, first_two, axis=-1)
    if layer.reset_last:
        product = _affine(h, layer.R, layer.bias_of_state)
        h_gates, h_new = mx.split(product, first_two, axis=-1)
        update, reset = mx.split(f(z_gates + h_gates), 2, axis=-1)
        new = g(z_new + reset * h_new)
    else:
        R_gates, R_new = mx.split(layer.R, first_two, axis=-1)
        update, reset = mx.split(f(z_gates + h @ R_gates), 2, axis=-1)
        new = g(z_new + (reset * h) @ R_new)
    return ((1 - update) * new + update * h,)


def _lstm_step(layer: _Direction, z: mx.array, state: State) -> State:
    f, g, of_cell = layer.functions
    h, c = state
    i, o, forget, new = mx.split(z + layer.taken(h) @ layer.R, 4, axis=-1)
    if layer.peepholes:
        to_i, to_o, to_forget = layer.peepholes
        i, forget = i + to_i * c, forget + to_forget * c
    i = f(i)
    c = (1 - i if layer.coupled else f(forget)) * c + i * g(new)
    if layer.peepholes:
        o = o + to_o * c
    return f(o) * of_cell(c), c


@dataclass(frozen=True)
class _Kind:
    """A kind of recurrent layer.

    Attributes
    ----------
    gates
        How many gates it has.
    functions
        Its activation functions, unless others are chosen.
    clipped
        How many of them clip what they are given.
    states
        Which inputs hold the first states.
    length
        How many operators one step is a chain of.
    step
        The next states.
    """

    gates: int
    functions: tuple[str, ...]
    clipped: int
    states: tuple[int, ...]
    length: int
    step: Callable[[_Direction, mx.array, State], State]


Layer = Callable[[Inputs, Attributes, int], list[mx.array]]


def _layer(kind: _Kind, taken: Function = lambda state: state) -> Layer:
    def apply(x: Inputs, a: Attributes, n: int) -> list[mx.array]:
        value, R = as_mlx(x[0]), as_mlx(x[2])
        batch_first = bool(a.get("layout", 0))
        if value.ndim != 3 or 0 in (value.size, R.size):
            raise InputError(f"there are no sequences in an array of shape {value.shape}")
        value = mx.swapaxes(value, 0, 1) if batch_first else value
        steps, batch, features = value.shape
        direction = choice(a, "direction", "forward", "reverse", "bidirectional")
        backward = {"forward": [False], "reverse": [True]}.get(direction, [False, True])
        count, size = len(backward), a.get("hidden_size", R.shape[-1])
        layers = _directions(kind, x, a, (count, size, features), taken)
        firsts = []
        for i in kind.states:
            first = mx.zeros((count, batch, size), dtype=value.dtype)
            if optional(x, i) is not None:
                first = mx.swapaxes(as_mlx(x[i]), 0, 1) if batch_first else as_mlx(x[i])
            firsts.append(_parts("a first state", first, (count, batch, size)))
        note_chain(steps * kind.length)
        # What a step keeps for a backward pass: gates, before and after functions, and states.
        entries = steps * batch * count * size * (3 * kind.gates + 4)
        require_room(entries * value.dtype.size, default_limit(), "the steps together")
        alive = _alive(optional(x, 4), steps, batch)
        outputs, lasts = [], []
        for k, layer in enumerate(layers):
            z = _affine(value, layer.W, layer.bias)
            state = tuple(first[k] for first in firsts)
            output, last = _run(kind, layer, z, state, alive, backward[k])
            outputs.append(output)
            lasts.append(last)
        Y = mx.stack(outputs, axis=1)
        ends = [mx.stack(list(states)) for states in zip(*lasts, strict=True)]
        if not batch_first:
            return [Y, *ends]
        return [mx.transpose(Y, (2, 0, 1, 3)), *(mx.swapaxes(end, 0, 1) for end in ends)]

    return apply


def _directions(
    kind: _Kind, x: Inputs, a: Attributes, sizes: tuple[int, int, int], taken: Function
) -> list[_Direction]:
    """Every direction, for the numbers of directions, units and features."""
    count, size, features = sizes
    width = kind.gates * size
    Ws = _parts("W", as_mlx(x[1]), (count, width, features))
    Rs = _parts("R", as_mlx(x[2]), (count, width, size))
    B, P = optional(x, 3), optional(x, 7)
    Bs = [] if B is None else _parts("B", as_mlx(B), (count, 2 * width))
    Ps = [] if P is None else _parts("P", as_mlx(P), (count, 3 * size))
    reset_last = bool(a.get("linear_before_reset", 0))
    directions = []
    for k, functions in enumerate(activations(a, kind.functions, kind.clipped, count)):
        of_input: mx.array | None = None
        of_state: mx.array | None = None
        if Bs:
            of_input, of_state = mx.split(Bs[k], 2)
            if not reset_last:
                of_input, of_state = of_input + of_state, None
        peepholes = list(mx.split(Ps[k], 3)) if Ps else []
        coupled = bool(a.get("input_forget", 0))
        parts = (Ws[k].T, Rs[k].T, of_input, of_state, peepholes)
        directions.append(_Direction(functions, *parts, coupled, reset_last, taken))
    return directions


def _parts(name: str, value: mx.array, shape: tuple[int, ...]) -> list[mx.array]:
    """The part of every direction, which is the first axis.

    Raises
    ------
    InputError
        If an array does not have the shape that the layer needs.
    """
    if value.shape != shape:
        raise InputError(f"{name} has shape {value.shape}, not {shape}")
    return [mx.squeeze(part, 0) for part in mx.split(value, shape[0], axis=0)]


def _run(
    kind: _Kind, layer: _Direction, z: mx.array, state: State, alive: list[mx.array], backward: bool
) -> tuple[mx.array, State]:
    """The output of every step, (T, B, H), and the last states, (B, H) each.

    A sequence that has ended, or not yet begun in the backward direction, keeps its state.
    """
    inputs = mx.split(z, z.shape[0], axis=0)
    outputs = []
    zero = mx.zeros((), dtype=z.dtype)
    for t in reversed(range(len(inputs))) if backward else range(len(inputs)):
        new = kind.step(layer, mx.squeeze(inputs[t], 0), state)
        if alive:
            new = tuple(mx.where(alive[t], b, a) for a, b in zip(state, new, strict=True))
        state = new
        outputs.append(mx.where(alive[t], state[0], zero) if alive else state[0])
    if alive:  # onnxruntime leaves an empty sequence no state either
        state = tuple(mx.where(alive[0], one, zero) for one in state)
    return mx.stack(outputs[::-1] if backward else outputs), state


def _alive(lengths: Value, steps: int, batch: int) -> list[mx.array]:
    """For each step, which sequences have it, (B, 1); an empty list if all have all.

    Raises
    ------
    InputError
        For a length that sequences of that many steps cannot have.
    """
    if lengths is None:
        return []
    if lengths.shape != (batch,):
        raise InputError(f"sequence_lens has shape {lengths.shape}, not {(batch,)}")
    if isinstance(lengths, np.ndarray):
        if not (lengths >= 0).all() or not (lengths <= steps).all():
            raise InputError(f"a sequence of {steps} steps has no length outside 0 … {steps}")
        if (lengths == steps).all():
            return []
    array = as_mlx(lengths)
    note_indices(Indices(array, (array >= 0) & (array <= steps), steps + 1))
    return [mx.expand_dims(array > t, 1) for t in range(steps)]


_LSTM = _Kind(4, ("Sigmoid", "Tanh", "Tanh"), 2, (5, 6), 8, _lstm_step)


def lstm(taken: Function) -> Layer:
    """LSTM, whose products with R take a function of the state instead of it."""
    return _layer(_LSTM, taken)


RECURRENT: dict[str, Operator] = {
    "GRU": _layer(_Kind(3, ("Sigmoid", "Tanh"), 2, (5,), 10, _gru_step)),
    "LSTM": _layer(_LSTM),
    "RNN": _layer(_Kind(1, ("Tanh",), 1, (5,), 4, _rnn_step)),
}
