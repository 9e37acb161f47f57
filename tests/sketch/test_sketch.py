import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError, entk, entk_sketch, flatten, open_sketch
from mlx_entk._files import read_json, write_json
from tests import models, reference


def network(seed: int = 0) -> models.MLP:
    return models.MLP([20, 40, 3], seed=seed)


def inputs(N: int, seed: int = 2) -> mx.array:
    return mx.random.normal((N, 20), key=mx.random.key(seed))


@pytest.mark.parametrize("reduction", ["trace", "sum-of-logits", (1, 1), "full"])
def test_the_error_is_what_the_whole_kernel_has(reduction: Any) -> None:
    model, x = network(), inputs(150)
    exact = entk(model, x, reduction=reduction)

    sketch = entk_sketch(model, x, 256, reduction=reduction)

    true = np.linalg.norm(sketch.kernel() - exact) / np.linalg.norm(exact)
    assert sketch.error.inputs == 64
    assert sketch.error.low < true < sketch.error.high
    assert true < 0.5


def test_of_few_inputs_every_pair_is_compared() -> None:
    model, x = network(), inputs(30)
    exact = entk(model, x, reduction="trace")

    sketch = entk_sketch(model, x, 128)

    true = np.linalg.norm(sketch.kernel() - exact) / np.linalg.norm(exact)
    assert sketch.error.low == sketch.error.high == pytest.approx(true, rel=1e-4)


@pytest.mark.parametrize("reduction", ["trace", "full"])
def test_gradients_with_few_entries_are_kept_as_they_are(reduction: Any) -> None:
    model, x = models.MLP([3, 6, 2]), mx.random.normal((9, 3), key=mx.random.key(2))

    sketch = entk_sketch(model, x, 128, reduction=reduction)

    assert sketch.exact
    assert sketch.error.high < 1e-5
    exact = entk(model, x, reduction=reduction)
    assert reference.relative_error(sketch.kernel(), exact) < 1e-5
    spectrum = sketch.spectrum(5)
    matrix = flatten(exact) if reduction == "full" else exact
    values = np.linalg.eigvalsh(matrix.astype(np.float64))[::-1][:5]
    np.testing.assert_allclose(spectrum.values, values, rtol=1e-4, atol=1e-4 * values[0])
    remainder = matrix @ spectrum.vectors - spectrum.vectors * spectrum.values
    assert np.abs(remainder).max() < 1e-4 * values[0]
    assert sketch.residuals(spectrum).max() < 1e-2


@pytest.mark.parametrize("reduction", ["trace", "full"])
@pytest.mark.parametrize("N", [20, 200])
def test_modes_are_those_of_the_sketched_kernel_by_either_gram_matrix(
    reduction: Any, N: int
) -> None:
    sketch = entk_sketch(network(), inputs(N), 64, reduction=reduction)
    kernel = sketch.kernel().astype(np.float64)
    matrix = flatten(kernel) if reduction == "full" else kernel
    values, vectors = np.linalg.eigh(matrix)

    spectrum = sketch.spectrum(4)

    np.testing.assert_allclose(spectrum.values, values[::-1][:4], rtol=1e-4)
    overlap = np.linalg.norm(vectors[:, -4:].T @ spectrum.vectors) ** 2
    assert overlap == pytest.approx(4, abs=1e-3)


@pytest.mark.parametrize("reduction", ["trace", "full"])
def test_residuals_are_those_of_the_exact_kernel(reduction: Any) -> None:
    model, x = network(), inputs(90)
    sketch = entk_sketch(model, x, 256, reduction=reduction)
    spectrum = sketch.spectrum(6)
    exact = entk(model, x, reduction=reduction)
    matrix = flatten(exact) if reduction == "full" else exact
    true = np.linalg.norm(matrix @ spectrum.vectors - spectrum.vectors * spectrum.values, axis=0)

    np.testing.assert_allclose(
        sketch.residuals(spectrum, inputs=90), true / spectrum.values, rtol=1e-3
    )
    np.testing.assert_allclose(
        sketch.residuals(spectrum, inputs=60), true / spectrum.values, rtol=0.3
    )


