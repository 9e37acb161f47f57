from pathlib import Path
from typing import Any, get_args

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_entk import InputError, entk, explain, flatten, layerwise_entk
from mlx_entk.data import modular_addition
from mlx_entk.kernel.engine import Strategy
from mlx_entk.kernel.reduction import cotangents_of
from mlx_entk.kernel.store import FileStore
from mlx_entk.kernel.tiling import Tiling
from mlx_entk.kernel.work import Work
from mlx_entk.models import QuadraticMLP
from tests import models, reference

STRATEGIES = get_args(Strategy)


def reduce(full: reference.Kernel, reduction: object) -> reference.Kernel:
    """The reductions as the vocabulary defines them, from the full kernel."""
    if reduction == "full":
        return full
    if reduction == "trace":
        return np.asarray(np.einsum("nmcc->nm", full) / full.shape[2])
    if reduction == "sum-of-logits":
        return np.asarray(full.mean(axis=(2, 3)))
    assert isinstance(reduction, tuple)
    return full[:, :, reduction[0], reduction[1]]


def error_of(kernel: Any, full: reference.Kernel, reduction: object) -> float:
    """Largest difference from the reduced reference, over the reference's largest entry."""
    scale = np.abs(full).max() or 1.0  # a zero kernel must be met to 1e-5 itself
    return float(np.abs(kernel - reduce(full, reduction)).max() / scale)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("reduction", ["full", "trace", "sum-of-logits", (1, 1), (0, 4)])
def test_kernels_of_the_quadratic_mlp_equal_the_closed_form(reduction: Any, strategy: Any) -> None:
    model = QuadraticMLP(p=7, width=20, seed=3)
    x = mx.random.normal((13, 14), key=mx.random.key(1))
    expected = reference.quadratic_mlp_kernels(
        np.array(model.hidden.weight), np.array(model.readout.weight), np.array(x)
    )

    by_layer = layerwise_entk(model, x, reduction=reduction, strategy=strategy)
    total = entk(model, x, reduction=reduction, strategy=strategy)

    assert by_layer.keys() == expected.keys()
    for name, full in expected.items():
        assert error_of(by_layer[name], full, reduction) < 1e-5
    assert error_of(total, sum(expected.values(), np.zeros(())), reduction) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["full", "trace", "sum-of-logits", (3, 17)])
def test_kernels_equal_the_closed_form_at_the_size_of_the_paper(reduction: Any) -> None:
    model = QuadraticMLP(p=29, width=512, seed=0)
    x = mx.array(modular_addition(29, 0.7, seed=0).x[::12])
    expected = reference.quadratic_mlp_kernels(
        np.array(model.hidden.weight), np.array(model.readout.weight), np.array(x)
    )

    by_layer = layerwise_entk(model, x, reduction=reduction)

    for name, full in expected.items():
        assert error_of(by_layer[name], full, reduction) < 1e-5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_parameter_may_be_called_as_the_whole_kernel_is(strategy: Any) -> None:
    params = {"kernel": mx.random.normal((3, 2)), "bias": mx.zeros(2)}
    x = mx.random.normal((4, 3))

    by_layer = layerwise_entk(
        lambda p, x: mx.tanh(x @ p["kernel"] + p["bias"]), x, params=params, strategy=strategy
    )
    plain = layerwise_entk(
        lambda p, x: mx.tanh(x @ p["w"] + p["bias"]),
        x,
        params={"w": params["kernel"], "bias": params["bias"]},
        strategy=strategy,
    )

    np.testing.assert_allclose(by_layer["kernel"], plain["w"], rtol=1e-5)


