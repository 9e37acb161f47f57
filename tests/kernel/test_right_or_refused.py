"""Kernels that were once wrong without a word: each is right now, or refused in one line.

Expected values are by hand, by float64 differences of NumPy functions, or by gradients one by one.
"""

import warnings
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError, eigendecompose, entk, entk_operator, jacobian
from mlx_entk._parameters import Params
from mlx_entk.kernel.engine import Strategy
from mlx_entk.tracing import primitives
from tests import models
from tests.reference import finite_difference_jacobian, from_jacobian, relative_error

STRATEGIES: tuple[Strategy, ...] = ("auto", "jacobian-contraction", "ntk-vector-products")


def by_every_way(model: Any, x: Any, **options: Any) -> list[np.ndarray]:
    """The trace kernel by every strategy and by the operator."""
    kernels = [
        np.asarray(entk(model, x, reduction="trace", strategy=strategy, **options))
        for strategy in STRATEGIES
    ]
    operator = entk_operator(model, x, reduction="trace", **options)
    return [*kernels, operator @ np.eye(operator.shape[0])]


def grouped(W: mx.array, x: mx.array) -> mx.array:
    return mx.conv1d(x, W, groups=2)


def depthwise_transposed(W: mx.array, x: mx.array) -> mx.array:
    return mx.conv_transpose1d(x, W, stride=2, groups=2)


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
    for kernel in by_every_way(model, x, params=params):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_stopped_for_one_input_among_many() -> None:
    h = np.array(THREE) @ np.array(W_OF_THREE)
    passes = (h <= 0.5).astype(float)
    expected = (np.array(THREE) @ np.array(THREE).T) * (passes @ passes.T) / 2

    for kernel in by_every_way(chosen_branch, THREE, params=W_OF_THREE):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


def test_a_complex_weight_counts_with_both_parts() -> None:
    def power(W: mx.array, x: mx.array) -> mx.array:
        return mx.abs((x + 0j) @ W)[:, None] ** 2

    x, W = mx.array([[1.0, 0.0], [0.5, 2.0]]), mx.array([1 + 1j, 0.3 - 0.2j])
    inner = np.array(x) @ np.array(W)
    J = 2 * inner[:, None] * np.array(x)  # by the real part its real part, and so on
    expected = (J.conj() @ J.T).real

    assert expected[0, 0] == pytest.approx(8)
    for kernel in by_every_way(power, x, params=W):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5)


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

    for found in by_every_way(model, x, params=params):
        assert relative_error(found, expected) < 1e-5


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
        kernels = by_every_way(model, x)
    except InputError as error:
        refusal = str(error)

    assert kernels or "derivative of Convolution, as this model uses it, is wrong" in refusal
    for found in kernels:
        assert relative_error(found, expected) < 1e-4


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

    for found in by_every_way(model, x, params=w):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_value_to_pad_with_has_no_derivative_in_mlx() -> None:
    def model(w: mx.array, x: mx.array) -> mx.array:
        return x * mx.pad(mx.ones(1), (1, 1), constant_values=w[0])

    with pytest.raises(InputError, match="derivative of Pad, as this model uses it, is wrong"):
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

    for found in by_every_way(lambda W, x: rounded(x @ W), x, params=W):
        np.testing.assert_allclose(found, np.array(x) @ np.array(x).T, rtol=1e-5)


def over_the_batch(w: mx.array, x: mx.array) -> mx.array:
    return mx.softmax(x @ x.T, axis=-1) @ (x * w)


@pytest.mark.parametrize(
    "x", [mx.ones((4, 3)), mx.array([[0.1, 0.2, 0.3], [0, 1, 0], [0.1, 0.2, 0.3]])]
)
def test_a_batch_that_is_mixed_is_refused_whatever_inputs_repeat(x: mx.array) -> None:
    with pytest.raises(InputError, match="other outputs beside other inputs"):
        entk(over_the_batch, x, params=mx.ones(3))


