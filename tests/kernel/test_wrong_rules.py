"""Models for which MLX has a wrong derivative: their kernels are right, or refused in one line.

Expected values are by hand, by float64 differences of NumPy functions, or by gradients one by one.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError, entk, jacobian
from tests import models
from tests.kernel.cases import traces
from tests.reference import finite_difference_jacobian, from_jacobian, relative_error


def grouped(W: mx.array, x: mx.array) -> mx.array:
    return mx.conv1d(x, W, groups=2)


def written_slice(w: mx.array, x: mx.array) -> mx.array:
    h = x * w
    h[:, 1:3] = 0
    return h


def scaled_addmm(W: mx.array, x: mx.array) -> mx.array:
    return mx.addmm(mx.zeros((1,)), x, W, alpha=2.0)


def straight_through(W: mx.array, x: mx.array) -> mx.array:
    h = x @ W
    return h + mx.stop_gradient(mx.clip(h, -1, 1) - h)


def chosen_branch(W: mx.array, x: mx.array) -> mx.array:
    h = x @ W
    return mx.where(h > 0.5, mx.stop_gradient(h), h)


THREE = mx.array([[0.1, 0.2], [3.0, 2.0], [0.1, -0.1]])
W_OF_THREE = mx.array([[1.0, 0.2], [0.1, 1.0]])


@pytest.mark.parametrize(
    ("model", "params", "x", "expected"),
    [
        (
            grouped,
            mx.ones((2, 1, 1)),
            mx.array([[[1.0, 2], [3, 4]], [[1, 0], [0, 1]]]),
            [[7.5, 1.25], [1.25, 0.5]],
        ),
        (
            written_slice,
            mx.ones(4),
            mx.array([[1.0, 2, 3, 4], [2, 0, 1, 1]]),
            [[4.25, 1.5], [1.5, 1.25]],
        ),
        (scaled_addmm, mx.ones((2, 1)), mx.array([[1.0, 2], [3, 4]]), [[20, 44], [44, 100]]),
        # h + stop_gradient(...) has the derivative of h, whatever its value is.
        (straight_through, W_OF_THREE, THREE, np.array(THREE) @ np.array(THREE).T),
    ],
)
def test_by_hand(model: Any, params: mx.array, x: mx.array, expected: Any) -> None:
    for kernel in traces(model, x, params=params):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_stopped_for_one_input_among_many() -> None:
    h = np.array(THREE) @ np.array(W_OF_THREE)
    passes = (h <= 0.5).astype(float)
    expected = (np.array(THREE) @ np.array(THREE).T) * (passes @ passes.T) / 2

    for kernel in traces(chosen_branch, THREE, params=W_OF_THREE):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(4, 4, 9), (1, 2, 4), (2, 3, 7)])
def test_strided_convolutions_that_leave_rows_unused(kernel: int, stride: int, size: int) -> None:
    def model(params: Any, x: mx.array) -> mx.array:
        h = mx.tanh(mx.conv1d(x, params["first"]))
        return mx.conv1d(h, params["second"], stride=stride).sum(axis=1)

    draw = [
        mx.random.normal(shape, key=mx.random.key(k))
        for k, shape in enumerate([(3, 1, 2), (2, kernel, 3)])
    ]
    params = dict(zip(("first", "second"), draw, strict=True))
    x = mx.random.normal((4, size, 2), key=mx.random.key(7))
    rows = [
        [mx.grad(lambda p, n=n, c=c: model(p, x[n : n + 1])[0, c])(params) for c in range(2)]
        for n in range(4)
    ]
    J = np.array(
        [[np.concatenate([np.array(g[k]).ravel() for k in g]) for g in row] for row in rows]
    )
    expected = np.einsum("ncp,mcp->nm", J, J) / 2

    for trace in traces(model, x, params=params):
        assert relative_error(trace, expected) < 1e-5


class Upsampled(models.Seeded):
    """A transposed convolution with output padding, whose reverse rule is wrong in MLX 0.32.4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.wider = nn.ConvTranspose1d(2, 2, kernel_size=2, stride=2, output_padding=1)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(self.wider(mx.tanh(self.first(x)))).sum(axis=1)

    @staticmethod
    def numpy_forward(params: Any, x: np.ndarray) -> np.ndarray:
        h = np.tanh(x @ params["first.weight"].T + params["first.bias"])
        outputs = np.zeros((len(h), 2 * h.shape[1] + 1, 2))
        for t in range(2):  # each entry of the kernel in turn
            outputs[:, t : t + 2 * h.shape[1] : 2] += h @ params["wider.weight"][:, t].T
        return np.asarray(np.tanh(outputs + params["wider.bias"]).sum(axis=1))


