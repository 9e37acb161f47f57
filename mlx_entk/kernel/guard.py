"""Which ways of computing a parameter's part of a kernel are right for it, found out beforehand.

``mlx_entk.tracing.rules`` finds the parameters whose gradient the model's graph tells in full,
whatever the inputs are. For the few of which it cannot tell, numbers are compared: the gradient
over all inputs, along one random combination of the outputs. Then the rows that a parameter's
structure gives, and those by ``vmap``, are compared with gradients one by one, for two different
inputs and two cotangents: some of MLX's ``vmap`` rules are wrong.

A parameter whose structure fails goes by its exact Jacobian; one whose mapped rows fail too by a
backward pass for each input and output, which is slow and right. What is not seen: a derivative
that the comparison of graphs leaves open and that is hidden on so few of many inputs that their
share of the whole gradient is below ``mlx_entk.tracing.jacobian.TOLERANCE``; and a rule of
MLX that is wrong for some inputs and right for the two that are tried.
"""

from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_entk.kernel.sides import Products
from mlx_entk.kernel.structure import Structure, structure_of
from mlx_entk.kernel.tiling import ranges
from mlx_entk.tracing.fingerprint import digest_of, fingerprints
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.inputs import Inputs, count, part
from mlx_entk.tracing.jacobian import TOLERANCE, Probe, gradient, unmappable, warn_of_slow_path
from mlx_entk.tracing.pruning import pruned
from mlx_entk.tracing.remembered import Remembered
from mlx_entk.tracing.rules import Examined, examine

# Inputs at a time whose gradients are added up, and floats of them.
_BATCH, _FLOATS = 64, 2**25


@dataclass(frozen=True)
class Ways:
    """How each parameter of a function is taken.

    Attributes
    ----------
    examined
        The function with right reverse rules, and what its graph tells.
    structure
        Of those whose structure is known and right; None if the graph of the function is not known.
    looped
        Names of those that take a backward pass for each input and output.
    fingerprint
        Of the gradient as a graph; empty if MLX cannot report it.
    """

    examined: Examined
    structure: Structure | None
    looped: frozenset[str]
    fingerprint: str

    @property
    def function(self) -> ParametricFunction:
        """The function."""
        return self.examined.function

    @property
    def rows(self) -> ParametricFunction:
        """The same, by gradients that can be mapped, for parameters without structure."""
        return self.examined.rows


@dataclass(frozen=True)
class _Verdict:
    """Names of the parameters of one graph whose structure is no use, and of those to loop over."""

    unstructured: frozenset[str]
    looped: frozenset[str]


# Verdicts on graphs seen before, for callers that ask again at every step of a training.
_KNOWN = Remembered[_Verdict]()


def find_ways(
    function: ParametricFunction,
    x: Inputs,
    C: int,
    structured: bool = True,
    every: Inputs | None = None,
) -> Ways:
    """Find out how each parameter is used, and hold it against plain gradients.

    Parameters
    ----------
    x
        All inputs; two of them are tried.
    C
        Outputs.
    structured
        False leaves structure aside: every parameter by its exact Jacobian.
    every
        The inputs of both sides of the kernel; None for x.
    """
    examined = examine(function, x, C)
    structure = None
    if examined.graph is not None and structured:
        structure = structure_of(examined.function, pruned(examined.graph))
    graph = fingerprints(structure.graph) if structure is not None else []
    key = (*function.params, *examined.derivative, *graph)
    if examined.derivative:
        verdict = _KNOWN.get(key, lambda: _judge(examined, x, C, structure))
    else:
        verdict = _judge(examined, x, C, structure)
    if structure is not None:
        structure = structure.without(verdict.unstructured)
        structure = structure.without(_differing(structure, every or x, C, examined.hidden))
    known = structure.uses if structure is not None else {}
    warn_of_slow_path(verdict.looped - known.keys())
    fingerprint = digest_of(examined.derivative) if examined.derivative else ""
    return Ways(examined, structure, verdict.looped, fingerprint)


