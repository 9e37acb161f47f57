"""Derivatives and kernels of a loaded ONNX file, against its float64 counterpart."""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_entk import entk
from mlx_entk.onnx.importer import OnnxFunction
from mlx_entk.onnx.operators import from_numpy
from mlx_entk.tracing.functions import ParametricFunction
from tests.onnx.double import Double
from tests.onnx.real_list import Array, RealFile

# How much of its size a parameter moves in a difference.
STEP = 1e-8
# The most parameters that a kernel is of; large networks take evenly spread ones.
MOST = 32
# Entries of an output that a derivative is checked of: of few, hardly one is at a kink.
ENTRIES = 64

Sample = Mapping[str, Array]


def outputs_of(
    function: OnnxFunction, params: dict[str, mx.array], sample: Sample, names: Sequence[str]
) -> list[mx.array]:
    """Some outputs for a sample."""
    return function.run(params, [from_numpy(sample[name]) for name in function.inputs], names)


class Case:
    """A loaded file, its float64 counterpart, and two inputs."""

    def __init__(
        self, function: OnnxFunction, file: RealFile, double: Double, samples: Sequence[Sample]
    ) -> None:
        self._function, self._file, self._double = function, file, double
        self._samples = samples
        self._stored = _stored_names(function, double)

    def derivatives(self, random: np.random.Generator) -> float:
        """The largest error of ⟨c, J u⟩, over the root of the sum of squares of its terms."""
        errors = []
        for sample in self._samples[: 1 if self._file.light else None]:
            c = np.zeros(self._precise(sample, {}).shape)
            some = random.permutation(c.size)[:ENTRIES]
            c.reshape(-1)[some] = random.standard_normal(len(some))
            gradient = self._gradient(sample, list(self._function.params), _weighted(c))
            direction = self._direction(gradient, random)
            terms = np.concatenate([(gradient[n] * direction[n]).ravel() for n in gradient])
            difference = np.sum(c * self._difference(sample, direction))
            errors.append(abs(terms.sum() - difference) / np.linalg.norm(terms))
        return float(np.max(errors))

    def kernel(self) -> tuple[float, float]:
        """Errors of the kernel, over the geometric mean of the two diagonal entries."""
        picks = self._picks()
        whole = self._function.parametric()
        names = list(whole.params)[:: -(-len(whole.params) // MOST)]
        gradients = [
            self._gradient(sample, names, _entry(i)) for sample in self._samples for i in picks
        ]
        flat = [np.concatenate([g[name].ravel() for name in names]) for g in gradients]
        plain = np.array([[float(a @ b) for b in flat] for a in flat])
        scale = np.sqrt(np.outer(np.diag(plain), np.diag(plain)))

        model = ParametricFunction(
            whole.params, lambda params, *x: whole.apply(params, *x)[:, mx.array(picks)]
        ).restricted(names)
        x = tuple(self._joined(name) for name in self._function.inputs)
        kernel = entk(model, x if len(x) > 1 else x[0])
        kernel = kernel.transpose(0, 2, 1, 3).reshape(plain.shape)
        differences = np.array([
            [
                value
                for sample in self._samples
                for value in self._difference(sample, gradient).reshape(-1)[picks]
            ]
            for gradient in gradients
        ])  # fmt: skip
        return (
            float(np.max(np.abs(kernel - plain) / scale)),
            float(np.max(np.abs(kernel - differences) / scale)),
        )

    def _joined(self, name: str) -> mx.array:
        """The inputs on their batch axis, or on a new one if that is not the first."""
        values = [sample[name] for sample in self._samples]
        first = {value.shape[:1] for sample in self._samples for value in sample.values()}
        first.add(self._precise(self._samples[0], {}).shape[:1])
        alone = self._file.apart or first != {(1,)}
        return from_numpy((np.stack if alone else np.concatenate)(values))

    def _picks(self) -> list[int]:
        """Two entries of the output: that which differs most between the inputs, and another.

        Neither is the largest of all, as saturated probabilities are, whose gradient is as good as
        the difference of a float32 from one.
        """
        one, other = (self._precise(sample, {}).ravel() for sample in self._samples)
        size = np.maximum(np.abs(one), np.abs(other))
        difference = np.where(size < 0.99 * size.max(), np.abs(one - other), -1)
        order = np.argsort(-difference)
        return list(dict.fromkeys([int(order[0]), int(order[np.sum(difference > 0) // 16])]))

    def _precise(self, sample: Sample, changed: Mapping[str, Array]) -> Array:
        output = self._double.run(sample, changed)[self._function.output]
        return np.asarray(output, dtype=np.float64)

    def _gradient(
        self, sample: Sample, names: Sequence[str], read: Callable[[mx.array], mx.array]
    ) -> dict[str, Array]:
        """The gradient of a number that is read from the output, by MLX's reverse mode."""
        function = self._function

        def scalar(params: dict[str, mx.array]) -> mx.array:
            (output,) = outputs_of(function, params, sample, [function.output])
            return read(output.astype(mx.float32))

        gradient = mx.grad(scalar)({name: function.params[name] for name in names})
        return {name: np.array(v.astype(mx.float32), np.float64) for name, v in gradient.items()}

    def _direction(
        self, gradient: Mapping[str, Array], random: np.random.Generator
    ) -> dict[str, Array]:
        """Random numbers, larger for parameters with a smaller gradient, up to a hundredfold."""
        sizes = {
            name: np.linalg.norm(value) * _size(self._double.stored[self._stored[name]])
            for name, value in gradient.items()
        }
        least = max(sizes.values()) / 100
        return {
            name: random.standard_normal(value.shape)
            * _size(self._double.stored[self._stored[name]])
            / max(sizes[name], least)
            for name, value in gradient.items()
        }

    def _difference(self, sample: Sample, direction: Mapping[str, Array]) -> Array:
        """Central difference of the output along a direction of the parameters, in float64."""
        start = {name: self._double.stored[self._stored[name]] for name in direction}
        step = STEP * min(
            _size(start[name]) / size
            for name, value in direction.items()
            if (size := float(np.sqrt(np.mean(value**2)))) > 0
        )
        up, down = (
            self._precise(
                sample,
                {
                    self._stored[name]: start[name] + sign * step * value
                    for name, value in direction.items()
                },
            )
            for sign in (1, -1)
        )
        return (up - down) / (2 * step)


def _weighted(c: Array) -> Callable[[mx.array], mx.array]:
    return lambda y: mx.sum(y * mx.array(c, mx.float32))


def _entry(i: int) -> Callable[[mx.array], mx.array]:
    return lambda y: y.reshape(-1)[i]


def _size(value: Array) -> float:
    """The root mean square of a parameter, or 1e-3 for one that is (almost) zero.

    Masks may be stored as weights of minus infinity, which do not count.
    """
    return max(float(np.sqrt(np.mean(value[np.isfinite(value)] ** 2))), 1e-3)


def _stored_names(function: OnnxFunction, double: Double) -> dict[str, str]:
    """Where the float64 graph has each parameter: under the same name, or with the same value."""
    found = {}
    for name, value in function.params.items():
        if name in double.stored:
            found[name] = name
            continue
        array = np.array(value.astype(mx.float32)).astype(np.float64)
        same = [
            key
            for key, stored in double.stored.items()
            if stored.shape == array.shape and np.array_equal(stored.astype(np.float32), array)
        ]
        base, _, number = name.partition("~")  # within branches, names may repeat
        named = [key for key in same if key.rpartition("/")[2] == base]
        if named:
            same = named[min(int(number or 0), len(named) - 1) :][:1]
        if len(same) != 1:
            raise AssertionError(f"{len(same)} numbers of the file are the parameter {name}")
        found[name] = same[0]
    return found
