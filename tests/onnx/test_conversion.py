"""Files of older and newer opsets."""

import sys
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from mlx_entk import ConversionWarning, InputError
from mlx_entk.onnx import conversion, load
from mlx_entk.onnx.files import read_model
from tests.onnx import backend_data

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)

# Softmax of an older opset is over all axes from the first on, and Squeeze has its axes in an
# attribute; a branch has both too.
OLD = """
<ir_version: 6, opset_import: ["" : %d]>
g (float[N, 4] x, float[4] w) => (float[N, 4] y) <float[4] w = {1., 2., 3., 4.}> {
  h = Mul (x, w)
  u = Unsqueeze <axes = [2]> (h)
  s = Softmax <axis = 1> (u)
  q = Squeeze <axes = [2]> (s)
  n = Shape (x)
  zero = Constant <value: tensor = int64 {0}> ()
  k = Gather <axis = 0> (n, zero)
  c = Greater (k, zero)
  p = If (c) <then_branch = t () => (float[N, 4] a) {
                o = Unsqueeze <axes = [2]> (x)
                v = Softmax <axis = 1> (o)
                a = Squeeze <axes = [2]> (v)
              },
              else_branch = e () => (float[N, 4] b) { b = Identity (x) }>
  y = Add (p, q)
}"""