def test_kernels_of_parameters_with_any_name_stay_in_their_folder(tmp_path: Path) -> None:
    names = ["../evil", "/absolute", "a/b", "W", "w", "..", "n" * 500, "\x1b[31m", "plain"]
    params = {name: mx.random.normal((3, 2), key=mx.random.key(i)) for i, name in enumerate(names)}
    x = mx.random.normal((4, 3))

    def model(p: dict[str, mx.array], x: mx.array) -> mx.array:
        return sum((mx.tanh(x @ w) for w in p.values()), mx.zeros(()))

    kernels = layerwise_entk(model, x, params=params, out=tmp_path / "a" / "kernels")

    expected = layerwise_entk(model, x, params=params)
    for name in names:
        np.testing.assert_array_equal(kernels[name], expected[name])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(names)
    assert all(path.parent == tmp_path / "a" / "kernels" for path in files)
    assert tmp_path / "a" / "kernels" / "plain.npy" in files


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    counts=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_kernels_of_random_mlps_equal_torch(
    sizes: list[int], counts: tuple[int, int], bias: bool, seed: int, data: st.DataObject
) -> None:
    C = sizes[-1]
    reduction: Any = data.draw(
        st.sampled_from(["full", "trace", "sum-of-logits"])
        | st.tuples(st.integers(0, C - 1), st.integers(0, C - 1))
    )
    strategy: Any = data.draw(st.sampled_from(STRATEGIES))
    model = models.MLP(sizes, bias, seed)
    x = mx.random.normal((counts[0], sizes[0]), key=mx.random.key(seed + 1))
    x2 = mx.random.normal((counts[1], sizes[0]), key=mx.random.key(seed + 2))
    layers = [
        (np.array(layer.weight), np.array(layer.bias) if bias else None) for layer in model.layers
    ]
    left = reference.torch_mlp_jacobian(layers, np.array(x))
    right = reference.torch_mlp_jacobian(layers, np.array(x2))

    kernels = layerwise_entk(model, x, x2, reduction=reduction, strategy=strategy)

    assert kernels.keys() == left.keys()
    for name, kernel in kernels.items():
        full = reference.from_jacobian(left[name], right[name])
        assert error_of(kernel, full, reduction) < 1e-5


INPUTS = {
    models.Recurrent: (5, 3),
    models.SharedModule: (5, 3),
    models.TiedDecoder: (5, 4),
    models.Sequence_: (4, 3, 3),
    models.TimeFirst: (4, 4, 3),
    models.Convolution: (4, 4, 2),
    models.Subclassed: (5, 3),
    models.Superposition: (6, 5),
    models.ColumnProduct: (4, 3, 3),
    models.Image: (3, 4, 4, 2),
    models.Transformer: (6, 3),
}


@pytest.mark.parametrize("strategy", ["auto", "jacobian-contraction", "ntk-vector-products"])
@pytest.mark.parametrize("kind", INPUTS, ids=lambda kind: kind.__name__)
def test_kernels_of_any_layer_use_equal_finite_differences(
    kind: type[models.Seeded], strategy: Any
) -> None:
    model = kind()
    x = mx.random.normal(INPUTS[kind], key=mx.random.key(7))
    if kind is models.Transformer:
        x = mx.random.randint(0, 5, INPUTS[kind], key=mx.random.key(7))
    jacobian = reference.finite_difference_jacobian(model, x)
    if kind is models.SharedModule:  # two names of one layer: the reference moves the last
        jacobian = {name.replace("second", "first"): J for name, J in jacobian.items() if J.any()}

    for reduction in ("full", "trace", "sum-of-logits"):
        kernels = layerwise_entk(model, x, reduction=reduction, strategy=strategy)
        assert kernels.keys() == jacobian.keys()
        for name, J in jacobian.items():
            assert error_of(kernels[name], reference.from_jacobian(J), reduction) < 1e-5


