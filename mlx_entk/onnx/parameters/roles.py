"""What numbers are for, as the graph uses them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import onnx

from mlx_entk.onnx.graph import Stored, every_node
from mlx_entk.onnx.parameters.verdicts import Verdict

# Where operators take weights.
_WEIGHT_INPUTS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3), "RNN": (1, 2, 3), "BatchNormalization": (1, 2), "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2), "RMSNormalization": (1,),
    "PRelu": (1,), "LinearClassifier": (1, 2), "LinearRegressor": (1, 2), "Einsum": (0, 1, 2),
}  # fmt: skip
# Where they take numbers that say what to do.
_SETTINGS = {
    "Clip": (1, 2), "OneHot": (2,), "Pad": (2,), "QuantizeLinear": (1,), "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6), "Range": (0, 1, 2), "Resize": (1, 2),
    "Upsample": (1,), "NonMaxSuppression": (3, 4), "Less": (0, 1), "LessOrEqual": (0, 1),
    "Greater": (0, 1), "GreaterOrEqual": (0, 1), "Equal": (0, 1),
}  # fmt: skip
# Operators after which the numbers are the same ones.
_SAME = frozenset(
    {"Cast", "CastLike", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose",
     "Unsqueeze"}
)  # fmt: skip
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})

_ROOTS = frozenset({"Pow", "Sqrt"})

Role = tuple[str, int, bool]  # operator, place among its inputs, whether a product is added to it


def unchanging(nodes: Iterable[onnx.NodeProto]) -> Callable[[str], str]:
    """What finds the value that a cast or a reshape was given, or several of them."""
    origins: dict[str, str] = {}
    for node in nodes:
        if node.op_type in _SAME and node.input:
            origin = origins.get(node.input[0], node.input[0])
            origins.update(dict.fromkeys(node.output, origin))
    return lambda name: origins.get(name, name)


def roles_of(nodes: Sequence[onnx.NodeProto]) -> dict[str, list[Role]]:
    """What operators do with each value, those behind a cast or a reshape included.

    Under a square root, terms of a sum are in place 0 if nothing but stored numbers is in it, as in
    the variance of a batch norm and a small number, and in place 1 otherwise.
    """
    every = list(every_node(nodes))
    made_by = {name: node for node in every for name in node.output}
    source = unchanging(every)
    roles: dict[str, list[Role]] = defaultdict(list)
    for node in every:
        if node.op_type in _SAME:
            continue
        origins = [source(name) for name in node.input]
        after = any(o in made_by and made_by[o].op_type in PRODUCTS for o in origins)
        for place, origin in enumerate(origins):
            roles[origin].append((node.op_type, place, after and node.op_type == "Add"))
        under = made_by.get(origins[0]) if node.op_type in _ROOTS and origins else None
        if under is not None and under.op_type == "Add":
            terms = [source(name) for name in under.input]
            computed = any(term in made_by for term in terms)
            for term in terms:
                roles[term].append(("Sqrt", int(computed), False))
    return roles


def by_role(roles: Iterable[Role]) -> Verdict | None:
    """What numbers are for that no training changes, whichever file they are in."""
    where = {(operator, place) for operator, place, _ in roles}
    if where & {("BatchNormalization", 3), ("BatchNormalization", 4)}:
        return "statistic", "is the running statistic of a batch norm"
    if where and all(place in _SETTINGS.get(operator, ()) for operator, place in where):
        operator, _ = min(where)
        return "setting", f"tells {operator} what to do"
    return None


def by_form(stored: Stored, roles: Sequence[Role]) -> Verdict:
    """What remains if neither the graph nor the producer tells."""
    as_weight = sorted(
        op
        for op, place, _ in roles
        if place in _WEIGHT_INPUTS.get(op, ())
        and (stored.array.ndim or op not in PRODUCTS or place > 1)  # else expanded, as zeros are
    )
    if as_weight and (stored.array.ndim or stored.origin == "initializer"):
        return "parameter", f"is a weight of {as_weight[0]}"
    if any(added for _, _, added in roles) and stored.array.ndim:
        return "parameter", "is added to a product, as a bias is"
    if stored.array.ndim == 0:
        return "constant", "is one number without axes, as constants of the code are"
    if stored.origin == "constant" and stored.array.size == 1:
        return "constant", "is one number in a Constant node"
    if stored.array.size == 1 and ("Sqrt", 1, False) in roles:
        return "constant", "is one number under a square root, as in a norm"
    if any(operator == "Sqrt" for operator, _, _ in roles):
        return "unclear", "goes through a square root, as a variance does, which is not trained"
    return "parameter", "is stored, of floating type, with an axis"
