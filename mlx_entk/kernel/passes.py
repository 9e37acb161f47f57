"""The two directions of a product with a kernel, Jᵀ v and J u, on a batch of inputs.

``LinearPasses`` go by a linearised model, of which everything that does not depend on the vector is
computed once; ``PlainPasses`` go by MLX's own transforms of the whole model, for models that
cannot be traced. Both are compiled once, for all operators that use them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_entk.kernel.forward import Push, find_push
from mlx_entk.kernel.linearised import Linearised, run
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.inputs import Inputs, count, part
from mlx_entk.tracing.jacobian import Probe, gradient
from mlx_entk.tracing.primitives import Arrays, UntraceableError
from mlx_entk.tracing.rules import Examined

# The stages of a batch: its inputs, what depends on none of the parameters, all that is needed.
_INPUTS, _AHEAD, _KEPT = range(3)
# A gradient this much smaller than the largest may be nothing but rounding.
_FLOOR = 1e-3


@dataclass(frozen=True)
class Batch:
    """What passes hold of a batch of inputs.

    Attributes
    ----------
    inputs
        The batch itself.
    arrays
        What was computed of it.
    stage
        How far.
    size
        Bytes of that beyond the inputs.
    """

    inputs: Inputs
    arrays: tuple[mx.array, ...]
    stage: int = _INPUTS
    size: int = 0


class Passes(Protocol):
    """Jᵀ v and J u of a function on batches of inputs."""

    function: ParametricFunction

    def prepare(self, x: Inputs, budget: int) -> Batch:
        """What to hold of a batch, in a budget of bytes."""
        ...

    def pull(self, cotangent: mx.array, batch: Batch) -> Arrays:
        """Σ over inputs and outputs of a cotangent (n, C) times the Jacobian, by parameter."""
        ...

    def push(self, tangents: Sequence[mx.array], batch: Batch) -> mx.array:
        """The change of the outputs along a tangent of each parameter, shape (n, C)."""
        ...

    def are_right(self, x: Inputs) -> bool:
        """Whether the gradients of a batch of this size are those of the model."""
        ...


def find_passes(examined: Examined, C: int, probe: Probe) -> Passes:
    """Linearised passes if the function and its derivative can be traced, else plain ones.

    Raises
    ------
    InputError
        If plain ones are needed and MLX has no right forward rule for the function.
    """
    if examined.graph is not None:
        passes = LinearPasses(examined.function, C, probe.tolerance, lean=not examined.hidden)
        if passes.are_right(probe.x):
            return passes
    return PlainPasses(find_push(examined, probe))


class PlainPasses:
    """By a backward and a forward pass of the whole model."""

    def __init__(self, push: Push):
        self.function = function = push.function
        names = list(function.params)

        def pull(cotangent: mx.array, *inputs: mx.array) -> Arrays:
            return gradient(function, names, inputs, cotangent)

        def forward(inputs: Inputs, tangents: list[mx.array]) -> mx.array:
            return push(inputs, names, tangents)

        self._pull, self._push = mx.compile(pull), mx.compile(forward)

    def prepare(self, x: Inputs, budget: int) -> Batch:
        """The inputs as they are."""
        return Batch(x, ())

    def pull(self, cotangent: mx.array, batch: Batch) -> Arrays:
        """Jᵀ v."""
        pulled: Arrays = self._pull(cotangent, *batch.inputs)
        return pulled

    def push(self, tangents: Sequence[mx.array], batch: Batch) -> mx.array:
        """J u."""
        pushed: mx.array = self._push(batch.inputs, list(tangents))
        return pushed

    def are_right(self, x: Inputs) -> bool:
        """They are the model's own."""
        return True


class LinearPasses:
    """By a linearised model, whose activations are kept if they fit, and else computed again.

    Parameters
    ----------
    function
        The function.
    C
        Its outputs.
    tolerance
        How far gradients may be from those of the function.
    lean
        Whether its graph tells its whole derivative; see ``Linearised.of``.
    """

    def __init__(self, function: ParametricFunction, C: int, tolerance: float, lean: bool):
        self.function, self._C = function, C
        self._tolerance, self._lean = tolerance, lean
        self._compiled: dict[tuple[object, ...], _Compiled] = {}

    def prepare(self, x: Inputs, budget: int) -> Batch:
        """As much as the budget holds of what products share."""
        linear = self._of(x).linear
        if linear.bytes_kept <= budget:
            return self._through(Batch(x, ()), _KEPT)
        if linear.bytes_ahead <= budget:
            return self._through(Batch(x, ()), _AHEAD)
        return Batch(x, ())

    def pull(self, cotangent: mx.array, batch: Batch) -> Arrays:
        """Jᵀ v."""
        kept = self._through(batch, _KEPT).arrays
        pulled: Arrays = self._of(batch.inputs).pull(cotangent, list(kept))
        return pulled

    def push(self, tangents: Sequence[mx.array], batch: Batch) -> mx.array:
        """J u."""
        kept = self._through(batch, _KEPT).arrays
        pushed: mx.array = self._of(batch.inputs).push(list(tangents), list(kept))
        return pushed

    def are_right(self, x: Inputs) -> bool:
        """Whether the model can be traced on a batch of this shape, and gives its own gradients.

        They are compared along a random cotangent of the first and the last input.
        """
        rows = sorted({0, count(x) - 1})
        cotangent = mx.random.normal((len(rows), self._C), key=mx.random.key(3))
        whole = mx.zeros((count(x), self._C))
        whole[mx.array(rows)] = cotangent
        try:
            found = self.pull(whole, Batch(x, ()))
        except UntraceableError:
            return False
        names = list(self.function.params)
        own = gradient(self.function, names, part(x, mx.array(rows)), cotangent)
        pairs = [
            (a.astype(mx.float32), b.astype(mx.float32))
            for a, b in zip(own, found, strict=True)
            if a.size
        ]
        sizes = [float(mx.abs(a).max()) for a, _ in pairs]
        floor = _FLOOR * max(sizes, default=0.0)
        return all(
            float(mx.abs(a - b).max()) <= self._tolerance * max(size, floor)
            for (a, b), size in zip(pairs, sizes, strict=True)
        )

    def _of(self, x: Inputs) -> "_Compiled":
        key = tuple((array.shape, array.dtype) for array in x)
        if key not in self._compiled:
            self._compiled[key] = _Compiled(Linearised.of(self.function, x, self._C, self._lean))
        return self._compiled[key]

    def _through(self, batch: Batch, stage: int) -> Batch:
        """A batch with its arrays computed as far as a stage."""
        compiled, arrays = self._of(batch.inputs), batch.arrays
        if batch.stage == stage:
            return batch
        size, linear = batch.size, compiled.linear
        if batch.stage < _AHEAD:
            arrays, size = tuple(run(linear.ahead, batch.inputs)), linear.bytes_ahead
        if stage == _KEPT:
            arrays, size = tuple(run(linear.kept, arrays)), linear.bytes_kept
        mx.eval(arrays)
        return Batch(batch.inputs, arrays, stage, size)


class _Compiled:
    """A linearised model, and both directions of it compiled."""

    def __init__(self, linear: Linearised):
        self.linear = linear
        self.pull = mx.compile(linear.pull)
        self.push = mx.compile(linear.push)