@pytest.mark.parametrize("kind", INPUTS, ids=lambda kind: kind.__name__)
def test_factors_of_a_few_inputs_at_a_time_give_the_same_kernel(
    kind: type[models.Seeded], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kind()
    x = mx.random.normal((5, *INPUTS[kind][1:]), key=mx.random.key(7))
    if kind is models.Transformer:
        x = mx.random.randint(0, 5, (5, *INPUTS[kind][1:]), key=mx.random.key(7))
    for reduction in ("full", "trace"):
        whole = layerwise_entk(model, x, reduction=reduction)
        for floats in (1, 3 * 10**3):
            with monkeypatch.context() as patched:
                patched.setattr("mlx_entk.kernel.structure._AT_ONCE", floats)
                kernels = layerwise_entk(model, x, reduction=reduction)
            for name, kernel in whole.items():
                assert reference.relative_error(kernels[name], kernel) < 1e-5


def test_long_sequences_agree_whichever_axis_is_contracted_first() -> None:
    model = models.Sequence_()
    x = mx.random.normal((3, 40, 3), key=mx.random.key(5))

    structured = entk(model, x, strategy="structured-derivatives")

    J = np.concatenate(list(reference.finite_difference_jacobian(model, x).values()), axis=-1)
    assert reference.relative_error(structured, reference.from_jacobian(J)) < 1e-5


def test_a_pure_function_gives_the_kernel_of_the_module_it_describes() -> None:
    model = models.MLP([3, 4, 2])
    x = mx.random.normal((6, 3), key=mx.random.key(2))

    def function(params: Any, x: mx.array) -> mx.array:
        hidden: mx.array = mx.tanh(x @ params["in"][0].T + params["in"][1])
        return mx.addmm(params["b"], hidden, params["out"].T)

    first, last = model.layers
    params = {"in": [first.weight, first.bias], "out": last.weight, "b": last.bias}

    by_name = layerwise_entk(function, x, reduction="full", params=params)

    assert set(by_name) == {"in.0", "in.1", "out", "b"}
    total = sum(by_name.values(), np.zeros(()))
    np.testing.assert_allclose(total, entk(model, x, reduction="full"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["full", "trace", "sum-of-logits", (0, 1)])
@pytest.mark.parametrize("two_sets", [False, True])
@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("strategy", ["auto", "jacobian-contraction", "ntk-vector-products"])
def test_the_memory_limit_does_not_change_the_kernel(
    reduction: Any, two_sets: bool, in_files: bool, strategy: Any, tmp_path: Path
) -> None:
    model = models.MLP([3, 5, 4])
    x = mx.random.normal((11, 3), key=mx.random.key(2))
    x2 = mx.random.normal((7, 3), key=mx.random.key(3)) if two_sets else None
    whole = entk(model, x, x2, reduction=reduction, strategy=strategy)

    counts = set()
    for limit in (16_000, 40_000, 400_000):
        seen: list[int] = []
        kernel = entk(
            model,
            x,
            x2,
            reduction=reduction,
            strategy=strategy,
            memory_limit=limit,
            out=tmp_path / str(limit) if in_files or reduction == "full" else None,
            progress=lambda stage, done, total, note="", seen=seen: seen.append(total),
        )
        counts.add(seen[-1])
        np.testing.assert_allclose(kernel, whole, rtol=1e-5, atol=1e-6)
    assert len(counts) > 1, "every limit gave the same tiles"


def test_layers_go_into_files_of_their_own(tmp_path: Path) -> None:
    model = models.MLP([3, 4, 2])
    x = mx.random.normal((6, 3), key=mx.random.key(2))

    kernels = layerwise_entk(model, x, reduction="trace", out=tmp_path / "out")

    stored = np.load(tmp_path / "out" / "layers.0.bias.npy")
    np.testing.assert_array_equal(stored, kernels["layers.0.bias"])
    assert len(list((tmp_path / "out").iterdir())) == len(kernels) == 4


class KilledError(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_kernel_goes_on_from_its_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.MLP([3, 5, 4])
    x = mx.random.normal((11, 3), key=mx.random.key(2))
    options: dict[str, Any] = {"memory_limit": 16_000, "out": tmp_path}

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        entk(model, x, progress=stop, **options)
    computed = []
    blocks = Work.blocks

    def counted(self: Work, *args: Any, **options: Any) -> Any:
        computed.append(1)
        return blocks(self, *args, **options)

    monkeypatch.setattr(Work, "blocks", counted)
    with pytest.raises(InputError, match="holds tiles of another kernel"):
        entk(model, 2 * x, **options)
    total: list[int] = []
    kernel = entk(model, x, progress=lambda s, d, t, n="": total.append(t), **options)

    assert len(computed) == total[-1] - 5
    np.testing.assert_allclose(kernel, entk(model, x), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"kernel.npy exists: choose another folder"):
        entk(model, x, **options)


@pytest.mark.parametrize("reduction", ["full", "trace", (0, 1)])
@pytest.mark.parametrize("limits", [(16_000, 40_000), (40_000, 16_000)])
def test_a_kernel_goes_on_with_another_memory_limit(
    tmp_path: Path, reduction: Any, limits: tuple[int, int]
) -> None:
    """The default limit is another one whenever other processes take more or less memory."""
    model = models.MLP([3, 5, 4])
    x = mx.random.normal((11, 3), key=mx.random.key(2))
    computed = []

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        computed.append(total)
        if done == total // 2:
            raise KilledError

    first, second = limits
    options: dict[str, Any] = {"reduction": reduction, "out": tmp_path / "kernel"}
    with pytest.raises(KilledError):
        entk(model, x, memory_limit=first, progress=stop, **options)
    tiles: list[int] = []

    def count(stage: str, done: int, total: int, note: str = "") -> None:
        tiles.append(total)

    kernel = entk(model, x, memory_limit=second, progress=count, **options)

    assert tiles[-1] == computed[-1]  # those that were begun
    np.testing.assert_allclose(kernel, entk(model, x, reduction=reduction), rtol=1e-5, atol=1e-6)


def test_a_kernel_whose_records_were_half_removed_keeps_every_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks had put the tiles, and the first was killed while it cleaned up."""
    cotangents = cotangents_of("trace", 1)
    tiling = Tiling(inputs=1, cotangents=1)
    left, right = tiling.tiles(1, 2, cotangents, symmetric=False)

    def store() -> FileStore:
        return FileStore(tmp_path, ["kernel"], (1, 2), {}, tiling, None)

    block = {"kernel": np.ones((1, 1), np.float32)}
    begun, record = store(), tmp_path / "tiles.json"
    of_first = record.read_text()
    begun.put(left, block, False)
    begun.note(left)
    record.rename(tmp_path / "tiles-1.json")
    record.write_text(of_first)
    ended = store()
    ended.put(right, block, False)
    ended.note(right)
    unlink, removed = Path.unlink, []

    def kill_at_second(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".json" and not path.name.startswith("."):
            removed.append(path.name)
            if len(removed) == 2:
                raise KilledError
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", kill_at_second)
        with pytest.raises(KilledError):
            ended.finish()
    again = store()

    assert removed == ["tiles-1.json", "tiles.json"]
    assert again.has(left)
    assert again.has(right)
    np.testing.assert_array_equal(again.finish()["kernel"], np.ones((1, 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.npy"]


def test_a_kernel_without_its_first_record_is_begun_anew(tmp_path: Path) -> None:
    """Somebody removed tiles.json; what another rank wrote down must not be believed."""
    model = models.MLP([3, 5, 4])
    x = mx.random.normal((11, 3), key=mx.random.key(2))

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 5:
            raise KilledError

    options: dict[str, Any] = {"memory_limit": 16_000, "out": tmp_path}
    with pytest.raises(KilledError):
        entk(model, x, progress=stop, **options)
    (tmp_path / "tiles.json").rename(tmp_path / "tiles-1.json")

    kernel = entk(model, x, **options)

    np.testing.assert_allclose(kernel, entk(model, x), rtol=1e-5, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.npy"]


def test_how_a_kernel_is_computed_can_be_asked_beforehand() -> None:
    x = mx.random.normal((6, 5), key=mx.random.key(2))

    plan = explain(models.Superposition(), x, reduction="trace")
    by_jacobian = explain(models.Superposition(), x, strategy="jacobian-contraction")

    header, weight, bias = str(plan).splitlines()
    assert header.split() == ["parameter", "shape", "strategy", "FLOPs", "bytes"]
    assert "2×5" in weight
    assert "structured" in weight
    assert "structured" in bias
    assert [(row.name, row.shape) for row in plan.rows] == [("W", (2, 5)), ("b", (5,))]
    assert {row.strategy for row in by_jacobian.rows} == {"Jacobian contraction"}
    assert min(row.flops for row in by_jacobian.rows) > 0


def test_how_convolutions_are_computed_is_said() -> None:
    x = mx.random.normal((2, 4, 2), key=mx.random.key(2))

    rows = explain(models.Convolution(), x).rows

    said = {row.name for row in rows if "convolutions by" in row.strategy}
    assert said == {"filter.weight"}


def test_the_flattened_kernel_is_symmetric_positive_semidefinite_and_channel_major() -> None:
    model = models.MLP([3, 5, 2])
    x = mx.random.normal((6, 3), key=mx.random.key(2))
    full = entk(model, x)

    flat = flatten(full)

    assert flat[1 * 6 + 2, 0 * 6 + 5] == full[2, 5, 1, 0]
    np.testing.assert_allclose(flat, flat.T, atol=1e-6)
    assert np.linalg.eigvalsh(flat.astype(np.float64)).min() > -1e-5


def test_frozen_parameters_are_left_out() -> None:
    model = models.MLP([3, 4, 2])
    model.layers[0].freeze()
    x = mx.random.normal((4, 3), key=mx.random.key(2))

    assert set(layerwise_entk(model, x)) == {"layers.1.weight", "layers.1.bias"}


def test_a_layer_that_is_never_called_has_a_zero_kernel() -> None:
    model = models.MLP([3, 4, 2])
    model.unused = nn.Linear(3, 3)
    x = mx.random.normal((4, 3), key=mx.random.key(2))

    kernels = layerwise_entk(model, x, reduction="trace")

    assert not kernels["unused.weight"].any()
    assert kernels["layers.0.weight"].any()


def test_the_model_is_left_as_it_was() -> None:
    model = models.MLP([3, 4, 2])
    x = mx.random.normal((4, 3), key=mx.random.key(2))
    weight, outputs = model.layers[0].weight, np.array(model(x))

    entk(model, x)

    assert type(model.layers[0]) is nn.Linear
    assert model.layers[0].weight is weight
    np.testing.assert_array_equal(np.array(model(x)), outputs)


def test_half_precision_weights_are_contracted_in_single_precision() -> None:
    model = models.MLP([3, 4, 2])
    x = mx.random.normal((4, 3), key=mx.random.key(2))
    single = entk(model, x)
    model.set_dtype(mx.bfloat16)

    half = entk(model, x.astype(mx.bfloat16))

    assert half.dtype == np.float32
    assert reference.relative_error(half, single) < 0.05


def spectrum_of(weight: mx.array, x: mx.array) -> mx.array:
    """A model with a primitive that cannot be replayed."""
    return mx.abs(mx.fft.rfft(x)) @ weight


def test_a_model_without_known_structure_gets_its_exact_jacobian() -> None:
    x = mx.random.normal((5, 3), key=mx.random.key(2))
    a = np.abs(np.fft.rfft(np.array(x), axis=1))

    kernel = entk(spectrum_of, x, reduction="trace", params=mx.ones((2, 2)))

    assert reference.relative_error(kernel, a @ a.T) < 1e-5


SOME = mx.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": "sum"}, "reduction 'sum' is unknown"),
        ({"reduction": (0, 2)}, "class 2 is outside 0…1"),
        ({"strategy": "fast"}, "strategy 'fast' is unknown"),
        ({"x2": mx.zeros((2, 4))}, "x2 has inputs of shape"),
        ({"x": mx.zeros((2, 4))}, r"cannot be called on x of shape \(2, 4\) and type"),
        ({"model": nn.Sequential(nn.Embedding(5, 3))}, r"cannot be called on x .*float32"),
        (
            {"model": nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.5))},
            r"in training mode, in which layers\.1 \(Dropout\) is random",
        ),
        (
            {"model": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm(2)), "x": SOME},
            r"layers\.1 \(BatchNorm\) is random or mixes",
        ),
        ({"model": lambda w, x: x * w - x.mean(axis=0), "params": mx.ones(3), "x": SOME}, "batch"),
        (
            {"model": lambda w, x: x * w, "params": mx.array([float("nan")])},
            "NaN or infinity on 2 of 2 inputs",
        ),
        ({"memory_limit": 10}, "more than half of the memory limit of 10 B: pass out=FOLDER"),
        ({"memory_limit": 200}, "one input takes .* of working memory, the limit leaves"),
        ({"x": mx.zeros((0, 3))}, "at least one input"),
        ({"x": [[1.0, 2.0, 3.0]]}, "x is list: pass an array"),
        ({"x": np.array(["a"])}, "x has type <U1, which MLX has no array for"),
        ({"params": {}}, "params belongs to a function"),
        ({"model": lambda params, x: x}, "pass its parameter tree"),
        ({"model": nn.Tanh()}, "no trainable parameters"),
        (
            {"model": lambda params, x: params["w"], "params": {"w": mx.zeros(3)}},
            "first axis must be the batch",
        ),
        ({"model": lambda params, x: 1, "params": {"w": mx.zeros(3)}}, "model returned int"),
        (
            {"model": spectrum_of, "params": mx.ones((2, 2)), "strategy": "structured-derivatives"},
            r"no known structure \(primitive FFT\): use strategy auto",
        ),
    ],
)
def test_what_cannot_be_done_is_said(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"model": models.MLP([3, 4, 2]), "x": mx.zeros((2, 3)), **arguments}

    with pytest.raises(InputError, match=message):
        entk(given.pop("model"), given.pop("x"), given.pop("x2", None), **given)