class Normed(nn.Module):
    """Batch norm of the reader's own, which no list of layers names."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 2)
        self.running_mean = mx.zeros(2)

    def __call__(self, x: mx.array) -> mx.array:
        h = self.dense(x)
        self.running_mean = 0.9 * self.running_mean + 0.1 * h.mean(axis=0)
        return h - h.mean(axis=0)


@pytest.mark.parametrize("norm", [Normed, lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm(2))])
def test_a_refused_module_is_left_as_it_was(norm: Any) -> None:
    model = norm()
    stored = dict(nn.utils.tree_flatten(model.parameters()))
    before = {name: np.array(value) for name, value in stored.items()}

    with pytest.raises(InputError, match=r"call model\.eval\(\) first"):
        entk(model, mx.ones((3, 3)))

    after = dict(nn.utils.tree_flatten(model.parameters()))
    assert after.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(np.array(after[name]), value)


def test_a_block_of_two_classes_has_no_spectrum() -> None:
    model = models.MLP([3, 5, 2])
    x = mx.random.normal((10, 3), key=mx.random.key(0))

    block = entk(model, x, reduction=(0, 1))

    assert block.shape == (10, 10)
    with pytest.raises(InputError, match="kernel"):
        eigendecompose(block)


def test_inputs_whose_gradient_is_not_a_number_are_named() -> None:
    def length(params: Params, x: mx.array) -> mx.array:
        h = x @ params["W"]
        return mx.sqrt(mx.square(h).sum(axis=1, keepdims=True)) + x @ params["V"]

    x = mx.array([[1.0, 2], [0, 0], [3, 1], [0, 0]])
    params = {"V": mx.ones((2, 1)), "W": mx.ones((2, 2))}

    with pytest.raises(InputError, match=r"gradient of input 1, 3 of x by W is NaN or infinite"):
        entk(length, x, params=params, reduction="trace")


def test_a_kernel_too_small_for_single_precision_is_refused() -> None:
    x = mx.random.normal((4, 3), key=mx.random.key(0))

    with pytest.raises(
        InputError, match="of W is below what single precision holds: scale outputs"
    ):
        entk(lambda p, x: (x @ p["W"]) * 1e-23, x, params={"W": mx.ones((3, 2))}, by_layer=True)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_parameters_without_axes_or_entries(shape: tuple[int, ...]) -> None:
    def model(params: Params, x: mx.array) -> mx.array:
        return (x @ params["W"]) * (1 + params["odd"].sum())

    x = mx.random.normal((4, 3), key=mx.random.key(0))
    params = {"W": mx.ones((3, 2)), "odd": mx.zeros(shape)}
    f = np.array(x) @ np.ones((3, 2))

    kernels = entk(model, x, params=params, reduction="trace", by_layer=True)

    np.testing.assert_allclose(kernels["W"], np.array(x) @ np.array(x).T, rtol=1e-5)
    expected = f @ f.T / 2 if shape == () else np.zeros((4, 4))
    np.testing.assert_allclose(kernels["odd"], expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["trace", (0, 49_999), "sum-of-logits"])
def test_a_large_vocabulary_stays_within_the_limit(reduction: Any) -> None:
    V, d = 50_000, 4

    def model(params: Any, x: mx.array) -> mx.array:
        h = mx.tanh(params["E"][x].mean(axis=1))
        return h @ params["E"].T if reduction != "trace" else h

    params = {"E": mx.random.normal((V, d), key=mx.random.key(0))}
    x = mx.random.randint(0, V, (4, 3), key=mx.random.key(1))
    mx.reset_peak_memory()
    before = mx.get_active_memory()

    kernel = entk(model, x, params=params, reduction=reduction, memory_limit="1GB")

    assert mx.get_peak_memory() - before < 1e9
    assert np.isfinite(kernel).all()


class Experts(nn.Module):
    """A mixture whose choice is not taken out of differentiation."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = mx.random.normal((3, 4, 4), key=mx.random.key(0))

    def __call__(self, x: mx.array) -> mx.array:
        gates = mx.softmax(self.router(x), axis=-1)
        chosen = mx.argpartition(-gates, kth=1, axis=-1)[..., :2]
        weights = mx.take_along_axis(gates, chosen, axis=-1)
        h = mx.gather_mm(x[:, None, None], self.experts.swapaxes(-1, -2), rhs_indices=chosen)
        return (mx.tanh(h.squeeze(2)) * weights[..., None]).sum(axis=1)