def test_features_depend_on_the_seed_alone_and_not_on_tiles_or_other_inputs() -> None:
    model, x = network(), inputs(40)
    whole = entk_sketch(model, x, 64).features

    np.testing.assert_allclose(entk_sketch(model, x[3:7], 64).features, whole[3:7], atol=1e-5)
    tiled = entk_sketch(model, x, 64, memory_limit="1MB").features
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    other = entk_sketch(model, x, 64, seed=1).features
    assert np.abs(other - whole).max() > 0.1


def test_new_inputs_meet_those_of_the_store(tmp_path: Path) -> None:
    model, x, x2 = network(), inputs(80), inputs(7, seed=3)
    made = entk_sketch(model, x, 1024, out=tmp_path / "store")

    opened = open_sketch(tmp_path / "store", model)

    np.testing.assert_array_equal(opened.features, made.features)
    assert opened.error == made.error
    exact = entk(model, x, x2, reduction="trace")
    error = np.linalg.norm(opened.kernel(x2) - exact) / np.linalg.norm(exact)
    assert error < 2 * made.error.high
    some = opened.kernel(x2, rows=slice(10, 20))
    np.testing.assert_allclose(some, opened.kernel(x2)[10:20], rtol=1e-4)
    np.testing.assert_allclose(opened.spectrum(3).values, made.spectrum(3).values)
    with pytest.raises(InputError, match="does not keep its inputs"):
        opened.residuals(opened.spectrum(3))


def test_the_nearest_stored_inputs_are_found(tmp_path: Path) -> None:
    model, x = network(), inputs(80)
    entk_sketch(model, x, 1024, out=tmp_path / "store")

    found = open_sketch(tmp_path / "store", model).nearest(x[5:8] + 1e-3, 2)

    assert found.indices[:, 0].tolist() == [5, 6, 7]
    np.testing.assert_allclose(found.similarity[:, 0], 1, atol=1e-2)
    assert (found.similarity[:, 0] > found.similarity[:, 1]).all()


def test_inputs_and_outputs_may_be_named(tmp_path: Path) -> None:
    weight = mx.random.normal((6, 2), key=mx.random.key(0))

    def model(params: Any, first: mx.array, second: mx.array) -> tuple[mx.array, mx.array]:
        return first, mx.tanh((first + second) @ params["w"])

    x = {"second": inputs(9)[:, :6], "first": inputs(9, 4)[:, :6]}
    options: dict[str, Any] = {"params": {"w": weight}, "output": 1}
    made = entk_sketch(model, x, 8, out=tmp_path / "store", **options)
    opened = open_sketch(tmp_path / "store", model, **options)
    np.testing.assert_allclose(opened.project(x), made.features, atol=1e-5)
    with pytest.raises(InputError, match=r"another graph|does not give any more"):
        open_sketch(tmp_path / "store", model, params={"w": weight}, output=0)


def test_an_interrupted_store_goes_on(tmp_path: Path) -> None:
    model, x = network(), inputs(60)
    whole = entk_sketch(model, x, 64).features
    folder = tmp_path / "store"

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if done > 20:
            raise RuntimeError("stopped")

    limit = "1MB"
    with pytest.raises(RuntimeError, match="stopped"):
        entk_sketch(model, x, 64, out=folder, memory_limit=limit, progress=stop)
    with pytest.raises(InputError, match="is unfinished"):
        open_sketch(folder, model)
    begun: list[int] = []

    def note_down(stage: str, done: int, total: int, note: str = "") -> None:
        begun.append(done)

    again = entk_sketch(model, x, 64, out=folder, progress=note_down)
    assert begun[0] > 0
    np.testing.assert_allclose(again.features, whole, atol=1e-5)
    begun.clear()
    entk_sketch(model, x, 64, out=folder, progress=note_down)
    assert begun == [60]  # everything is there


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sketch") / "store"
    entk_sketch(network(), inputs(30), 64, out=folder)
    return folder


@pytest.fixture
def copied(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "store"))


def test_another_call_does_not_write_into_a_store(copied: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"k": 32},
        {"x": inputs(31)},
        {"reduction": "full"},
    ]
    for change in changes:
        arguments: dict[str, Any] = {"x": inputs(30), "k": 64, "out": copied} | change
        with pytest.raises(InputError, match="holds another sketch"):
            entk_sketch(network(), **arguments)
    with pytest.raises(InputError, match="holds another sketch"):
        entk_sketch(network(seed=1), inputs(30), 64, out=copied)
    (copied / "sketch.json").unlink()
    with pytest.raises(InputError, match="exists: choose another folder"):
        entk_sketch(network(), inputs(30), 64, out=copied)


