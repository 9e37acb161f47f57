"""The numbers of a file, judged: which of them a kernel differentiates by."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from mlx_entk._text import visible
from mlx_entk.errors import InputError
from mlx_entk.onnx.graph import Graph, uses
from mlx_entk.onnx.parameters.producers import producer_of
from mlx_entk.onnx.parameters.roles import by_form, by_role, roles_of
from mlx_entk.onnx.parameters.torch_export import KIND
from mlx_entk.onnx.parameters.verdicts import Kind, Verdict
from mlx_entk.onnx.parameters.whole_numbers import Steps, whole_numbers

# What the caller may give for all that a file stores, whatever was trained.
AS_STORED = "*"

# Kinds that may be weights, which a wildcard takes.
WEIGHTS = frozenset({"parameter", "changed", "unclear", "whole numbers"})

# What this package notes of inputs that became constants.
BOUND = "mlx_entk.input"


@dataclass(frozen=True)
class Candidate:
    """Numbers of a file that may be a parameter.

    Attributes
    ----------
    name, shape
        As the file has them.
    kind
        ``parameter``: trained. ``statistic``: of the data, as in a batch norm. ``constant`` and
        ``setting``: of the code. ``preprocessing``: fitted to the inputs, not trained.
        ``changed``: made of parameters, so that its kernel is not theirs. ``unclear``: the file
        does not tell. ``whole numbers``: quantised; if chosen, the real numbers that they stand
        for, by which derivatives pass straight through what is rounded. ``unused``: without an
        effect on this output.
    reason
        What tells, as half a sentence.
    whole
        Whether it is stored as whole numbers.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    reason: str
    whole: bool = False


@dataclass(frozen=True)
class Candidates:
    """All numbers in a file that may be weights, judged.

    Attributes
    ----------
    judged
        In the file's order.
    doubts
        Why the kernel of the parameters among them may not be that of the network, apart from
        those that are ``changed`` or ``unclear``.
    remedy
        How to get a file that tells.
    steps
        What whole numbers stand for, by name.
    """

    judged: tuple[Candidate, ...]
    doubts: tuple[str, ...]
    remedy: str
    steps: Mapping[str, Steps]

    def chosen(self, patterns: Sequence[str] | None) -> list[str]:
        """Names of the parameters to differentiate by.

        Parameters
        ----------
        patterns
            Names of those to take, whatever they are, or patterns such as ``layers.*``, which take
            constants, settings and statistics only if they fit nothing else; None for the
            parameters.

        Raises
        ------
        InputError
            If a pattern fits nothing; without patterns, if the file leaves open which of its
            numbers are parameters.
        """
        if patterns is not None:
            names = _matching(self.judged, patterns)
            for one in self.judged:
                if one.name in names and one.whole and one.name not in self.steps:
                    raise InputError(f"{visible(one.name)} {one.reason}: choose others by name")
            return names
        if refusal := self.refusal():
            raise InputError(refusal)
        return [c.name for c in self.judged if c.kind == "parameter"]

    def refusal(self) -> str:
        """Why the file does not tell which of its numbers are parameters; empty if it does."""
        doubtful = [c for c in self.judged if c.kind in WEIGHTS - {"parameter"}]
        reasons = [*self.doubts, *(f"{visible(c.name)} {c.reason}" for c in doubtful)]
        if not reasons:
            return ""
        more = f" (and {len(reasons) - 2} more)" if len(reasons) > 2 else ""
        return (
            f"the file does not hold its parameters as they were trained: "
            f"{'; '.join(reasons[:2])}{more}. {self.remedy}, or take the numbers as the file has "
            f"them with --parameters '{AS_STORED}' (--dry-run lists them)"
        )


def _matching(judged: Sequence[Candidate], patterns: Sequence[str]) -> list[str]:
    """Names that patterns fit; a wildcard takes constants only if it fits no weight."""
    free = [c for c in judged if c.kind != "unused"]
    weights = [c.name for c in free if c.kind in WEIGHTS]
    fitting: set[str] = set()
    for pattern in patterns:
        fits = {c.name for c in free if c.name == pattern}
        fits = fits or set(fnmatch.filter(weights, pattern))
        fits = fits or set(fnmatch.filter([c.name for c in free], pattern))
        if not fits:
            names = [visible(c.name) for c in free]
            listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise InputError(f"no initializer matches {pattern}: there are {listed or 'none'}")
        fitting |= fits
    return [c.name for c in free if c.name in fitting]


def candidates_of(
    model: onnx.ModelProto, graph: Graph, nodes: Sequence[onnx.NodeProto]
) -> Candidates:
    """Judge everything that a model stores and that may be a weight.

    Parameters
    ----------
    model
        For what its producer says.
    graph
        Of the model.
    nodes
        Those that the output depends on.

    Raises
    ------
    InputError
        If the metadata of this package is damaged.
    """
    roles = roles_of(nodes)
    used = {name for node in nodes for name in uses(node)}
    evidence, doubts, remedy = producer_of(model, graph)
    whole = whole_numbers(graph, nodes)
    judged = []
    for name, stored in graph.stored.items():
        dtype = stored.array.dtype
        if name in whole.steps:
            verdict: Verdict = ("whole numbers", f"is stored as {dtype}, which has no derivative")
        elif name in whole.unknown:
            verdict = ("unclear", f"is stored as {dtype}, and what it stands for is not known")
        elif dtype.kind != "f" and str(dtype) != "bfloat16":
            continue
        elif name not in used:
            verdict = ("unused", "is nothing that the output depends on")
        elif name in whole.scales:
            verdict = ("setting", "is the step of whole numbers")
        elif BOUND in stored.facts:
            verdict = ("constant", "is an input that was given with the file")
        else:
            noted = evidence(name, stored)
            role = None if KIND in stored.facts else by_role(roles.get(name, ()))
            verdict = role or noted or by_form(stored, roles.get(name, ()))
        judged.append(Candidate(name, stored.array.shape, *verdict, whole=dtype.kind in "iu"))
    return Candidates(tuple(judged), tuple(doubts), remedy, whole.steps)
