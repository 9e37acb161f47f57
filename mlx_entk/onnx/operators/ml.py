"""Operators of the domain ai.onnx.ml, as scikit-learn's models have them."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._memory import default_limit
from mlx_entk.errors import InputError
from mlx_entk.onnx.limits import require_room
from mlx_entk.onnx.operators.indexing import gather
from mlx_entk.onnx.operators.values import (
    Attributes,
    Inputs,
    Operator,
    Value,
    as_mlx,
    choice,
    from_numpy,
    optional,
)
from mlx_entk.onnx.tensors import array_of


def _real(value: Value) -> mx.array:
    return as_mlx(value).astype(mx.float32)


def _numbers(a: Attributes, name: str, counts: Sequence[int]) -> mx.array:
    """Floats of an attribute, as many as one of some counts.

    Raises
    ------
    InputError
        If there are not so many.
    """
    values = list(a.get(name, []))
    if len(values) not in counts:
        raise InputError(f"{name} has {len(values)} numbers, not {' or '.join(map(str, counts))}")
    return mx.array(values, dtype=mx.float32)


def _features(value: mx.array) -> int:
    """How many features the rows of a matrix have, or a single row.

    Raises
    ------
    InputError
        If the array is neither.
    """
    if value.ndim not in (1, 2):
        raise InputError(f"an array of {value.ndim} axes has no rows of features")
    return int(value.shape[-1])


def _scaler(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = _real(x[0])
    counts = [1, _features(value)] if value.ndim < 3 else [1]
    offset, scale = _numbers(a, "offset", counts), _numbers(a, "scale", counts)
    return (value - offset) * scale


def _normalizer(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, norm = _real(x[0]), choice(a, "norm", "MAX", "L1", "L2")
    _features(value)
    if norm == "MAX":
        divisor = mx.max(value, axis=-1, keepdims=True)
        return value / mx.where(divisor != 0, divisor, mx.ones(()))
    powers = mx.abs(value) if norm == "L1" else mx.square(value)
    total = mx.sum(powers, axis=-1, keepdims=True)
    total = mx.where(total != 0, total, mx.ones(()))
    return value / total if norm == "L1" else value * mx.rsqrt(total)


def _binarizer(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    above: mx.array = value > a.get("threshold", 0.0)
    return above.astype(value.dtype)


def _imputer(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    whole = mx.issubdtype(value.dtype, mx.integer)
    kind, replaced = ("int64s", "int64") if whole else ("floats", "float")
    wanted = a.get(f"imputed_value_{kind}", [])
    if len(wanted) not in (1, _features(value)):
        raise InputError(f"imputed_value_{kind} has {len(wanted)} numbers for {value.shape}")
    missing = a.get(f"replaced_value_{replaced}", 0)
    found = mx.isnan(value) if missing != missing else value == missing
    return mx.where(found, mx.array(wanted, dtype=value.dtype), value)


def _array_feature_extractor(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, index = as_mlx(x[0]), x[1]
    if index is None or index.size == 0 or 0 in value.shape:
        raise InputError("there are no features to extract")
    flat = index.reshape(-1)
    if isinstance(flat, np.ndarray) and flat.min() < 0:
        raise InputError(f"feature {flat.min()} does not exist")
    taken = gather([value, flat], {"axis": -1}, 1)
    return taken[None] if value.ndim == 1 else taken


def _feature_vectorizer(x: Inputs, a: Attributes, n: int) -> mx.array:
    parts = [part[None] if part.ndim == 1 else part for part in map(_real, x)]
    sizes = [_features(part) for part in parts]
    if list(a.get("inputdimensions", sizes)) != sizes:
        raise InputError(f"inputdimensions {list(a['inputdimensions'])} are not those of {sizes}")
    return mx.concatenate(parts, axis=1)


def _table(a: Attributes, name: str) -> NDArray[Any]:
    """Keys or values of a label encoder.

    Raises
    ------
    InputError
        If they are texts.
    """
    if f"{name}_tensor" in a:
        array = array_of(a[f"{name}_tensor"])
    elif f"{name}_int64s" in a:
        array = np.array(a[f"{name}_int64s"], np.int64)
    elif f"{name}_floats" in a:
        array = np.array(a[f"{name}_floats"], np.float32)
    else:
        raise InputError(f"{name} are texts, which MLX does not have")
    if array.dtype.kind not in "iuf" or array.ndim != 1 or array.size == 0:
        raise InputError(f"{name} are not a row of numbers")
    return array


def _label_encoder(x: Inputs, a: Attributes, n: int) -> mx.array:
    value, keys, values = as_mlx(x[0]), _table(a, "keys"), _table(a, "values")
    if len(keys) != len(values) or len(np.unique(keys)) < len(keys) or (keys != keys).any():
        # Of a key that is there twice, and of one that is NaN, ONNX and onnxruntime differ.
        raise InputError(f"{len(keys)} keys for {len(values)} values are NaN or not unique")
    require_room(value.size * len(keys), default_limit(), "the comparison with every key")
    default: NDArray[Any] = np.array(a.get("default_int64", -1))
    if "default_tensor" in a:
        default = array_of(a["default_tensor"])
    elif values.dtype.kind == "f":
        default = np.array(a.get("default_float", -0.0))
    table = from_numpy(np.append(values, default.reshape(-1)[:1].astype(values.dtype)))
    hit = value[..., None] == from_numpy(keys)
    index = mx.where(mx.any(hit, axis=-1), mx.argmax(hit, axis=-1), len(keys))
    return mx.take(table, index)


def _one_hot_encoder(x: Inputs, a: Attributes, n: int) -> mx.array:
    value = as_mlx(x[0])
    categories = np.array(a.get("cats_int64s", []), np.int64)
    if categories.size == 0 or not a.get("zeros", 1):
        raise InputError("categories have to be whole numbers, and others be allowed")
    require_room(4 * value.size * categories.size, default_limit(), "the one-hot vectors")
    return (value.astype(mx.int64)[..., None] == from_numpy(categories)).astype(mx.float32)


def _scores(x: Inputs, rows: int | None) -> mx.array:
    """Products with coefficients, (N, rows), and intercepts; by default as many as there can be.

    The file has both as attributes; ``mlx_entk.onnx.graph`` makes them inputs.
    """
    value, weights, intercepts = _real(x[0]), optional(x, 1), optional(x, 2)
    features = _features(value)
    matrix = value if value.ndim == 2 else value[None]
    count = 0 if weights is None else weights.size
    rows = count // max(1, features) if rows is None else rows
    if count == 0 or count != rows * features:
        raise InputError(f"{count} coefficients are given for {features} features")
    products = matrix @ _real(weights).reshape(rows, features).T
    if intercepts is None:
        return products
    if intercepts.size != rows:
        raise InputError(f"{intercepts.size} intercepts are given for {rows} scores")
    return products + _real(intercepts)


_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def _transform(a: Attributes) -> str:
    """How scores become probabilities."""
    how = choice(a, "post_transform", *_TRANSFORMS)
    if how == "PROBIT":
        raise InputError("post_transform PROBIT is not supported")
    return how


def _transformed(scores: mx.array, how: str) -> mx.array:
    if how == "LOGISTIC":
        return mx.sigmoid(scores)
    if how == "SOFTMAX":
        return mx.softmax(scores, axis=-1)
    if how == "SOFTMAX_ZERO":  # what is zero stays zero
        some = mx.abs(scores) > 1e-7
        powers = mx.where(some, mx.exp(scores - mx.max(scores, axis=-1, keepdims=True)), 0)
        total = mx.sum(powers, axis=-1, keepdims=True)
        return powers / mx.where(total > 0, total, mx.ones(()))
    return scores


def _linear_regressor(x: Inputs, a: Attributes, n: int) -> mx.array:
    targets, how = a.get("targets", 1), _transform(a)
    if targets == 1 and how != "NONE":
        raise InputError(f"post_transform {how} of one target: onnxruntime does not follow ONNX")
    return _transformed(_scores(x, targets), how)


def _linear_classifier(x: Inputs, a: Attributes, n: int) -> list[mx.array | None]:
    """Labels, which are left out if they are texts, and scores."""
    how, scores = _transform(a), _scores(x, None)
    classes = scores.shape[-1]
    whole = list(a.get("classlabels_ints", []))
    count = len(whole) or len(a.get("classlabels_strings", []))
    if count != max(2, classes):
        raise InputError(f"{count} labels are given for {classes} rows of coefficients")
    if classes == 1:  # the second class has the score, the first what is left, as in onnxruntime
        best = (scores[:, 0] > 0).astype(mx.int32)
        both = [mx.sigmoid(-scores), mx.sigmoid(scores)] if how == "LOGISTIC" else None
        scores = mx.concatenate(both or [1 - scores, scores], axis=-1)
    else:
        best = mx.argmax(scores, axis=-1)
        scores = _transformed(scores, how)
    return [mx.take(mx.array(whole, dtype=mx.int64), best) if whole else None, scores]


ML: dict[str, Operator] = {
    "ai.onnx.ml.ArrayFeatureExtractor": _array_feature_extractor,
    "ai.onnx.ml.Binarizer": _binarizer,
    "ai.onnx.ml.FeatureVectorizer": _feature_vectorizer,
    "ai.onnx.ml.Imputer": _imputer,
    "ai.onnx.ml.LabelEncoder": _label_encoder,
    "ai.onnx.ml.LinearClassifier": _linear_classifier,
    "ai.onnx.ml.LinearRegressor": _linear_regressor,
    "ai.onnx.ml.Normalizer": _normalizer,
    "ai.onnx.ml.OneHotEncoder": _one_hot_encoder,
    "ai.onnx.ml.Scaler": _scaler,
}