def test_output_padding_of_a_transposed_convolution() -> None:
    """Right by differences in float64 where MLX's rule is, else refused."""
    model, x = Upsampled(), mx.random.normal((3, 4, 2), key=mx.random.key(1))
    J = np.concatenate(list(finite_difference_jacobian(model, x).values()), axis=2)
    expected = np.einsum("nmcc->nm", from_jacobian(J)) / 2

    kernels, refusal = [], ""
    try:
        kernels = traces(model, x)
    except InputError as error:
        refusal = str(error)

    assert kernels or "rule for Convolution, as this model uses it, is wrong" in refusal
    for kernel in kernels:
        assert relative_error(kernel, expected) < 1e-4


@pytest.mark.parametrize(
    ("name", "model", "slope"),
    [
        ("full", lambda w, x: x * mx.full((1, 3), w[0]), lambda w: np.ones(3)),
        ("divmod", lambda w, x: x * mx.divmod(w, mx.array(0.7))[1], lambda w: np.ones(3)),
        (
            "astype",
            lambda w, x: x * (w.astype(mx.int32).astype(mx.float32) + w),
            lambda w: np.ones(3),
        ),
    ],
)
def test_other_reverse_rules_that_are_wrong_in_mlx(name: str, model: Any, slope: Any) -> None:
    w = mx.array([1.3]) if name == "full" else mx.array([1.3, 0.4, 2.2])
    x = mx.array([[1.0, 2, 3], [0.5, -1, 2]])
    J = np.array(x) * slope(w)
    expected = (J @ J.T if w.size == 1 else np.einsum("nc,mc->nm", J, J)) / 3

    for kernel in traces(model, x, params=w):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5)


BITS = mx.array([6, 1, 4])


@pytest.mark.parametrize(
    "mask",
    [
        lambda x: (x > 0) & mx.array([True, False, True]),
        lambda x: mx.array([True, False, True]) | (x > 1),
        lambda x: mx.array([True, False, True]) ^ (x > 1),
        lambda x: BITS & mx.abs(x).astype(mx.int32),
        lambda x: mx.abs(x).astype(mx.int32) << (BITS % 3),
        lambda x: mx.not_equal(mx.array([1.0, -1, 2]), x),
    ],
)
def test_operations_of_which_one_operand_depends_on_the_inputs(mask: Any) -> None:
    """MLX's vmap of bitwise ones reads past the end of an array, that of another turns the axes."""
    x = mx.array([[1.0, 2, 3], [0.5, -1, 2], [5, 4, -7]])
    J = np.array(x * mask(x))
    expected = np.einsum("nc,mc->nm", J, J) / 3

    for kernel in traces(lambda w, x: x * w * mask(x), x, params=mx.array([1.3, 0.4, 2.2])):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5)


def test_a_value_to_pad_with_has_no_derivative_in_mlx() -> None:
    def model(w: mx.array, x: mx.array) -> mx.array:
        return x * mx.pad(mx.ones(1), (1, 1), constant_values=w[0])

    with pytest.raises(InputError, match="rule for Pad, as this model uses it, is wrong"):
        entk(model, mx.ones((2, 3)), params=mx.ones(1))


def test_a_custom_derivative_counts_in_the_operator_too() -> None:
    @mx.custom_function
    def rounded(h: mx.array) -> mx.array:
        return mx.round(h)

    @rounded.vjp
    def _(primals: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return cotangent  # straight through

    x = mx.random.normal((4, 3), key=mx.random.key(0))
    W = mx.random.normal((3, 2), key=mx.random.key(1))

    for kernel in traces(lambda W, x: rounded(x @ W), x, params=W):
        np.testing.assert_allclose(kernel, np.array(x) @ np.array(x).T, rtol=1e-5)


def test_a_custom_derivative_that_few_inputs_meet_is_pushed_forward() -> None:
    @mx.custom_function
    def clipped(h: mx.array) -> mx.array:
        return mx.clip(h, -1, 1)

    @clipped.vjp
    def _(primals: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return cotangent  # as if nothing were clipped

    x = mx.concatenate([0.01 * mx.ones((6, 2)), mx.array([[3.0, 5], [4, -9]])])

    for kernel in traces(lambda W, x: clipped(x @ W), x, params=mx.eye(2)):
        np.testing.assert_allclose(kernel, np.array(x) @ np.array(x).T, rtol=1e-5)


def test_rows_of_the_jacobian_are_right_too() -> None:
    x = mx.array([[1.0, 2, 3, 4], [2, 0, 1, 1]])

    rows = jacobian(written_slice, x, params=mx.ones(4))[""]

    expected = np.zeros((2, 4, 4))
    for n in range(2):
        expected[n, [0, 3], [0, 3]] = np.array(x)[n, [0, 3]]
    np.testing.assert_allclose(np.array(rows), expected)


def test_a_model_that_mlx_cannot_differentiate_is_refused() -> None:
    def model(W: mx.array, x: mx.array) -> mx.array:
        return x @ mx.linalg.inv(W, stream=mx.cpu)

    with pytest.raises(InputError, match=r"cannot be differentiated: .*Inverse"):
        entk(model, mx.ones((2, 2)), params=mx.eye(2))
