"""Models of other frameworks as MLX functions, and their kernels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier

from mlx_entk import InputError, entk, layerwise_entk
from mlx_entk.onnx import load
from mlx_entk.onnx.importer import from_model
from tests.onnx import node_tests
from tests.reference import from_jacobian, relative_error


class ConvolutionalNetwork(torch.nn.Module):
    """With a batch norm, whose running statistics are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.batch_norm = torch.nn.BatchNorm2d(4)
        self.dense = torch.nn.Linear(64, 5)
        self.norm = torch.nn.LayerNorm(5)
        self.readout = torch.nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.batch_norm(self.convolution(x)))
        h = self.dense(torch.nn.functional.max_pool2d(h, 2).flatten(1))
        output: torch.Tensor = self.readout(torch.nn.functional.gelu(self.norm(h)))
        return output


class GroupedConvolutions(torch.nn.Module):
    """Depthwise, grouped and transposed convolutions, also with groups, gaps and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.pointwise = torch.nn.Conv2d(2, 4, 1)
        self.depthwise = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.grouped = torch.nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2)
        self.up = torch.nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)
        self.grouped_up = torch.nn.ConvTranspose2d(4, 6, (2, 3), groups=2, dilation=(2, 1))
        self.depthwise_up = torch.nn.ConvTranspose2d(6, 6, 2, stride=(1, 3), groups=6, bias=False)
        self.readout = torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.depthwise(self.pointwise(x)))
        h = torch.tanh(self.grouped_up(torch.tanh(self.up(self.grouped(h)))))
        output: torch.Tensor = self.readout(self.depthwise_up(h).square().mean((2, 3)))
        return output


class SmallTransformer(torch.nn.Module):
    """PyTorch's own encoder layer on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 8)
        self.encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.readout = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.readout(self.encoder(self.embedding(x)).mean(1))
        return output


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """No two parameters are equal: PyTorch would store equal ones once."""
    torch.manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.add_(0.3 * torch.rand_like(tensor))
    return module.eval()


