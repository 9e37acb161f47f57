"""Kernels of every function of MLX against its gradients one by one, and those against values.

No rule of MLX that is missing, or wrong under ``vmap`` or in forward mode, may show in a kernel. A
model is refused, with one line, only if MLX has no gradient of it or a wrong one.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernel.cases import C, Kernel, N, full_kernels
from tests.kernel.mlx_functions import CASES, WITHOUT_DERIVATIVE, FunctionCase, public_functions
from tests.reference import from_jacobian, relative_error

# Where plain reverse mode of MLX is not the derivative: see docs/upstream.
WRONG_IN_MLX = frozenset(
    {f"conv_transpose{d}d:output padding [0]" for d in (1, 2, 3)}
    | {"full", "full of the weight", "full_like", "pad:value [1]"}
    | {"divmod [0]", "divmod [1]", "power:complex [0]", "power:complex [1]"}
)
# Where reverse mode alone is right, so that there is no operator; of the last two MLX reports no
# graph, which might hide custom derivatives from forward mode.
NO_PRODUCTS = {
    "astype:mlx.core.bfloat16",
    "cumprod:a zero",
    "logcumsumexp:exclusive",
    "logcumsumexp:exclusive reverse",
}


@pytest.fixture(autouse=True)
def interpreted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without ``mx.compile``, which calls a C++ compiler for each new model on a CPU."""
    case = getattr(request.node, "callspec", None)
    if case is None or not case.params["case"].name.startswith("compile"):
        mx.disable_compile()
    yield
    mx.enable_compile()


@cache
def gradients(case: FunctionCase) -> Kernel | Exception:
    """The Jacobian, shape (N, C, P), by a backward pass a row and output, or what MLX raises."""
    w, x = mx.array(case.weight), mx.array(case.rows)

    def pull(n: int, cotangent: mx.array) -> Kernel:
        pulled = mx.vjp(lambda v: case.function(v, x[n : n + 1]), [w], [cotangent[None]])[1][0]
        return np.array(pulled.astype(mx.float32), dtype=np.float64).reshape(-1)

    try:
        return np.array([[pull(n, cotangent) for cotangent in mx.eye(C)] for n in range(N)])
    except (ValueError, RuntimeError) as error:
        return error


def change(case: FunctionCase, along: NDArray[Any]) -> Kernel:
    """The change of the outputs along a direction of the weight, by differences of values."""
    x, step = mx.array(case.rows), 1e-3
    ends = (
        case.function(mx.array((case.weight + sign * step * along).astype(np.float32)), x)
        for sign in (1, -1)
    )
    up, down = (np.array(end, dtype=np.float64) for end in ends)
    return np.asarray((up - down) / (2 * step))


def differences(case: FunctionCase) -> Kernel:
    """The Jacobian by differences, each entry of the weight moved alone."""
    units = np.eye(case.weight.size).reshape(-1, *case.weight.shape)
    return np.stack([change(case, unit) for unit in units], axis=-1)


def test_every_function_of_mlx_is_tried_or_has_no_derivative() -> None:
    tried = {name for case in CASES for name in case.covers}
    without = {name for names in WITHOUT_DERIVATIVE.values() for name in names.split()}

    assert sorted(set(public_functions()) - tried - without) == []
    assert sorted((tried | without) - set(public_functions())) == []
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::mlx_entk.errors.SlowPathWarning")
def test_a_kernel_is_that_of_gradients_one_by_one_or_refused(case: FunctionCase) -> None:
    w, x = mx.array(case.weight), mx.array(case.rows)
    J = gradients(case)
    if isinstance(J, Exception) or case.name in WRONG_IN_MLX:
        refusable, expected, tolerance = True, from_jacobian(differences(case)), 2e-2
    else:
        refusable, expected, tolerance = False, from_jacobian(J), case.tolerance

    def model(params: Any, x: mx.array) -> mx.array:
        return case.function(params["w"], x)

    for way, kernel in full_kernels(model, x, {"w": w}).items():
        if isinstance(kernel, str):
            assert refusable or (way == "operator" and case.name in NO_PRODUCTS), kernel
            assert "\n" not in kernel
        else:
            assert relative_error(kernel, expected) <= tolerance, way


@pytest.mark.parametrize("case", [case for case in CASES if not case.decreed], ids=lambda c: c.name)
def test_a_gradient_of_mlx_is_the_derivative(
    case: FunctionCase, request: pytest.FixtureRequest
) -> None:
    J = gradients(case)
    if isinstance(J, Exception):
        pytest.skip(f"MLX has no gradient: {str(J).partition(chr(10))[0]}")
    if case.name in WRONG_IN_MLX:
        request.applymarker(pytest.mark.xfail(strict=True, reason="see docs/upstream"))
    along = np.random.default_rng(1).uniform(0.5, 1, case.weight.shape)

    expected = J @ along.reshape(-1)

    # Rounding of values near 1, over the step, is about 1e-4.
    allowed = 3e-4 + 5e-3 * np.abs(expected).max()
    np.testing.assert_allclose(change(case, along), expected, rtol=0, atol=allowed)