def _judge(examined: Examined, x: Inputs, C: int, structure: Structure | None) -> _Verdict:
    """Compare rows with gradients, at other values of the parameters if all of them are zero."""
    function = examined.function
    probe = Probe.of(function, x, C)
    unstructured, looped = _compare(examined, structure, probe)
    blind = probe.blind()
    if blind:  # a head that begins at zero, a dead gate: nothing is seen of what lies before it
        moved = _moved(function)
        probe = Probe.of(moved, x, C)
        elsewhere = replace(examined, function=moved)
        at = None if structure is None else replace(structure, function=moved)
        also_unstructured, also_looped = _compare(elsewhere, at, probe)
        unstructured, looped = (
            unstructured | (also_unstructured & blind),
            looped | (also_looped & blind),
        )
    return _Verdict(frozenset(unstructured), frozenset(looped))


def _compare(
    examined: Examined, structure: Structure | None, probe: Probe
) -> tuple[set[str], set[str]]:
    """Names of the parameters whose structure is no use, and of those to loop over."""
    names = set(examined.function.params)
    unstructured = set(names)
    if structure is not None and structure.uses:
        factors = structure.factors(probe.x, probe.cotangents, paired=False)
        rows = ((name, _everywhere(factor.rows().values)) for name, factor in factors.items())
        unstructured = (names - structure.uses.keys()) | probe.mistaken(rows)
        summed = structure.factors(probe.x, probe.cotangents, paired=True)
        for name, factor in summed.items():
            block = factor.contract(factor, True, Products(symmetric=True))
            if not probe.has_gram(name, mx.broadcast_to(block, (2, 2))):
                unstructured.add(name)
    by_rows = [n for n in examined.function.params if n in unstructured or n in examined.hidden]
    looped = unmappable(examined.rows, by_rows, probe) if by_rows else set()
    return unstructured, looped


def _moved(function: ParametricFunction) -> ParametricFunction:
    """The function at parameters that are none of them zero."""
    params = {}
    for number, (name, value) in enumerate(function.params.items()):
        wide = value.astype(mx.float32)
        size = mx.sqrt(mx.square(wide).mean()) if value.size else mx.array(0.0)
        noise = mx.random.normal(value.shape, key=mx.random.key(number))
        params[name] = (wide + mx.maximum(0.3 * size, 0.1) * noise).astype(value.dtype)
    return ParametricFunction(
        params, lambda values, *inputs: function.apply(params | values, *inputs)
    )


def _everywhere(rows: mx.array) -> mx.array:
    """Repeat rows for both inputs of a probe, if they are there once for all inputs."""
    return mx.broadcast_to(rows, (2, *rows.shape[1:]))


def _differing(structure: Structure, x: Inputs, C: int, hidden: frozenset[str]) -> set[str]:
    """Those of some parameters whose gradient by structure, over all inputs, is not the model's."""
    names = [name for name in structure.uses if name in hidden]
    if not names:
        return set()
    function = structure.function
    structure = structure.without(structure.uses.keys() - hidden)
    cotangent = mx.random.normal((1, C), key=mx.random.key(1))
    weights = mx.random.normal((count(x), 1, 1), key=mx.random.key(2))  # so that nothing cancels
    size = max(1, min(_BATCH, _FLOATS // sum(function.params[name].size for name in names)))
    true = {name: mx.zeros((function.params[name].size,)) for name in names}
    by_structure = dict(true)
    for rows in ranges(count(x), size):
        batch, weight = part(x, rows), weights[rows]
        gradients = gradient(function, names, batch, weight[:, 0] * cotangent)
        for name, value in zip(names, gradients, strict=True):
            true[name] = true[name] + value.astype(mx.float32).reshape(-1)
        for name, factor in structure.factors(batch, cotangent, paired=False).items():
            total = (factor.rows().values * weight).sum(axis=(0, 1))
            by_structure[name] = by_structure[name] + total
        mx.eval(true, by_structure)
    differing = set()
    for name in names:
        difference = mx.abs(by_structure[name] - true[name]).max()
        if not bool(difference <= TOLERANCE * mx.abs(true[name]).max()):  # so that NaN differs
            differing.add(name)
    return differing
