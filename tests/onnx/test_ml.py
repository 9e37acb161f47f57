"""Operators of ai.onnx.ml: as onnxruntime has them, alone and in scikit-learn's models."""

from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, Normalizer, StandardScaler

from mlx_entk import InputError
from mlx_entk.onnx.importer import from_model
from tests.onnx.small_graphs import Array, graph_of, node, ours, require_equal, session_of

X = np.array([[1, 2, -1], [-3, 0.5, 2], [0, 0, 0], [-1, -2, -0.5]], dtype=np.float32)
WITH_GAPS = np.where(X == 2, np.float32(np.nan), X)
WHOLE = np.array([[1, 2], [3, 4], [3, -7]])
WEIGHTS = [1.0, 0.5, -1.0, -1.0, -0.5, 1.0, 0.3, 0.2, 0.1]

Case = tuple[str, dict[str, Any], dict[str, Array]]

# Operator, attributes, inputs.
CASES: list[Case] = [
    ("Scaler", {"offset": [1.0, 2.0, 3.0], "scale": [2.0, 3.0, 0.5]}, {"x": X}),
    ("Scaler", {"offset": [1.0], "scale": [2.0]}, {"x": X}),
    ("Scaler", {"offset": [1.0, 2.0], "scale": [2.0, 3.0]}, {"x": WHOLE}),
    *(("Normalizer", {"norm": norm}, {"x": X}) for norm in ("MAX", "L1", "L2")),
    ("Normalizer", {"norm": "L2"}, {"x": X[0]}),
    ("Binarizer", {"threshold": 0.5}, {"x": X}),
    (
        "Imputer",
        {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": float("nan")},
        {"x": WITH_GAPS},
    ),
    ("Imputer", {"imputed_value_floats": [7.0], "replaced_value_float": 0.5}, {"x": X}),
    ("Imputer", {"imputed_value_int64s": [7], "replaced_value_int64": 3}, {"x": WHOLE}),
    ("ArrayFeatureExtractor", {}, {"x": X, "i": np.array([[2, 0, 2]])}),
    ("ArrayFeatureExtractor", {}, {"x": X[0], "i": np.array([1, 2])}),
    ("FeatureVectorizer", {"inputdimensions": [3, 3]}, {"x": X, "z": 2 * X}),
    (
        "LabelEncoder",
        {"keys_int64s": [1, 3], "values_int64s": [50, 60], "default_int64": 9},
        {"x": WHOLE},
    ),
    ("LabelEncoder", {"keys_int64s": [1, 3], "values_floats": [0.5, 0.25]}, {"x": WHOLE}),
    (
        "LabelEncoder",
        {"keys_floats": [1.0, -3.0], "values_floats": [0.5, 4.0], "default_float": -3.0},
        {"x": WITH_GAPS},
    ),
    ("OneHotEncoder", {"cats_int64s": [1, 4], "zeros": 1}, {"x": WHOLE}),
    ("LinearRegressor", {"coefficients": WEIGHTS[:3], "intercepts": [0.2]}, {"x": X}),
    ("LinearRegressor", {"coefficients": WEIGHTS[:3]}, {"x": X[0]}),
    *(
        (
            "LinearRegressor",
            {
                "coefficients": WEIGHTS, "intercepts": [0.1, 0.0, 0.3], "targets": 3,
                "post_transform": how,
            },
            {"x": X},
        )
        for how in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
    ),
]  # fmt: skip


def model_of(case: Case, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    operator, attributes, inputs = case
    made = node(operator, list(inputs), outputs, domain="ai.onnx.ml", **attributes)
    return graph_of([made], inputs, {}, outputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {[*case[1].values()]}")
def test_operators_are_those_of_onnxruntime(case: Case) -> None:
    require_equal(model_of(case), case[2])


@pytest.mark.parametrize("how", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_linear_classifiers(how: str, classes: int) -> None:
    attributes = {
        "coefficients": WEIGHTS[: 3 * classes], "intercepts": [0.0, 0.2, -0.1][:classes],
        "post_transform": how, "classlabels_ints": [5, 9, 2][: max(2, classes)],
    }  # fmt: skip
    require_equal(model_of(("LinearClassifier", attributes, {"x": X}), ("l", "y")), {"x": X})

    del attributes["classlabels_ints"]
    attributes["classlabels_strings"] = ["a", "b", "c"][: max(2, classes)]
    named = model_of(("LinearClassifier", attributes, {"x": X}), ("l", "y"))
    (expected,) = session_of(named).run(["y"], {"x": X})
    np.testing.assert_allclose(ours(named, X, outputs=["y"])[0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError):
        ours(named, X, outputs=["l"])


def test_label_encoders_by_tensors() -> None:
    """onnxruntime does not have this one for numbers of 16 bits."""
    tables = {
        name: numpy_helper.from_array(np.array(values, kind))
        for name, values, kind in (
            ("keys_tensor", [1, 3], np.int64),
            ("values_tensor", [5, 6], np.int16),
            ("default_tensor", [4], np.int16),
        )
    }
    (found,) = ours(model_of(("LabelEncoder", tables, {"x": WHOLE})), WHOLE)

    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, [[5, 4], [6, 4], [6, 4]])


MODELS = {
    "logistic, 2": (LogisticRegression(), 2),
    "logistic, 3": (make_pipeline(StandardScaler(), LogisticRegression()), 3),
    "linear": (make_pipeline(Normalizer("l2"), LinearRegression()), 0),
    "binarised": (make_pipeline(Binarizer(threshold=0.1), LogisticRegression()), 4),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_scikit_learn(name: str) -> None:
    estimator, classes = MODELS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    targets = x @ rng.standard_normal(3)
    estimator.fit(x, np.digitize(targets, np.linspace(-1, 1, classes - 1)) if classes else targets)
    model = to_onnx(estimator, x[:1], options={"zipmap": False} if classes else None)
    output = model.graph.output[-1].name

    (found,) = ours(model, x, outputs=[output])

    expected = estimator.predict_proba(x) if classes else estimator.predict(x)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    require_equal(model, {model.graph.input[0].name: x}, rtol=1e-4, atol=1e-5)


def test_the_derivative_of_a_scaled_input() -> None:
    """Through scores, probabilities and norms, by differences of onnxruntime's outputs."""
    nodes = [
        node("Mul", ["x", "W"], ["scaled"]),
        node("Scaler", ["scaled"], ["s"], domain="ai.onnx.ml", offset=[0.1], scale=[2.0]),
        node("Normalizer", ["s"], ["n"], domain="ai.onnx.ml", norm="L2"),
        node(
            "LinearClassifier", ["n"], ["l", "y"], domain="ai.onnx.ml", coefficients=WEIGHTS,
            intercepts=[0.1, 0.2, 0.3], classlabels_ints=[0, 1, 2], post_transform="LOGISTIC",
        ),
    ]  # fmt: skip
    W = np.array([0.7, -1.2, 0.4], np.float32)
    model = graph_of(nodes, {"x": X}, {"W": W})
    function = from_model(model, output="y", parameters=["W"])
    (gradient,) = mx.vjp(
        lambda w: function({"W": w}, mx.array(X)).sum(), [mx.array(W)], [mx.array(1.0)]
    )[1]
    expected = []
    for k in range(3):
        values = []
        for step in (2**-8, -(2**-8)):
            moved = W.copy()
            moved[k] += step
            at = graph_of(nodes, {"x": X}, {"W": moved})
            values.append(session_of(at).run(["y"], {"x": X})[0].astype(np.float64).sum())
        expected.append((values[0] - values[1]) * 2**7)
    np.testing.assert_allclose(np.array(gradient), expected, rtol=2e-3, atol=1e-4)


REFUSED: list[tuple[Case, str]] = [
    (("Scaler", {"offset": [1.0, 2.0], "scale": [1.0]}, {"x": X}), "offset has 2 numbers, not 1"),
    (("Scaler", {"offset": [1.0]}, {"x": X}), "scale has 0 numbers"),
    (("Normalizer", {"norm": "L3"}, {"x": X}), "norm 'L3'"),
    (("Normalizer", {}, {"x": X[None]}), "3 axes has no rows"),
    (("Imputer", {"imputed_value_floats": [1.0, 2.0]}, {"x": X}), "has 2 numbers for"),
    (("ArrayFeatureExtractor", {}, {"x": X, "i": np.array([5])}), "index 5 of 3 entries"),
    (("FeatureVectorizer", {"inputdimensions": [2]}, {"x": X}), "are not those of"),
    (("LabelEncoder", {"keys_strings": ["a"], "values_floats": [1.0]}, {"x": X}), "are texts"),
    (("LabelEncoder", {"keys_floats": [1.0], "values_strings": ["a"]}, {"x": X}), "are texts"),
    (("LabelEncoder", {"keys_floats": [1.0] * 2, "values_floats": [1.0] * 2}, {"x": X}), "unique"),
    (("LabelEncoder", {"keys_floats": [1.0], "values_floats": [1.0] * 2}, {"x": X}), "1 keys for"),
    (("OneHotEncoder", {"cats_strings": ["a"]}, {"x": WHOLE}), "whole numbers"),
    (("LinearRegressor", {"coefficients": [1.0]}, {"x": X}), "1 coefficients are given for 3"),
    (("LinearRegressor", {"coefficients": [1.0] * 3, "post_transform": "PROBIT"}, {"x": X}), "PRO"),
    (
        ("LinearRegressor", {"coefficients": [1.0] * 3, "post_transform": "LOGISTIC"}, {"x": X}),
        "one target",
    ),
    (
        ("LinearRegressor", {"coefficients": [1.0] * 3, "intercepts": [1.0, 2.0]}, {"x": X}),
        "2 intercepts are given for 1",
    ),
    (
        ("LinearClassifier", {"coefficients": [1.0] * 6, "classlabels_ints": [1]}, {"x": X}),
        "1 labels are given for 2",
    ),
    (("LinearClassifier", {"classlabels_ints": [1]}, {"x": X}), "0 coefficients are given for 3"),
]


@pytest.mark.parametrize(("case", "message"), REFUSED)
def test_what_cannot_be_is_refused(case: Case, message: str) -> None:
    outputs = ("l", "y") if case[0] == "LinearClassifier" else ("y",)

    with pytest.raises(InputError, match=message):
        ours(model_of(case, outputs), *case[2].values(), outputs=["y"])
