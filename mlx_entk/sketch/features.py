"""The projected gradients of any inputs of one model, tile by tile."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._files import digest
from mlx_entk._linalg import FloatArray, as_numpy, require_finite
from mlx_entk._memory import format_bytes
from mlx_entk.errors import InputError
from mlx_entk.kernel import entk
from mlx_entk.kernel.checks import check_model, require_finite_outputs
from mlx_entk.kernel.guard import Ways, find_ways
from mlx_entk.kernel.reduction import Cotangents, Reduction, cotangents_of, require_kernel
from mlx_entk.kernel.tiling import ranges
from mlx_entk.kernel.work import Factors, Work
from mlx_entk.sketch.projection import Projection
from mlx_entk.tracing.functions import Model, Output, Selection, bind
from mlx_entk.tracing.inputs import Inputs, as_inputs, count, different, part

# Cotangents at a time. Projections of a sum over cotangents depend on it, so it never changes.
_COTANGENTS = 128
# Floats alive for each float of a factor, and for each number of a projection, while it is made.
_FACTOR_COPIES, _COLUMN_COPIES = 6, 16
# Floats of the factors of a tile: more leave the caches.
_LARGEST = 2**25
# Numbers whose products single precision holds.
_SMALLEST, _GREATEST = 1e-17, 1e17


@dataclass(frozen=True)
class Subject:
    """A model, and which of its outputs and parameters count; see ``mlx_entk.entk``."""

    model: Model
    params: Any = None
    output: Output | None = None
    parameters: Selection | None = None


class Sketcher:
    """Projects the gradients of inputs.

    Parameters
    ----------
    subject
        The model.
    x
        Inputs, as the model takes them.
    reduction
        Of the kernel.
    columns, seed
        Of the projection.

    Raises
    ------
    InputError
        As ``mlx_entk.entk`` does, and for a pair of different classes.
    """

    def __init__(self, subject: Subject, x: Any, reduction: Reduction, columns: int, seed: int):
        require_kernel(reduction)
        function, self.x = bind(
            subject.model, x, subject.params, subject.output, subject.parameters
        )
        _, self._names = as_inputs(x)
        self.outputs = check_model(function, self.x, subject.model)
        self.cotangents: Cotangents = cotangents_of(reduction, self.outputs)
        self.subject, self.reduction = subject, reduction
        self._ways = find_ways(function, self.x, self.outputs)
        self._projection = Projection(columns, seed, self._own_places(columns))

    @property
    def exact(self) -> bool:
        """Whether the gradients have so few entries that each has a place of its own."""
        return self._own_places(self._projection.columns) is not None

    def _own_places(self, columns: int) -> dict[str, int] | None:
        R = len(self.cotangents.left)
        first, own = 0, {}
        for name, value in self._ways.function.params.items():
            own[self._key(name, slice(0, R))] = first
            first += value.size * (R if self.cotangents.paired else 1)
        return own if first <= columns and R <= _COTANGENTS else None

    def _key(self, name: str, cotangents: slice) -> str:
        """What the projection calls a parameter: of a sum over cotangents, each part is its own."""
        return f"{name}, {cotangents.start}" if self.cotangents.paired else name

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of the features of an input: (k,), or (C, k) for the full kernel."""
        k = self._projection.columns
        return (len(self.cotangents.left), k) if self.cotangents.keeps_classes else (k,)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What features depend on, apart from inputs and the projection."""
        outputs = self._ways.function.apply({}, *different(self.x))
        return {
            "parameters": digest(self._ways.function.params),
            "model": self._ways.fingerprint or digest({"outputs": outputs}),
            "structured": _structured(self._ways),
        }

    def of_other(self, x: Any) -> "Sketcher":
        """The same for other inputs.

        Raises
        ------
        InputError
            If they do not fit the model, or if it uses a parameter in another way on them, so that
            the features could not be compared.
        """
        s, k = self.subject, self._projection
        function, inputs = bind(s.model, x, s.params, s.output, s.parameters)
        expected = [(array.shape[1:], array.dtype) for array in self.x]
        if [(array.shape[1:], array.dtype) for array in inputs] != expected:
            said = ", ".join(f"{shape} of {dtype}" for shape, dtype in expected)
            raise InputError(f"inputs have other shapes or types than those of the sketch: {said}")
        require_finite_outputs(function, inputs)
        other = object.__new__(Sketcher)
        other.x, other.outputs, other.cotangents = inputs, self.outputs, self.cotangents
        other.subject, other._projection, other._names = s, k, self._names
        other.reduction = self.reduction
        other._ways = find_ways(function, inputs, self.outputs)
        if _structured(other._ways) != _structured(self._ways):
            raise InputError(
                "the gradients of these inputs are not those of the model's graph, as they are for "
                "the inputs of the sketch: sketch both together"
            )
        return other

    def exact_kernel(self, rows: Inputs, columns: Inputs | None, memory_limit: int) -> FloatArray:
        """The kernel itself, by ``mlx_entk.entk``."""
        s = self.subject
        return entk(
            s.model,
            self.as_given(rows),
            None if columns is None else self.as_given(columns),
            reduction=self.reduction,
            params=s.params,
            output=s.output,
            parameters=s.parameters,
            memory_limit=memory_limit,
        )

    def as_given(self, x: Inputs) -> Any:
        """Inputs as the model takes them."""
        return x if self._names is None else dict(zip(self._names, x, strict=True))

    @property
    def names(self) -> list[str] | None:
        """By which the model takes its inputs."""
        return None if self._names is None else list(self._names)

    def tiles(self, budget: int, start: int = 0) -> Iterator[tuple[slice, FloatArray]]:
        """Ranges of the inputs from ``start`` on, and their features, shape (n, …, k).

        Raises
        ------
        InputError
            If one input does not fit into a budget of bytes, or has gradients that are not finite
            or beyond what single precision holds.
        """
        size, N = self._inputs_within(budget), count(self.x)
        for rows in ranges(N - start, size):
            tile = slice(start + rows.start, start + rows.stop)
            features = self._features(part(self.x, tile))
            _require_held(features)
            yield tile, features

    def _features(self, x: Inputs) -> FloatArray:
        paired, chunks = self.cotangents.paired, []
        for chosen in ranges(len(self.cotangents.left), _COTANGENTS):
            total = mx.zeros(())
            for name, factor in self._factors(x, self.cotangents.left[chosen]).items():
                projected = self._projection.apply(self._key(name, chosen), factor, paired)
                total = total + projected
                mx.eval(total)  # bounds the memory to one parameter
            chunks.append(mx.broadcast_to(total, (count(x), *total.shape[1:])))
        whole = sum(chunks[1:], chunks[0]) if paired else mx.concatenate(chunks, axis=1)
        return as_numpy(whole.reshape(count(x), *self.row))

    def _factors(self, x: Inputs, cotangents: mx.array) -> Factors:
        return self._work.factors(x, cotangents)

    @cached_property
    def _work(self) -> Work:
        # With halves, outer products stay what they are.
        return Work(self._ways, self.cotangents, self.x, None, by_layer=True, halves=True)

    def _inputs_within(self, budget: int) -> int:
        """Inputs a tile that stay within a budget of bytes."""
        R = min(len(self.cotangents.left), _COTANGENTS)
        one = self._factors(part(self.x, slice(1)), self.cotangents.left[:1])
        structure = self._ways.structure
        alive = structure.activations if structure is not None else 0
        factors = R * (alive + sum(factor.size for factor in one.values()))
        columns = self._projection.columns * (1 if self.cotangents.paired else R)
        each = 4 * (_FACTOR_COPIES * factors + _COLUMN_COPIES * columns)
        if each > budget:
            raise InputError(
                f"one input takes {format_bytes(each)} of working memory, the limit leaves "
                f"{format_bytes(max(0, budget))}: raise the memory limit"
            )
        return max(1, min(count(self.x), budget // each, _LARGEST // factors))


def _structured(ways: Ways) -> list[str]:
    """Names of the parameters whose gradients follow from their uses."""
    return sorted(ways.structure.uses) if ways.structure is not None else []


def _require_held(features: FloatArray) -> None:
    """Raise InputError for features that are not finite, or whose products would not be."""
    require_finite(features, "gradients")
    largest = float(np.abs(features).max())
    if largest > _GREATEST:
        raise InputError("the gradients are beyond what single precision holds: scale outputs down")
    if 0 < largest < _SMALLEST:
        raise InputError("the gradients are below what single precision holds: scale outputs up")