def test_another_model_is_refused(copied: Path) -> None:
    class Other(models.MLP):
        def __call__(self, x: mx.array) -> mx.array:
            return mx.sin(super().__call__(x))

    with pytest.raises(InputError, match="a model with other values"):
        open_sketch(copied, network(seed=1))
    with pytest.raises(InputError, match="a model with another graph"):
        open_sketch(copied, Other([20, 40, 3]))
    with pytest.raises(InputError, match="a model with other values"):
        open_sketch(copied, network(), parameters="layers.0.*")
    with pytest.raises(InputError, match="other shapes or types"):
        open_sketch(copied, network()).kernel(mx.zeros((3, 21)))


def edited(folder: Path, **changes: Any) -> None:
    write_json(folder / "sketch.json", read_json(folder / "sketch.json") | changes)


def test_a_damaged_store_is_refused(copied: Path, tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            open_sketch(copied, network())
        assert "\n" not in str(caught.value)
        shutil.rmtree(copied)
        shutil.copytree(original, copied)

    original = Path(shutil.copytree(copied, tmp_path / "original"))
    content = bytearray((copied / "features.npy").read_bytes())
    content[-5] ^= 1
    (copied / "features.npy").write_bytes(content)
    refused("features.npy is damaged: inputs 0 to 29 have other features")
    (copied / "features.npy").write_bytes(content[:-100])
    refused("features.npy is not an .npy of an array")
    (copied / "features.npy").unlink()
    refused("cannot read")
    np.save(copied / "features.npy", np.zeros((30, 65), np.float32))
    refused("it holds float32 of shape")
    np.save(copied / "features.npy", np.array([{}] * 30), allow_pickle=True)
    refused("not an .npy")
    (copied / "anchors.safetensors").write_bytes(b"nothing")
    refused("is not a .safetensors")
    mx.save_safetensors(str(copied / "anchors.safetensors"), {"x0": mx.zeros((2, 20))})
    refused("anchors.safetensors is damaged")
    text = json.loads((copied / "sketch.json").read_text())
    (copied / "sketch.json").write_text(json.dumps(text | {"seed": 1}))
    refused("sketch.json is damaged")
    edited(copied, shape=[0, 64], tiles=[])
    refused("sketch.json is damaged")
    edited(copied, tiles=[{"stop": 31, "checksum": 0}])
    refused("its tiles are no ranges")
    edited(copied, columns="many")
    refused("sketch.json is damaged")
    edited(copied, columns=-1)
    refused("sketch.json is damaged")
    edited(copied, seed=1)
    refused("does not give any more")
    edited(copied, shape=[2**40, 64], tiles=[])
    refused("it holds float32 of shape")
    edited(copied, reduction="everything")
    refused("unknown")
    (copied / "features.npy").unlink()
    (copied / "features.npy").symlink_to(original / "features.npy")
    refused("leads out of")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 2.5}, "k is 2.5"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"reduction": (0, 1)}, "is a block of the kernel, not a kernel"),
        ({"memory_limit": "1kB"}, "memory limit"),
        ({"memory_limit": 8_000}, "raise the memory limit"),
        ({"x": mx.full((4, 20), mx.inf)}, "NaN or infinity"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    merged: dict[str, Any] = {"x": inputs(9), "k": 64} | arguments
    with pytest.raises(InputError, match=message):
        entk_sketch(network(), **merged)


def test_gradients_that_single_precision_does_not_hold_are_refused() -> None:
    for scale in (1e-30, 1e30):
        with pytest.raises(InputError, match="what single precision holds"):
            entk_sketch(lambda p, x, s=scale: s * (x @ p), inputs(4), params=mx.ones((20, 2)))


def test_bad_queries_are_refused() -> None:
    sketch = entk_sketch(network(), inputs(9), 64)
    for top in (0, 10):
        with pytest.raises(InputError, match=f"top is {top}"):
            sketch.spectrum(top)
    with pytest.raises(InputError, match="neighbours is 10"):
        sketch.nearest(inputs(2), 10)
    full = entk_sketch(network(), inputs(9), 64, reduction="full")
    with pytest.raises(InputError, match="sketch the trace"):
        full.nearest(inputs(2))
