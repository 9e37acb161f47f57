"""Products of matrices, and einsum."""

import string

import mlx.core as mx

from mlx_entk.onnx.operators.values import Attributes, Inputs, Operator, as_mlx


def _gemm(x: Inputs, a: Attributes, n: int) -> mx.array:
    A, B = as_mlx(x[0]), as_mlx(x[1])
    A = A.T if a.get("transA", 0) else A
    B = B.T if a.get("transB", 0) else B
    product: mx.array = a.get("alpha", 1.0) * (A @ B)
    if len(x) > 2 and x[2] is not None:
        product = product + a.get("beta", 1.0) * as_mlx(x[2])
    return product


def _einsum(x: Inputs, a: Attributes, n: int) -> mx.array:
    operands = [as_mlx(v) for v in x]
    subscripts, arrow, result = a["equation"].decode().replace(" ", "").partition("->")
    terms = subscripts.split(",")
    if "..." in subscripts:  # mx.einsum has no ellipsis: use letters that are still free
        free = [c for c in string.ascii_letters if c not in subscripts]
        hidden = [
            "".join(free[: v.ndim - len(term) + 3][::-1]) if "..." in term else ""
            for term, v in zip(terms, operands, strict=True)
        ]
        terms = [t.replace("...", h) for t, h in zip(terms, hidden, strict=True)]
        longest = max(hidden, key=len)
        if not arrow:  # letters that appear twice are summed over
            once = sorted(c for c in set(subscripts) - set(",.") if subscripts.count(c) == 1)
            result = "..." + "".join(once)
        result = result.replace("...", longest)
        arrow = "->"
    return mx.einsum(",".join(terms) + arrow + result, *operands)


LINEAR: dict[str, Operator] = {
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": lambda x, a, n: mx.matmul(as_mlx(x[0]), as_mlx(x[1])),
}
