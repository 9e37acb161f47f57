"""Files that PyTorch writes by way of torch.export: what they note of each tensor."""

import re
from collections import Counter, defaultdict

import onnx

from mlx_entk._text import visible
from mlx_entk.onnx.graph import Graph, Stored, every_node
from mlx_entk.onnx.parameters.verdicts import Verdict
from mlx_entk.onnx.torch_calls import arguments_of, call_of

KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_CALLED = "pkg.torch.onnx.original_node_name"
_FOLDED = "pkg.onnxscript.optimizer.folded_from"
_SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
_LINE = re.compile(r"^(\S+): (PARAMETER|BUFFER|CONSTANT_TENSOR) target='([^']*)'", re.MULTILINE)


def _signature(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Kind and name in calls, by name, of what torch.export found in the module."""
    text = next((p.value for p in model.graph.metadata_props if p.key == _SIGNATURE), "")
    return {target: (kind, call) for call, kind, target in _LINE.findall(text)}


def has_notes(model: onnx.ModelProto, graph: Graph) -> bool:
    """Whether a file notes what its tensors were in the module."""
    return bool(_signature(model)) or any(KIND in stored.facts for stored in graph.stored.values())


class TorchExport:
    """A file of the exporter that goes by torch.export, which notes what each tensor was.

    What its optimiser made has no such note, but what it was made of. The optimiser also merges
    equal tensors, so that one stands for several, and drops those that change nothing, such as a
    factor of one: the calls that nodes were made of still name them.
    """

    def __init__(self, model: onnx.ModelProto, graph: Graph) -> None:
        self._graph = graph
        self._nodes = list(every_node(graph.nodes))
        signature = _signature(model)
        self._trained = {n: call for n, (kind, call) in signature.items() if kind == "PARAMETER"}
        self._others = {n: call for n, (kind, call) in signature.items() if kind != "PARAMETER"}
        self._kept = {n for n, s in graph.stored.items() if s.facts.get(KIND) == "PARAMETER"}
        self._folded = {
            name: _names_in(stored.facts.get(_FOLDED, "")) for name, stored in graph.stored.items()
        }
        self._times = Counter(n for names in self._folded.values() for n in names)
        self._users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self._nodes:
            for name in node.input:
                self._users[name].append(node)
        self._same = {name: made for name in self._folded if (made := self._rearranged(name))}

    def evidence(self, name: str, stored: Stored) -> Verdict | None:
        """What a tensor was in the module."""
        kind = stored.facts.get(KIND)
        if kind == "PARAMETER":
            return "parameter", "is noted as a parameter by PyTorch"
        if kind is not None:
            what = {"BUFFER": "a buffer", "CONSTANT_TENSOR": "a constant"}.get(kind, visible(kind))
            return "constant", f"is noted as {what} by PyTorch"
        if name in self._same:
            made = ", ".join(map(visible, sorted(self._same[name])[:2]))
            return "parameter", f"has the numbers of {made} in another order, so the same kernel"
        folded = self._folded[name]
        if made_of := sorted(folded & self._trained.keys()):
            made = ", ".join(map(visible, made_of[:2]))
            return "changed", f"was made of {made} by PyTorch's optimiser"
        if name in self._trained:
            return "changed", "was changed by PyTorch's optimiser"
        if stored.origin == "constant" or folded or stored.array.ndim == 0:
            return "constant", "is a constant of PyTorch's graph"
        if "." in name:
            return "changed", "was changed by PyTorch's optimiser"
        return "constant", "is a constant of PyTorch's graph"

    def doubts(self) -> list[str]:
        """Parameters that the file has no longer, or uses for others."""
        found = []
        calls = {n: self._graph.stored[n].facts.get(_CALLED, "") for n in self._kept}
        mentioned: set[str] = set()
        for node in self._nodes:
            arguments = arguments_of(node)
            mentioned |= arguments
            for name in node.input:
                if name in self._kept and arguments and calls[name] not in arguments:
                    found += [f"{visible(name)} also stands for what was equal to it"]
        sources: set[str] = set().union(*self._folded.values())
        rearranged: set[str] = set().union(*self._same.values())
        values = self._values()
        found += [
            f"{name}, of which PyTorch takes no derivative, was taken out"
            for name in sorted(mentioned - values)
            if re.fullmatch(r"detach(_\d+)?", name)
        ]
        lost = self._trained.keys() - self._kept - rearranged - sources
        found += [
            f"{visible(name)} was merged, or taken out, by PyTorch's optimiser"
            for name in sorted(lost)
            if self._trained[name] in mentioned
        ]
        if lost and (gone := mentioned - values - set(self._trained.values())):
            found.append(f"what {visible(min(gone))} did was taken out, parameters perhaps with it")
        found += [
            f"{visible(name)}, no parameter, was merged with what was equal to it"
            for name, call in self._others.items()
            if call in mentioned and name not in self._graph.stored and name not in sources
        ]
        return list(dict.fromkeys(found))

    def _values(self) -> set[str]:
        """Names of everything that the file has, in its own words and those of calls."""
        values = {value.name for value in self._graph.inputs} | self._graph.stored.keys()
        values |= {name for node in self._nodes for name in node.output}
        return values | {s.facts.get(_CALLED, "") for s in self._graph.stored.values()}

    def _rearranged(self, name: str) -> set[str]:
        """Parameters whose numbers a folded tensor has, each once, in another order.

        That is a transposed weight of a linear layer, and the stacked weights of a recurrent one.
        """
        made = self._folded[name] & self._trained.keys()
        users = self._users.get(name, [])
        elsewhere = any(self._times[one] > 1 for one in made)
        if not made or made & self._kept or elsewhere or not users or name in self._kept:
            return set()
        calls = [self._trained[one] for one in made]
        for node in users:
            call = call_of(node)
            if made == self._folded[name] and len(made) == 1:
                linear = rf"aten\.linear\.default\]\(args = \(%[\w.]+, %{re.escape(calls[0])}[,)]"
                fits = node.op_type == "MatMul" and node.input[1] == name != node.input[0]
                fits = fits and re.search(linear, call) is not None
            else:
                fits = node.op_type in ("GRU", "LSTM", "RNN") and len(users) == 1
                fits = fits and name in node.input[1:4] and list(node.input).count(name) == 1
                fits = fits and set(calls) <= arguments_of(node)
            if not fits:
                return set()
        return made


def _names_in(text: str) -> set[str]:
    """The names in the text of a list."""
    return {one or other for one, other in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)}