@pytest.mark.parametrize("taken", [0, 2**22])
def test_a_mixture_of_experts(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primitives, "_TAKEN", taken)
    mx.random.seed(0)
    model, x = Experts(), mx.random.normal((5, 4), key=mx.random.key(1))
    gates = np.array(mx.softmax(model.router(x), axis=-1), dtype=np.float64)
    chosen = np.argsort(-gates, axis=1)[:, :2]

    def output(flat: np.ndarray) -> np.ndarray:
        """The same in float64, with the experts that the weights choose."""
        R, b, E = flat[:12].reshape(3, 4), flat[12:15], flat[15:].reshape(3, 4, 4)
        z = np.array(x, dtype=np.float64) @ R.T + b
        g = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        h = np.tanh(np.einsum("nkoi,ni->nko", E[chosen], np.array(x, dtype=np.float64)))
        return np.asarray((h * np.take_along_axis(g, chosen, 1)[..., None]).sum(axis=1))

    theta = np.concatenate(
        [
            np.array(p, dtype=np.float64).ravel()
            for p in (model.router.weight, model.router.bias, model.experts)
        ]
    )
    J = np.stack(
        [(output(theta + e) - output(theta - e)) / 2e-6 for e in 1e-6 * np.eye(theta.size)], axis=2
    )
    expected = np.einsum("ncp,mcp->nm", J, J) / 4

    for found in by_every_way(model, x):
        assert relative_error(found, expected) < 1e-4


def test_weights_that_were_never_computed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model.layers[0].freeze()
    x = mx.random.normal((4, 3), key=mx.random.key(0))

    kernel = entk(model, x, reduction="trace", strategy="structured-derivatives")

    h = np.tanh(np.array(model.layers[0](x)))
    np.testing.assert_allclose(kernel, h @ h.T + 1, rtol=1e-5)


class Bare(nn.Module):
    def __init__(self) -> None:
        self.weight = mx.ones((3, 2))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight


def test_a_module_without_its_base_is_said() -> None:
    with pytest.raises(InputError, match=r"Bare does not call super\(\).__init__\(\)"):
        entk(Bare(), mx.ones((2, 3)))


def test_a_model_that_mlx_cannot_differentiate_is_refused() -> None:
    def model(W: mx.array, x: mx.array) -> mx.array:
        return x @ mx.linalg.inv(W, stream=mx.cpu)

    with pytest.raises(InputError, match=r"cannot be differentiated: .*Inverse"):
        entk(model, mx.ones((2, 2)), params=mx.eye(2))


def test_rows_of_the_jacobian_are_right_too() -> None:
    x = mx.array([[1.0, 2, 3, 4], [2, 0, 1, 1]])

    rows = jacobian(written_slice, x, params=mx.ones(4))[""]

    expected = np.zeros((2, 4, 4))
    for n in range(2):
        expected[n, [0, 3], [0, 3]] = np.array(x)[n, [0, 3]]
    np.testing.assert_allclose(np.array(rows), expected)


def test_nothing_is_said_of_models_that_take_the_usual_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entk(models.Transformer(), mx.random.randint(0, 5, (6, 3), key=mx.random.key(1)))


def by_gradients(model: Any, params: Any, x: mx.array, C: int) -> np.ndarray:
    """The trace kernel by plain gradients, one by one."""

    def row(n: int, c: int) -> np.ndarray:
        one = x[n : n + 1]
        (_, gradients) = mx.vjp(
            lambda *values: model(dict(zip(params, values, strict=True)), one)[0].reshape(-1)[c],
            list(params.values()),
            [mx.array(1.0)],
        )
        return np.concatenate([np.array(g, dtype=np.float64).ravel() for g in gradients])

    J = np.stack([[row(n, c) for c in range(C)] for n in range(len(x))])
    return np.asarray(np.einsum("ncp,mcp->nm", J, J) / C)


