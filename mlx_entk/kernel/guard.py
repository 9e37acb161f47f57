"""Which ways of computing a parameter's part of a kernel are right for it, found out beforehand.

:mod:`mlx_entk.rules` finds the parameters whose gradient the model's graph tells in full, whatever
the inputs are. For the few of which it cannot tell, numbers are compared: the gradient over all
inputs, along one random combination of the outputs. Then the rows that a parameter's structure
gives, and those by ``vmap``, are compared with gradients one by one, for two different inputs and
two cotangents: some of MLX's ``vmap`` rules are wrong.

A parameter whose structure fails goes by its exact Jacobian; one whose mapped rows fail too by a
backward pass for each input and output, which is slow and right. What is not seen: a derivative
that the comparison of graphs leaves open and that is hidden on so few of many inputs that their
share of the whole gradient is below :data:`mlx_entk.jacobian.TOLERANCE`; and a rule of MLX that is
wrong for some inputs and right for the two that are tried.
"""

import warnings
from dataclasses import dataclass

import mlx.core as mx

from mlx_entk.errors import SlowPathWarning
from mlx_entk.fingerprint import fingerprints
from mlx_entk.functions import ParametricFunction
from mlx_entk.inputs import Inputs, count, part
from mlx_entk.jacobian import TOLERANCE, Probe, gradient, unmappable
from mlx_entk.kernel.structure import Structure, structure_of
from mlx_entk.kernel.tiling import ranges
from mlx_entk.rules import Examined, examine

# Inputs at a time whose gradients are added up, and floats of them.
_BATCH, _FLOATS = 64, 2**25
# Verdicts on graphs seen before, for callers that ask again at every step of a training.
_KNOWN: dict[tuple[str, ...], "_Verdict"] = {}
_MOST_KNOWN = 256


@dataclass(frozen=True)
class Ways:
    """How each parameter of a function is taken.

    Attributes
    ----------
    function
        The function, with right reverse rules.
    rows
        The same, by gradients that can be mapped, for parameters without structure.
    structure
        Of those whose structure is known and right; None where the function has no known graph.
    looped
        Names of those that take a backward pass for each input and output.
    untraceable
        Why there is no graph, or empty.
    """

    function: ParametricFunction
    rows: ParametricFunction
    structure: Structure | None
    looped: frozenset[str]
    untraceable: str


@dataclass(frozen=True)
class _Verdict:
    """Names of the parameters of one graph whose structure is no use, and of those to loop over."""

    unstructured: frozenset[str]
    looped: frozenset[str]


def find_ways(function: ParametricFunction, x: Inputs, C: int, structured: bool = True) -> Ways:
    """Find out how each parameter is used, and hold it against plain gradients.

    Parameters
    ----------
    x
        All inputs; two of them are tried.
    C
        Outputs.
    structured
        False leaves structure aside: every parameter by its exact Jacobian.
    """
    examined = examine(function, x, C)
    structure = None
    if examined.graph is not None and structured:
        structure = structure_of(examined.function, examined.graph)
    graph = fingerprints(structure.graph) if structure is not None else []
    key = (*function.params, *examined.derivative, *graph)
    verdict = _KNOWN.get(key) if examined.derivative else None
    if verdict is None:
        verdict = _judge(examined, x, C, structure)
        _tell(verdict.looped)
        if examined.derivative:
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.pop(next(iter(_KNOWN)))
            _KNOWN[key] = verdict
    if structure is not None:
        structure = structure.without(verdict.unstructured)
        structure = structure.without(_hidden(structure, x, C, examined.hidden))
    return Ways(examined.function, examined.rows, structure, verdict.looped, examined.untraceable)


def _judge(examined: Examined, x: Inputs, C: int, structure: Structure | None) -> _Verdict:
    function = examined.function
    names, probe = list(function.params), Probe.of(function, x, C)
    unstructured = set(names)
    if structure is not None and structure.uses:
        found = structure.factors(probe.x, probe.cotangents, paired=False)
        rows = ((name, _everywhere(factor.rows().values)) for name, factor in found.items())
        unstructured = (set(names) - structure.uses.keys()) | probe.mistaken(rows)
    by_rows = [name for name in names if name in unstructured or name in examined.hidden]
    looped = unmappable(examined.rows, by_rows, probe) if by_rows else set()
    return _Verdict(frozenset(unstructured), frozenset(looped))


def _everywhere(rows: mx.array) -> mx.array:
    """Rows of both inputs of a probe, where they may be there once for all."""
    return mx.broadcast_to(rows, (2, *rows.shape[1:]))


def _hidden(structure: Structure, x: Inputs, C: int, unsettled: frozenset[str]) -> set[str]:
    """Those of some parameters whose gradient by structure, over all inputs, is not the model's."""
    names = [name for name in structure.uses if name in unsettled]
    if not names:
        return set()
    function = structure.function
    structure = structure.without(structure.uses.keys() - unsettled)
    cotangent = mx.random.normal((1, C), key=mx.random.key(1))
    size = max(1, min(_BATCH, _FLOATS // sum(function.params[name].size for name in names)))
    true = {name: mx.zeros((function.params[name].size,)) for name in names}
    found = dict(true)
    for rows in ranges(count(x), size):
        batch = part(x, rows)
        cotangents = mx.broadcast_to(cotangent, (count(batch), C))
        for name, value in zip(names, gradient(function, names, batch, cotangents), strict=True):
            true[name] = true[name] + value.astype(mx.float32).reshape(-1)
        for name, factor in structure.factors(batch, cotangent, paired=False).items():
            values = factor.rows().values
            values = mx.broadcast_to(values, (count(batch), *values.shape[1:]))
            found[name] = found[name] + values.sum(axis=(0, 1))
        mx.eval(true, found)
    return {
        name
        for name in names
        if not bool(mx.abs(found[name] - true[name]).max() <= TOLERANCE * mx.abs(true[name]).max())
    }


def _tell(looped: frozenset[str]) -> None:
    if looped:
        named = ", ".join(sorted(looped)[:3]) + (", …" if len(looped) > 3 else "")
        warnings.warn(
            f"MLX maps the gradient by {named} wrongly: it is taken input by input, which is slow",
            SlowPathWarning,
            stacklevel=4,
        )