@pytest.mark.parametrize("opset", [9, 10, 11, 12])
def test_older_files_are_converted_and_this_is_said(opset: int, tmp_path: Path) -> None:
    model = parser.parse_model(OLD % opset)
    onnx.save(model, tmp_path / "old.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, {"x": X})

    with pytest.warns(ConversionWarning, match=rf"old\.onnx: opset {opset} was converted to 13"):
        function = load(tmp_path / "old.onnx")

    assert list(function.params) == ["w"]
    np.testing.assert_allclose(np.array(function({}, mx.array(X))), expected, rtol=1e-5)
    assert onnx.load(tmp_path / "old.onnx").opset_import[0].version == opset  # only in memory


# What operators of older opsets do otherwise than those of today. R is a bare output of any shape.
OLDER = {
    "Softmax, 12": "y = Softmax <axis = 1> (x)",
    "LogSoftmax, 12": "y = LogSoftmax <axis = 2> (x)",
    "Softmax by default, 11": "y = Softmax (x)",
    "Split, 12": "a, y = Split <axis = 1, split = [1, 2]> (x)",
    "Pad, 10": "y = Pad <pads = [0, 0, 1, 0, 0, 1, 0, 2], value = 2.0> (x)",
    "Pad, reflecting, 7": 'y = Pad <mode = "reflect", pads = [0, 0, 1, 0, 0, 0, 0, 2]> (x)',
    "Slice, 9": "y = Slice <axes = [1, 3], starts = [1, -3], ends = [3, 100]> (x)",
    "Clip, 10": "y = Clip <min = -0.5, max = 0.7> (x)",
    "Clip, one end, 6": "y = Clip <max = 0.7> (x)",
    "TopK, 9": "y, i = TopK <axis = 3, k = 2> (x)",
    "ReduceSum, 12": "y = ReduceSum <axes = [1, 3], keepdims = 0> (x)",
    "ReduceMean, 9": "y = ReduceMean <axes = [2]> (x)",
    "Dropout, 11": "y = Dropout <ratio = 0.5> (x)",
    "Flatten, 8": "y = Flatten <axis = 2> (x)",
    "Upsample, 7": 'y = Upsample <mode = "nearest", scales = [1.0, 1.0, 1.5, 2.5]> (x)',
    "Upsample, linear, 8": 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 3.0, 2.0]> (x)',
    "Upsample, 9": 's = Constant <value = float[4] {1, 1, 2, 3}> () y = Upsample (x, s)',
    "Resize, 10": 's = Constant <value = float[4] {1, 1, 0.7, 0.6}> () y = Resize (x, s)',
    "Resize, linear, 10": 's = Constant <value = float[4] {1, 1, 1.5, 2}> () '
                          'y = Resize <mode = "linear"> (x, s)',
    "BatchNormalization, 8": "m = ReduceMean <axes = [0, 2, 3], keepdims = 0> (x) "
                             "v = Exp (m) y = BatchNormalization <epsilon = 0.1> (x, v, m, m, v)",
    "AveragePool, 9": "y = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (x)",
    "MaxPool, 10": "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)",
    "OneHot, 9": "i = ArgMax <axis = 3, keepdims = 0> (x) d = Constant <value = int64 {4}> () "
                 "v = Constant <value = float[2] {0.5, 2}> () y = OneHot (i, d, v)",
    "Scatter, 10": "i = Constant <value = int64[1, 1, 1, 2] {1, 0}> () "
                   "u = Constant <value = float[1, 1, 1, 2] {7, 8}> () "
    "y = Scatter <axis = 3> (x, i, u)",
    "Squeeze, 11": "u = Unsqueeze <axes = [0, 3]> (x) y = Squeeze <axes = [0]> (u)",
    "Sum, 6": "y = Sum (x, x)",
    "DepthToSpace, 8": "c = Concat <axis = 1> (x, x, x, x) y = DepthToSpace <blocksize = 2> (c)",
    "ThresholdedRelu, 10": "y = ThresholdedRelu <alpha = 0.5> (x)",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*was converted to")
@pytest.mark.parametrize("case", OLDER)
def test_older_operators_keep_what_they_do(case: str, tmp_path: Path) -> None:
    opset = int(case.rsplit(", ", 1)[1])
    nodes = OLDER[case].replace("Constant <value =", "Constant <value: tensor =")
    path = tmp_path / "old.onnx"
    text = f'<ir_version: 4, opset_import: ["" : {opset}]> g (float[N, 3, 4, 5] x) => (float[R] y)'
    model = parser.parse_model(f"{text} {{ {nodes} }}")
    onnx.save(model, path)
    x = np.random.default_rng(1).standard_normal((1, 3, 4, 5)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(["y"], {"x": x})[0]

    (found,) = load(path).run({}, [mx.array(x)], ["y"])
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-6)


def test_an_operator_that_the_converter_forgets_is_refused(tmp_path: Path) -> None:
    text = '<ir_version: 6, opset_import: ["" : 12]> g (float[N, 3, 2] x) => (float[N, 3, 2] y)'
    onnx.save(parser.parse_model(text + "{ y = Hardmax <axis = 1> (x) }"), tmp_path / "old.onnx")

    with pytest.raises(InputError, match="Hardmax did something else before opset 13"):
        load(tmp_path / "old.onnx")


def test_a_converted_model_is_not_converted_again(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(OLD % 11), tmp_path / "old.onnx")
    with pytest.warns(ConversionWarning):
        onnx.save(read_model(tmp_path / "old.onnx"), tmp_path / "new.onnx")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path / "new.onnx").inputs == ["x"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os; os.abort()", "converting it failed: it ended with code -6"),
        ("import sys; sys.exit('no adapter')", "converting it failed: no adapter"),
        ("import time; time.sleep(60)", "converting it failed: the conversion took more than 1 s"),
        ("print('not a model')", "converting it failed"),
    ],
)
def test_a_converter_that_fails_takes_nothing_with_it(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(parser.parse_model(OLD % 11), tmp_path / "old.onnx")
    monkeypatch.setattr(conversion, "_SCRIPT", script)
    monkeypatch.setattr(conversion, "_LONGEST", 1)

    with pytest.raises(InputError, match=message) as refused:
        load(tmp_path / "old.onnx")
    assert "export it again with an opset of at least 13" in str(refused.value)


def test_the_working_folder_lends_the_converter_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("import sys; sys.exit('run')")
    onnx.save(parser.parse_model(OLD % 11), tmp_path / "old.onnx")
    monkeypatch.chdir(tmp_path)

    with pytest.warns(ConversionWarning):
        load(Path("old.onnx"))
    assert "onnx" in sys.modules


def test_newer_versions_are_read_as_far_as_they_are_known(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.ones(4, np.float32), "w")],
    )
    known = onnx.defs.onnx_opset_version()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", known)])
    model.ir_version = onnx.IR_VERSION + 3
    onnx.save(model, tmp_path / "m.onnx")
    assert list(load(tmp_path / "m.onnx").params) == ["w"]

    model.opset_import[0].version = known + 1
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=f"uses opset {known + 1}, and onnx .* at most: install"):
        load(tmp_path / "m.onnx")


@pytest.mark.filterwarnings("ignore:.*was converted to")
def test_the_models_in_the_package_onnx() -> None:
    """Real, light and converted ones: as their outputs say, or refused."""
    outcomes = dict(backend_data.outcomes())
    with_weights = [o for o in outcomes.values() if o != backend_data.NO_WEIGHTS]

    assert len(with_weights) == 59
    assert [name for name, o in outcomes.items() if o == backend_data.OTHER_VALUES] == []
    assert with_weights.count(backend_data.PASSED) >= 0.95 * len(with_weights)