@pytest.mark.parametrize("shape", [(1, 4), (5, 4), (64, 64)])
def test_a_weight_that_multiplies_columns_behind_the_last_nonlinearity(
    shape: tuple[int, int],
) -> None:
    def model(params: Params, x: mx.array) -> mx.array:
        return mx.tanh(params["w"] @ x.swapaxes(-1, -2)).sum(axis=1)

    params = {"w": mx.random.normal(shape, key=mx.random.key(0))}
    x = mx.random.normal((3, 5, shape[1]), key=mx.random.key(1))

    kernel = entk(model, x, params=params, reduction="trace")

    assert relative_error(kernel, by_gradients(model, params, x, 5)) < 1e-5


def test_tokens_that_count_from_the_end() -> None:
    def model(params: Params, x: mx.array) -> mx.array:
        return params["e"][x].reshape(x.shape[0], -1) @ params["r"]

    draw = [
        mx.random.normal(shape, key=mx.random.key(k))
        for k, shape in enumerate([(400, 32), (32, 2)])
    ]
    params = dict(zip(("e", "r"), draw, strict=True))
    x = mx.array([[-1], [399], [3]])

    kernel = entk(model, x, params=params, reduction="trace")

    assert relative_error(kernel, by_gradients(model, params, x, 2)) < 1e-5


def test_what_lies_before_a_head_of_zeros_is_tried_too() -> None:
    """First with nothing to see, as at the beginning of a training, then with something."""

    def model(params: Params, x: mx.array) -> mx.array:
        h = mx.slice_update(x @ params["w"], mx.zeros((1, 2)), mx.array([1]), (1,))
        return (h + mx.stop_gradient(mx.sin(h))) @ params["head"]

    x = mx.random.normal((4, 3), key=mx.random.key(0))
    params = {"head": mx.zeros((4, 2)), "w": mx.random.normal((3, 4), key=mx.random.key(1))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entk(model, x, params=params, reduction="trace")
        params["head"] = mx.random.normal((4, 2), key=mx.random.key(2))
        kernel = entk(model, x, params=params, reduction="trace")

    assert relative_error(kernel, by_gradients(model, params, x, 2)) < 1e-5


def test_a_custom_derivative_that_few_inputs_meet_is_pushed_forward() -> None:
    @mx.custom_function
    def clipped(h: mx.array) -> mx.array:
        return mx.clip(h, -1, 1)

    @clipped.vjp
    def _(primals: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return cotangent  # as if nothing were clipped

    x = mx.concatenate([0.01 * mx.ones((6, 2)), mx.array([[3.0, 5], [4, -9]])])

    for found in by_every_way(lambda W, x: clipped(x @ W), x, params=mx.eye(2)):
        np.testing.assert_allclose(found, np.array(x) @ np.array(x).T, rtol=1e-5)


def test_tiles_of_another_kernel_are_not_gone_on_with(tmp_path: Any) -> None:
    W, V = (mx.random.normal((3, 2), key=mx.random.key(k)) for k in range(2))
    x = mx.random.normal((40, 3), key=mx.random.key(2))

    def model(W: mx.array, x: mx.array) -> Any:
        return mx.tanh(x @ W), mx.tanh(x @ V) * (x @ W)

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if done:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"params": W, "out": tmp_path / "k", "memory_limit": "100kB"}
    with pytest.raises(KeyboardInterrupt):
        entk(model, x, output=0, **options, progress=stop)

    with pytest.raises(InputError, match="holds tiles of another kernel"):
        entk(model, x, output=1, **options)


class Counting(nn.Module):
    """Writes into its arrays, and into an object that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 2)
        self.calls = mx.array(0.0)
        self.last = mx.zeros(2)
        self.cache = Cache()

    def __call__(self, x: mx.array) -> mx.array:
        h = self.dense(x)
        self.calls += 1
        self.last[:] = h[0]
        self.cache.last = h
        self.cache.seen.append(h)
        return h


class Cache:
    def __init__(self) -> None:
        self.last: Any = None
        self.seen: list[Any] = []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_call_writes_is_taken_back(strategy: Strategy) -> None:
    model = Counting()
    model.freeze(keys=["calls", "last"])

    entk(model, mx.ones((3, 3)), strategy=strategy)

    assert model.calls.item() == 0
    assert model.last.tolist() == [0, 0]
    assert (model.cache.last, model.cache.seen) == (None, [])