def by_torch(module: torch.nn.Module, x: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    """Layerwise kernels by ``torch.func``, full, in double precision."""
    module = module.double()
    params = {name: value.detach() for name, value in module.named_parameters()}
    x = x.double() if x.is_floating_point() else x

    def outputs(values: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.func.functional_call(module, values, (row[None],))[0]
        return output

    rows = [torch.func.jacrev(outputs)(params, row) for row in x]
    return {
        name: from_jacobian(torch.stack([row[name].flatten(1) for row in rows]).numpy())
        for name in params
    }


@pytest.mark.filterwarnings("ignore")  # PyTorch's exporter warns of its own parts
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (ConvolutionalNetwork, torch.linspace(-1, 1, 384).reshape(3, 2, 8, 8).sin()),
        (GroupedConvolutions, (7 * torch.linspace(-1, 1, 210)).sin().reshape(3, 2, 7, 5)),
        (SmallTransformer, torch.tensor([[0, 1, 2, 3, 6], [5, 5, 0, 1, 4]])),
    ],
)
def test_a_model_of_pytorch_has_the_kernel_of_torch_func(
    make: Callable[[], torch.nn.Module], x: torch.Tensor, tmp_path: Path
) -> None:
    module = randomised(make())
    path = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        module, (x,), path, dynamo=True, dynamic_shapes=({0: batch},), optimize=False, verbose=False
    )
    with torch.no_grad():
        outputs = module(x).numpy()

    function = load(path)
    mlx_x = mx.array(x.numpy())
    kernels = layerwise_entk(function.parametric(), mlx_x, reduction="full")

    expected = by_torch(module, x)
    assert relative_error(np.array(function(function.params, mlx_x)), outputs) < 1e-5
    assert kernels.keys() == expected.keys()
    for name, kernel in expected.items():
        assert np.abs(kernels[name] - kernel).max() < 1e-4 * np.abs(kernel).max() + 1e-6, name
    C = outputs.shape[1]
    total = sum(np.einsum("nmcc->nm", kernel) / C for kernel in expected.values())
    trace = entk(function.parametric(), mlx_x, reduction="trace")
    assert relative_error(trace, np.asarray(total)) < 1e-4
    one = function(function.params, mlx_x[:1])  # the batch is as free as PyTorch left it
    assert np.allclose(np.array(one), outputs[:1], atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_parameters_that_pytorch_folded_are_not_guessed(tmp_path: Path) -> None:
    module = randomised(ConvolutionalNetwork())
    torch.onnx.export(
        module, (torch.zeros(2, 2, 8, 8),), tmp_path / "m.onnx", dynamo=True, verbose=False
    )
    function = load(tmp_path / "m.onnx")

    with pytest.raises(InputError, match=r"batch_norm\.bias was merged.*optimize=False\), or take"):
        function.parametric()
    x = torch.linspace(-1, 1, 256).reshape(2, 2, 8, 8).sin()
    with torch.no_grad():  # outputs need no parameters
        assert np.allclose(np.array(function({}, mx.array(x.numpy()))), module(x), atol=1e-5)
    assert len(load(tmp_path / "m.onnx", parameters=["*"]).params) == 8
    assert load(tmp_path / "m.onnx", parameters=["readout.*"]).params.keys() == {
        "readout.weight",
        "readout.bias",
    }
    with pytest.raises(InputError, match=r"no initializer matches head\.\*: there are "):
        load(tmp_path / "m.onnx", parameters=["head.*"])


@pytest.mark.filterwarnings("ignore")  # ten steps do not converge, and need not
def test_a_classifier_of_scikit_learn(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((20, 3)).astype(np.float32)
    network = MLPClassifier((4,), activation="tanh", max_iter=10, random_state=0)
    network.fit(x, np.arange(20) % 3)
    model = to_onnx(network, x[:1], options={"zipmap": False})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    function = load(tmp_path / "m.onnx")
    probabilities = function(function.params, mx.array(x))
    kernel = entk(function.parametric(), mx.array(x), reduction="trace")

    assert function.output == "probabilities"
    assert np.allclose(np.array(probabilities), network.predict_proba(x), atol=1e-5)
    # The slopes of the probabilities, by hand: softmax of a dense layer of tanh.
    W, V = network.coefs_
    b, c = network.intercepts_
    h = np.tanh(x @ W + b)
    p = np.exp(h @ V + c)
    p /= p.sum(axis=1, keepdims=True)
    of_logits = p[:, :, None] * (np.eye(3) - p[:, None])  # (N, outputs, logits)
    of_hidden = of_logits @ V.T * (1 - h**2)[:, None]
    J = np.concatenate(
        [
            np.einsum("nol,nh->nohl", of_logits, h).reshape(20, 3, -1), of_logits,
            np.einsum("noh,ni->noih", of_hidden, x).reshape(20, 3, -1), of_hidden,
        ],
        axis=2,
    )  # fmt: skip
    assert relative_error(kernel, np.einsum("nmcc->nm", from_jacobian(J)) / 3) < 1e-4
    labels = load(tmp_path / "m.onnx", output="label")
    assert np.array(labels({}, mx.array(x))).tolist() == network.predict(x).tolist()
    with pytest.raises(InputError, match=r"returned mlx\.core\.int64, which has no kernel"):
        entk(labels.parametric(), mx.array(x))
    with pytest.raises(InputError, match="no output 'classes': it has label, probabilities"):
        load(tmp_path / "m.onnx", output="classes")


def test_the_node_tests_of_onnx() -> None:
    """What does not pass is refused with a reason, never computed wrongly."""
    outcomes = dict(node_tests.outcomes())
    applicable = [o for o in outcomes.values() if o not in node_tests.NOT_APPLICABLE]

    assert len(applicable) > 1000
    assert [name for name, outcome in outcomes.items() if outcome == node_tests.OTHER_VALUES] == []
    assert applicable.count(node_tests.PASSED) > 0.95 * len(applicable)


def graph(nodes: list[Any], weights: dict[str, NDArray[Any]], **inputs: Any) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "a test",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in inputs.items()],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def test_what_the_importer_cannot_do_is_said() -> None:
    two = graph([helper.make_node("Add", ["a", "b"], ["y"])], {}, a=[2], b=[2])
    sized = graph(
        [
            helper.make_node("Cast", ["x"], ["sizes"], to=TensorProto.INT64),
            helper.make_node("Expand", ["w", "sizes"], ["y"]),
        ],
        {"w": np.ones(1, dtype=np.float32)}, x=[2],
    )  # fmt: skip
    with pytest.raises(InputError, match=r"takes 2 inputs \(a, b\), got 1"):
        from_model(two)({}, mx.ones(2))
    with pytest.raises(InputError, match="no number that the file stores is a parameter"):
        from_model(graph([helper.make_node("Neg", ["x"], ["y"])], {}, x=[2])).parametric()
    with pytest.raises(InputError, match=r"Expand .* would depend on the data"):
        from_model(sized)({"w": mx.ones(1)}, mx.ones(2))
    with pytest.raises(InputError, match="without an MLX counterpart: Det; add them to OPERATORS"):
        from_model(graph([helper.make_node("Det", ["x"], ["y"])], {}, x=[2, 2]))


def test_names_of_parameters_may_hold_anything() -> None:
    """Other frameworks write names that make no tree: one the beginning of another."""
    nodes = [
        helper.make_node("MatMul", ["x", "net"], ["h"]),
        helper.make_node("Add", ["h", "net.0/bias:0"], ["y"]),
    ]
    weights = {"net": np.eye(2, dtype=np.float32), "net.0/bias:0": np.ones(2, dtype=np.float32)}

    function = from_model(graph(nodes, weights, x=["n", 2]))
    kernels = layerwise_entk(function.parametric(), mx.array([[1.0, 2.0]]), reduction="trace")

    assert kernels["net"].item() == pytest.approx(5)
    assert kernels["net.0/bias:0"].item() == pytest.approx(1)
