"""See inside a module: what each dense layer was given, and what its output does to f.

A tap adds a zero perturbation to the output of an ``nn.Linear``. The derivative with respect
to it is δ, the derivative of the model's outputs by the layer's output; with the layer's input
a, the Jacobian of its weight is Σ δ ⊗ a over positions and calls, and of its bias Σ δ.

That holds only if the layer's parameters act through the layer alone, and if the layer keeps
the inputs of the batch apart on its first axis. Both are checked by derivatives that must be
exactly zero, never assumed: see :func:`find_structure`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from mlx_entk.jacobian import ParametricFunction, resolve, vmap_or_loop
from mlx_entk.kernel.factors import Factor, Outer, Rows


@dataclass
class _Tape:
    """What the tapped layers were given in one call of the model, in order."""

    layers: dict[int, str]
    perturbations: list[mx.array] | None = None
    calls: list[tuple[str, mx.array]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def call(self, layer: nn.Linear, x: mx.array) -> mx.array:
        # Behind stop_gradient, so that a derivative by the weight sees only other uses of it.
        y = x @ mx.stop_gradient(layer.weight).T
        if "bias" in layer:
            y = y + mx.stop_gradient(layer.bias)
        if self.perturbations is not None:
            y = y + self.perturbations[len(self.calls)]
        self.calls.append((self.layers[id(layer)], x))
        self.shapes.append(y.shape)
        return y


_active: ContextVar[_Tape] = ContextVar("active tape")


class _TappedLinear(nn.Linear):
    def __call__(self, x: mx.array) -> mx.array:
        return _active.get().call(self, x)


@dataclass(frozen=True)
class Structure:
    """The dense layers of a module whose parameters can be contracted without a Jacobian.

    Attributes
    ----------
    layers
        The layers by dotted path.
    names
        The names of the parameters they cover.
    """

    layers: dict[str, nn.Linear]
    names: frozenset[str]

    @contextmanager
    def _tapped(self, tape: _Tape) -> Iterator[None]:
        token = _active.set(tape)
        for layer in self.layers.values():
            layer.__class__ = _TappedLinear
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.__class__ = nn.Linear
            _active.reset(token)

    def _tape(self, perturbations: list[mx.array] | None = None) -> _Tape:
        return _Tape({id(layer): path for path, layer in self.layers.items()}, perturbations)

    def record(self, function: ParametricFunction, x: mx.array) -> _Tape:
        """Call the model once and keep what its layers were given."""
        tape = self._tape()
        with self._tapped(tape):
            mx.eval(function.apply({}, x), [a for _, a in tape.calls])
        return tape

    def perturbed(
        self, function: ParametricFunction, x: mx.array, names: list[str], arrays: list[mx.array]
    ) -> mx.array:
        """f(x) with the given parameters, and the given perturbations after the layers."""
        params = dict(zip(names, arrays, strict=False))
        with self._tapped(self._tape(list(arrays[len(names) :]))):
            return function.apply(params, x)

    def factors(
        self, function: ParametricFunction, x: mx.array, cotangents: mx.array, paired: bool
    ) -> dict[str, Factor]:
        """The Jacobian factor of every covered parameter on the inputs x."""
        tape = self.record(function, x)
        zeros = [mx.zeros(shape) for shape in tape.shapes]
        n, R = x.shape[0], cotangents.shape[0]

        def pull(cotangent: mx.array) -> list[mx.array]:
            spread = mx.broadcast_to(cotangent, (n, cotangent.size))
            return mx.vjp(lambda *e: self.perturbed(function, x, [], list(e)), zeros, [spread])[1]

        deltas = vmap_or_loop(pull, cotangents)
        inputs_of: dict[str, list[mx.array]] = {path: [] for path in self.layers}
        deltas_of: dict[str, list[mx.array]] = {path: [] for path in self.layers}
        for (path, a), delta in zip(tape.calls, deltas, strict=True):
            inputs_of[path].append(a.reshape(n, -1, a.shape[-1]).astype(mx.float32))
            deltas_of[path].append(delta.reshape(R, n, -1, delta.shape[-1]).astype(mx.float32))
        found: dict[str, Factor] = {}
        for path in self.layers:
            a, d = mx.concatenate(inputs_of[path], 1), mx.concatenate(deltas_of[path], 2)
            if f"{path}.weight" in self.names:
                outer = Outer(a, d)
                found[f"{path}.weight"] = outer.rows() if outer.prefers_rows(paired) else outer
            if f"{path}.bias" in self.names:
                found[f"{path}.bias"] = Rows(d.sum(axis=2).transpose(1, 0, 2))
        return found


def find_structure(function: ParametricFunction, x: mx.array) -> Structure:
    """The dense layers of a module that structured derivatives hold for, found on inputs x.

    A layer stays out, and its parameters with the exact Jacobian, if it is never called; if
    its input does not start with the batch axis; if a derivative by its parameters is left
    when the layer itself holds them constant (its weight is used elsewhere too); or if the
    outputs of one input depend on what the layer returned for another.
    """
    structure = _linear_layers(function)
    if not structure.layers or x.shape[0] == 0:
        return _restrict(function, {})
    tape = structure.record(function, x)
    called = {path for path, _ in tape.calls}
    ragged = {path for path, a in tape.calls if a.ndim < 2 or a.shape[0] != x.shape[0]}
    structure = _restrict(
        function, {p: v for p, v in structure.layers.items() if p in called - ragged}
    )
    # Leaving a layer out changes which derivatives are held constant: repeat until it settles.
    while structure.layers:
        leaking = _leaking(structure, function, x)
        if not leaking:
            break
        kept = {p: v for p, v in structure.layers.items() if p not in leaking}
        structure = _restrict(function, kept)
    return structure


def _linear_layers(function: ParametricFunction) -> Structure:
    """Every plain ``nn.Linear`` with a trainable parameter; subclasses may compute anything."""
    layers: dict[str, nn.Linear] = {}
    if function.module is None:
        return _restrict(function, layers)
    for name in function.params:
        path = name.rpartition(".")[0]
        owner, _ = resolve(function.module, path, "")
        if type(owner) is nn.Linear and path:
            layers[path] = owner
    return _restrict(function, layers)


def _restrict(function: ParametricFunction, layers: dict[str, nn.Linear]) -> Structure:
    names = (f"{path}.{leaf}" for path in layers for leaf in ("weight", "bias"))
    return Structure(layers, frozenset(name for name in names if name in function.params))


def _leaking(structure: Structure, function: ParametricFunction, x: mx.array) -> set[str]:
    """Paths of layers whose parameters or batch rows act on f by another way too."""
    tape = structure.record(function, x)
    names = sorted(structure.names)
    arrays = [function.params[name] for name in names] + [mx.zeros(s) for s in tape.shapes]
    outputs = structure.perturbed(function, x, names, arrays)
    every = mx.random.normal(outputs.shape, key=mx.random.key(0))
    first_only = mx.concatenate([every[:1], mx.zeros_like(every[1:])])

    def derivatives(cotangent: mx.array) -> list[mx.array]:
        return mx.vjp(
            lambda *a: structure.perturbed(function, x, names, list(a)), arrays, [cotangent]
        )[1]

    by_params = derivatives(every)[: len(names)]
    by_layers = derivatives(first_only)[len(names) :]
    leaking = {
        name.rpartition(".")[0]
        for name, left in zip(names, by_params, strict=True)
        if mx.any(left != 0).item()
    }
    leaking |= {
        path
        for (path, _), delta in zip(tape.calls, by_layers, strict=True)
        if mx.any(delta[1:] != 0).item()
    }
    return leaking
