"""Which numbers of a file a kernel is of: what its producer says, what its graph tells, or none."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from mlx_entk import InputError, entk
from mlx_entk.onnx import export, load
from mlx_entk.onnx.importer import OnnxFunction, from_model
from tests.reference import from_jacobian, relative_error

node = helper.make_node
RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 2)).astype(np.float32)
X = RNG.standard_normal((4, 3)).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto], producer: str = "", of_x: Any = ("N", 3), **stored: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, of_x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name=producer)


def kinds(function: OnnxFunction) -> dict[str, str]:
    return {one.name: one.kind for one in function.candidates.judged}


def of_product(function: OnnxFunction, x: NDArray[np.float32] = X) -> None:
    """The kernel is that of x W by W: x·x′ for each pair of equal outputs."""
    kernel = entk(function.parametric(), mx.array(x), reduction="full")
    expected = np.einsum("ni,mi,cd->nmcd", x, x, np.eye(2))
    assert relative_error(kernel, expected) < 1e-5


def test_weights_in_constant_nodes_are_parameters() -> None:
    """PaddlePaddle and spox write all of theirs there."""
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        node("Constant", [], ["w"], value=numpy_helper.from_array(W)),
        node("Constant", [], ["half"], value=half),
        node("MatMul", ["x", "w"], ["h"]),
        node("Pow", ["h", "half"], ["p"]),
        node("Pow", ["p", "two"], ["y"]),
    ]
    function = from_model(model_of(nodes, two=np.array([2.0], np.float32)), parameters=None)

    assert kinds(function) == {"two": "parameter", "w": "parameter", "half": "constant"}
    plain = from_model(model_of([nodes[0], node("MatMul", ["x", "w"], ["y"])]))
    of_product(plain)


def test_weights_behind_a_cast_are_parameters() -> None:
    bfloat16 = helper.make_tensor("w", TensorProto.BFLOAT16, W.shape, W.reshape(-1).tolist())
    nodes = [node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("MatMul", ["x", "f"], ["y"])]
    model = model_of(nodes)
    model.graph.initializer.append(bfloat16)

    function = from_model(model)
    assert function.params["w"].dtype == mx.bfloat16
    kernel = entk(function.parametric(), mx.array(X), reduction="trace")
    assert relative_error(kernel, X @ X.T) < 0.02


def test_of_a_sparse_weight_the_stored_numbers_are_parameters() -> None:
    at = [[0, 1], [2, 0]]
    values = numpy_helper.from_array(np.array([3.0, 4.0], np.float32), "w")
    sparse = onnx.SparseTensorProto(
        values=values, indices=numpy_helper.from_array(np.array(at)), dims=[3, 2]
    )
    model = model_of([node("MatMul", ["x", "w"], ["y"])])
    model.graph.sparse_initializer.append(sparse)

    function = from_model(model)
    expected = np.zeros((3, 2))
    expected[0, 1], expected[2, 0] = 3, 4
    np.testing.assert_allclose(np.array(function({}, mx.array(X))), X @ expected, rtol=1e-6)
    J = np.zeros((4, 2, 2))
    J[:, 1, 0], J[:, 0, 1] = X[:, 0], X[:, 2]
    kernel = entk(function.parametric(), mx.array(X), reduction="full")
    assert relative_error(kernel, from_jacobian(J)) < 1e-5
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([[0, 1], [7, 0]])))
    model.graph.sparse_initializer[0].CopyFrom(sparse)
    with pytest.raises(InputError, match="the sparse tensor w is damaged"):
        from_model(model)


def test_settings_and_statistics_are_not_parameters() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["n"]),
        node("Clip", ["n", "low", "high"], ["c"]),
        node("Mul", ["c", "half"], ["y"]),
    ]
    ones = np.ones(2, np.float32)
    function = from_model(
        model_of(nodes, w=W, scale=ones, shift=ones, mean=ones, var=ones, spare=ones,
                 low=np.float32(-9), high=np.float32(9), half=np.float32(0.5))
    )  # fmt: skip

    assert kinds(function) == {
        "w": "parameter", "scale": "parameter", "shift": "parameter", "mean": "statistic",
        "var": "statistic", "low": "setting", "high": "setting", "half": "constant",
        "spare": "unused",
    }  # fmt: skip
    assert list(function.params) == ["w", "scale", "shift"]
    chosen = from_model(model_of([node("MatMul", ["x", "w"], ["y"])], w=W, z=W), parameters=["*"])
    assert list(chosen.params) == ["w"]
    with pytest.raises(InputError, match="no initializer matches z: there are w"):
        from_model(model_of([node("MatMul", ["x", "w"], ["y"])], w=W, z=W), parameters=["z"])


def test_a_wildcard_takes_weights_and_a_name_anything() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Mul", ["h", "half"], ["y"])]
    model = model_of(nodes, w=W, half=np.float32(0.5))

    assert list(from_model(model, parameters=["*"]).params) == ["w"]
    assert list(from_model(model, parameters=["h*"]).params) == ["half"]
    assert list(from_model(model, parameters=["half", "w"]).params) == ["w", "half"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("0.weight", "parameter"),
        ("encoder.self_attn.in_proj_weight", "parameter"),
        ("lstm.weight_hh_l1_reverse", "parameter"),
        ("0.parametrizations.weight.original1", "parameter"),
        ("onnx::MatMul_12", "changed"),
        ("193", "changed"),
        ("positions", "unclear"),
        ("0.weight_u", "constant"),
    ],
)
def test_the_older_exporter_of_pytorch_tells_by_names_alone(name: str, kind: str) -> None:
    model = model_of([node("MatMul", ["x", name], ["y"])], "pytorch", **{name: W})
    function = from_model(model)

    assert kinds(function)[name] == kind
    if kind in ("changed", "unclear"):
        with pytest.raises(InputError, match=r"optimize=False.*--parameters .\*"):
            function.parametric()
        of_product(from_model(model, parameters=["*"]))


def test_equal_tensors_that_the_older_exporter_stored_once_are_separate() -> None:
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    nodes = [
        node("Identity", ["0.weight"], ["1.weight"]),
        node("MatMul", ["x", "0.weight"], ["h"]),
        node("MatMul", ["h", "1.weight"], ["y"]),
    ]
    function = from_model(model_of(nodes, "pytorch", **{"0.weight": square}))

    assert list(function.params) == ["0.weight", "1.weight"]
    kernel = entk(function.parametric(), mx.array(X), reduction="full")
    h = X @ square
    expected = np.einsum("ni,mi,cd->nmcd", h, h, np.eye(3))
    expected += np.einsum("nm,cd->nmcd", X @ X.T, square.T @ square)
    assert relative_error(kernel, expected) < 1e-5


@pytest.mark.filterwarnings("ignore")  # few steps do not converge, and need not
@pytest.mark.parametrize("string", [False, True])
def test_a_pipeline_of_scikit_learn(string: bool, tmp_path: Path) -> None:
    """Scaler and PCA are fitted to the inputs; with its default output, a map of probabilities."""
    x = RNG.standard_normal((30, 4)).astype(np.float32) * 3 + 1
    labels = np.array(["a", "b", "c"])[np.arange(30) % 3] if string else np.arange(30) % 3
    network = MLPClassifier((5,), activation="tanh", max_iter=5, random_state=0)
    pipeline = make_pipeline(StandardScaler(), PCA(3), network).fit(x, labels)
    (tmp_path / "m.onnx").write_bytes(to_onnx(pipeline, x[:1]).SerializeToString())

    function = load(tmp_path / "m.onnx")
    assert list(function.params) == ["coefficient", "intercepts", "coefficient1", "intercepts1"]
    assert {"transform_matrix", "mean"} <= {
        one.name for one in function.candidates.judged if one.kind == "preprocessing"
    }
    probabilities = np.array(function(function.params, mx.array(x)))
    assert np.allclose(probabilities, pipeline.predict_proba(x), atol=1e-5)
    assert entk(function.parametric(), mx.array(x[:5]), reduction="trace").shape == (5, 5)


@pytest.mark.filterwarnings("ignore")
def test_linear_models_of_scikit_learn_have_their_weights_in_attributes(tmp_path: Path) -> None:
    x = RNG.standard_normal((30, 4)).astype(np.float32)
    scaler = MinMaxScaler()
    ridge = make_pipeline(scaler, Ridge()).fit(x, x @ np.array([1.0, 2, 3, 4]))
    (tmp_path / "m.onnx").write_bytes(to_onnx(ridge, x[:1]).SerializeToString())

    function = load(tmp_path / "m.onnx")
    assert [value.shape for value in function.params.values()] == [(4,), (1,)]
    kernel = entk(function.parametric(), mx.array(x), reduction="trace")
    scaled = scaler.transform(x)
    assert relative_error(kernel, scaled @ scaled.T + 1) < 1e-4

    logistic = LogisticRegression().fit(x, np.arange(30) % 3)
    (tmp_path / "m.onnx").write_bytes(to_onnx(logistic, x[:1]).SerializeToString())
    function = load(tmp_path / "m.onnx")
    p = logistic.predict_proba(x)
    assert np.allclose(np.array(function(function.params, mx.array(x))), p, atol=1e-5)
    slopes = p[:, :, None] * (np.eye(3) - p[:, None])
    with_one = np.concatenate([x, np.ones((30, 1))], axis=1)
    J = np.einsum("nol,ni->noli", slopes, with_one).reshape(30, 3, -1)
    kernel = entk(function.parametric(), mx.array(x), reduction="full")
    assert relative_error(kernel, from_jacobian(J)) < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_a_regression_of_scikit_learn(tmp_path: Path) -> None:
    x = RNG.standard_normal((30, 4)).astype(np.float32)
    network = MLPRegressor(hidden_layer_sizes=(5,), max_iter=5).fit(x, x[:, 0])
    pipeline = make_pipeline(MinMaxScaler().fit(x), network)
    (tmp_path / "m.onnx").write_bytes(to_onnx(pipeline, x[:1]).SerializeToString())

    function = load(tmp_path / "m.onnx")
    assert kinds(function)["Mu_Mulcst"] == kinds(function)["Ad_Addcst"] == "preprocessing"
    assert len(function.params) == 4


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm(4)
        self.second = nn.Linear(4, 2)

    def __call__(self, x: mx.array) -> mx.array:
        output: mx.array = self.second(mx.tanh(self.norm(self.first(x))))
        return output


def test_exports_of_this_package_come_back_without_running_statistics(tmp_path: Path) -> None:
    module = Normalised()
    module(mx.array(X))  # sets the running statistics
    module.eval()
    export(module, [mx.array(X)], tmp_path / "m.onnx")

    function = load(tmp_path / "m.onnx")
    assert kinds(function)["norm.running_mean"] == "statistic"
    expected = entk(module, mx.array(X), reduction="full")
    kernel = entk(function.parametric(), mx.array(X), reduction="full")
    assert relative_error(kernel, expected) < 1e-5


def test_what_an_optimiser_made_of_several_is_not_a_parameter() -> None:
    name = "model/conv/Conv2D_weights_fused_bn"
    function = from_model(model_of([node("MatMul", ["x", name], ["y"])], "", **{name: W}))

    with pytest.raises(InputError, match="has a name that an optimiser gives"):
        function.parametric()
    assert np.allclose(np.array(function({}, mx.array(X))), X @ W, atol=1e-6)


@pytest.mark.parametrize("text", ["[", "__import__('os')", "9" * 10, "(((((", "['a'] * 10**9"])
def test_notes_of_a_file_are_read_as_text_alone(text: str) -> None:
    model = model_of([node("MatMul", ["x", "0.w"], ["y"])], "pytorch", **{"0.w": W})
    value = helper.make_tensor_value_info("0.w", TensorProto.FLOAT, [3, 2])
    value.metadata_props.add(key="pkg.onnxscript.optimizer.folded_from", value=text)
    model.graph.value_info.append(value)
    model.graph.metadata_props.add(
        key="pkg.torch.export.ExportedProgram.graph_signature",
        value="p_0_w: PARAMETER target='0.w'",
    )

    with pytest.raises(InputError, match="does not hold its parameters"):
        from_model(model).parametric()
