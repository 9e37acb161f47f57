"""What the producers of files tell of their numbers: PyTorch, scikit-learn and others."""

import hashlib
import itertools
import json
import re
from collections import Counter

import onnx

from mlx_entk.errors import InputError
from mlx_entk.onnx.emitter import FROZEN, PRODUCER, is_value
from mlx_entk.onnx.graph import Graph, Stored
from mlx_entk.onnx.parameters import tensorflow
from mlx_entk.onnx.parameters.roles import roles_of
from mlx_entk.onnx.parameters.torch_export import TorchExport, has_notes
from mlx_entk.onnx.parameters.verdicts import Evidence, Verdict

_PYTORCH = "Export it with torch.onnx.export(…, dynamo=True, optimize=False)"


def producer_of(model: onnx.ModelProto, graph: Graph) -> tuple[Evidence, list[str], str]:
    """How the model's producer tells what is a parameter, doubts, and a remedy for them."""
    evidence, doubts, remedy = _first_producer(model, graph)
    if _ONNXRUNTIME & graph.opsets.keys():
        return evidence, [*doubts, _OPTIMISED], "Take the file that onnxruntime was given"
    return evidence, doubts, remedy


# Domains that only onnxruntime declares, in every file that it saves.
_ONNXRUNTIME = {"com.microsoft.nchwc", "com.ms.internal.nhwc"}
_OPTIMISED = "it was saved by onnxruntime, whose optimiser computes and merges tensors"


def _first_producer(model: onnx.ModelProto, graph: Graph) -> tuple[Evidence, list[str], str]:
    if model.producer_name == PRODUCER:
        return _of_this_package(model), [], "Export it again"
    if model.producer_name == "pytorch" and has_notes(model, graph):
        export = TorchExport(model, graph)
        return export.evidence, export.doubts(), _PYTORCH
    if model.producer_name == "pytorch":
        return _of_tracing(graph), [], _PYTORCH
    if model.producer_name == "skl2onnx":
        return _of_sklearn, [], "Name the parameters"
    if model.producer_name == "tf2onnx":
        return tensorflow.evidence, tensorflow.doubts(graph), tensorflow.REMEDY
    if model.producer_name == "jax2onnx":
        return _of_jax(graph), [], "Name the parameters"
    return _of_others, [], "Export it again without the exporter's optimiser"


def _of_this_package(model: onnx.ModelProto) -> Evidence:
    listed = [entry.value for entry in model.metadata_props if entry.key == FROZEN]
    try:
        frozen = set(json.loads(listed[0])) if listed else set()
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"the metadata {FROZEN} of the model is damaged: {error}") from error

    def evidence(name: str, stored: Stored) -> Verdict | None:
        if is_value(name):
            return "constant", "is a constant of the exported graph"
        if name in frozen:
            return "statistic", "was not trainable in the exported module"
        return "parameter", "has the name of a parameter of the exported model"

    return evidence


# Names that the modules of torch.nn give their parameters, and no buffer has.
_OF_MODULES = re.compile(
    r"(^|\.)(weight|bias|(weight|bias)_(ih|hh)(_l\d+(_reverse)?)?|weight_hr_l\d+(_reverse)?"
    r"|in_proj_(weight|bias)|[qkv]_proj_weight|bias_[kv]|weight_g|weight_orig"
    r"|parametrizations\.\w+\.original\d*)$"
)
# Names that tracing gives what has none in the module.
_ANONYMOUS = re.compile(r"(^|\.)(onnx::\w+|\d+|val_\d+|_v_\d+)$")


def _of_tracing(graph: Graph) -> Evidence:
    """The older exporter stores names, but not whether they are parameters or buffers."""

    def evidence(name: str, stored: Stored) -> Verdict | None:
        if stored.origin == "constant":
            return "constant", "is a constant of PyTorch's graph"
        if _ANONYMOUS.search(name):
            return "changed", "has no name of the module: PyTorch made it, perhaps of several"
        if _OF_MODULES.search(name):
            return "parameter", "has the name that torch.nn gives a parameter"
        if re.search(r"(^|\.)weight_v$", name) and f"{name[:-1]}g" in graph.stored:
            return "parameter", "has the name that a weight norm gives a parameter"
        if re.search(r"(^|\.)weight_[uv]$|\.\d+\._[uv]$", name):
            return "constant", "has the name of a buffer of a spectral norm"
        if re.search(r"(^|\.)running_(mean|var)$", name):
            return "statistic", "has the name of a running statistic"
        return "unclear", "may be a parameter or a buffer"

    return evidence


_SKLEARN_WEIGHTS = re.compile(r"(coefficients?|intercepts?|coefs?|weights?|bias)\d*$")
_SKLEARN_FITTED = re.compile(r"(transform_matrix|mean|scale|offset)\d*$|^(Ad|Di|Mu|Su)_\w*cst\d*$")


def _of_sklearn(name: str, stored: Stored) -> Verdict | None:
    """skl2onnx names the numbers of each estimator."""
    if stored.origin == "attribute" or _SKLEARN_WEIGHTS.search(name):
        return "parameter", "has the name that skl2onnx gives weights"
    if _SKLEARN_FITTED.search(name):
        return "preprocessing", "was fitted by a scaler or a decomposition, before training"
    if stored.array.size == 1 or stored.origin == "constant":
        return "constant", "is a constant of skl2onnx"
    return "unclear", "has a name of skl2onnx that does not tell what it is"


# Names that optimisers give what they make of several tensors.
_MERGED = re.compile(
    r"weights?_fused_bn|bias_fused_bn|const_fold_opt__\d+|_fused_bn\b|_bn_fused\b|^fused_"
)


def _of_others(name: str, stored: Stored) -> Verdict | None:
    """Producers that store no more than names."""
    if _MERGED.search(name):
        return "changed", "has a name that an optimiser gives what it made of several"
    if _ANONYMOUS.search(name) and name.startswith("onnx::"):
        return "changed", "has no name of the module: PyTorch made it, perhaps of several"
    return None


def _of_jax(graph: Graph) -> Evidence:
    """jax2onnx names parameters and constants of the code alike, but not what it makes itself.

    It numbers the arrays that a function refers to first, so one among them may be a parameter
    even if it has no axes. Those that it broadcasts or transposes it writes anew for each use.
    """
    numbered = (f"const_{number}" for number in itertools.count())
    referred = set(itertools.takewhile(graph.stored.__contains__, numbered))
    roles = roles_of(graph.nodes)
    copies = Counter(_numbers(stored) for stored in graph.stored.values())

    def evidence(name: str, stored: Stored) -> Verdict | None:
        if re.search(r"^(reduce_window_\w*kernel|dot_bias)_\d+$", name):
            return "constant", "was made by jax2onnx"
        where = {(operator, place) for operator, place, _ in roles.get(name, ())}
        limits = all(op in ("Max", "Min") or (op, place) == ("Div", 0) for op, place in where)
        if name in referred and not (stored.array.ndim or limits or ("Sqrt", 1) in where):
            return "unclear", "may be a parameter or a constant of the code"
        if name not in referred and stored.array.size > 1 and copies[_numbers(stored)] > 1:
            return "unclear", "has the numbers of another, which may be the same parameter"
        return _of_others(name, stored)

    return evidence


def _numbers(stored: Stored) -> bytes:
    """The numbers of a tensor in their order, whatever its axes are."""
    return hashlib.sha256(stored.array.tobytes()).digest()
