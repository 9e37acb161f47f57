"""How well directions separate labels: average precision and AUROC, with bootstrap intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array
from mlx_entk.errors import InputError

RESAMPLES = 200
INTERVAL = 0.95


@dataclass(frozen=True)
class Mode:
    """A mode of the operator on (N, d) values, reduced to a score for each input.

    Attributes
    ----------
    scores
        The top singular vector over inputs times its singular value, shape (N,).
    share
        Share of the mode's squared norm that this explains.
    """

    scores: Float64Array
    share: float


def mode_scores(vector: Float64Array, N: int) -> Mode:
    """Reduce an eigenvector over inputs and outputs, channel-major of length d·N, to scores."""
    values = vector.reshape(-1, N).T
    U, singular, _ = np.linalg.svd(values, full_matrices=False)
    return Mode(U[:, 0] * singular[0], float(singular[0] ** 2 / (singular**2).sum()))


def principal_scores(activations: Float64Array, count: int) -> Float64Array:
    """Scores along the leading principal directions of activations, shape (N, count).

    ``activations``, shape (N, d), are taken as they are: centre them for principal components.
    """
    U, singular, _ = np.linalg.svd(activations, full_matrices=False)
    return np.asarray(U[:, :count] * singular[:count])


def random_scores(activations: Float64Array, count: int, seed: int) -> Float64Array:
    """Return scores along random directions of activations (N, d), shape (N, count)."""
    directions = np.random.default_rng(seed).standard_normal((activations.shape[1], count))
    return np.asarray((activations - activations.mean(axis=0)) @ directions)


@dataclass(frozen=True)
class LabelScore:
    """The direction chosen for a label on one half of the inputs, scored on the other half.

    Attributes
    ----------
    label
        ``name=value``.
    direction
        Number of the direction, from 0.
    sign
        1 or −1: whether the label is at its positive or negative end.
    positives
        How many inputs of the second half have the label.
    average_precision, auroc
        Of the scores on the second half.
    precision
        Share of inputs with the label among the ``positives`` inputs with the largest scores.
    enrichment
        ``precision`` over the share of the label among all inputs of the second half.
    """

    label: str
    direction: int
    sign: int
    positives: int
    average_precision: float
    auroc: float
    precision: float
    enrichment: float


@dataclass(frozen=True)
class Interval:
    """A mean over labels, with the ends of its 95% interval over resamples.

    Attributes
    ----------
    mean
        The mean over the labels.
    interval
        The lower and the upper end of the interval.
    """

    mean: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class LabelScores:
    """How well some directions separate labels.

    Attributes
    ----------
    labels
        A score for each label.
    average_precision, auroc
        Means over the labels.
    """

    labels: list[LabelScore]
    average_precision: Interval
    auroc: Interval


def score_labels(
    scores: Float64Array,
    labels: Mapping[str, NDArray[np.bool_]],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int = 0,
) -> LabelScores:
    """Choose a direction and sign for each label on one half, and score them on the other.

    Parameters
    ----------
    scores
        Scores of N inputs along k directions, shape (N, k).
    labels
        For each label, which inputs have it, shape (N,).
    train, test
        Numbers of the inputs in each half.
    seed
        Seed of the resamples.

    Returns
    -------
    LabelScores
        The intervals are over resamples of the second half.

    Raises
    ------
    InputError
        If scikit-learn is missing.
    """
    try:
        from sklearn.metrics import average_precision_score, roc_auc_score
    except ImportError as error:
        raise InputError("scoring needs the extra lm: pip install 'mlx-entk[lm]'") from error
    rows: list[LabelScore] = []
    for label, mask in labels.items():
        options = [
            (float(average_precision_score(mask[train], sign * scores[train, k])), k, sign)
            for k in range(scores.shape[1])
            for sign in (1, -1)
        ]
        _, k, sign = max(options)
        of_test, truth = sign * scores[test, k], mask[test]
        positives = int(truth.sum())
        leading = np.argsort(-of_test, kind="stable")[:positives]
        precision = float(truth[leading].mean())
        rows.append(
            LabelScore(
                label, k, sign, positives,
                float(average_precision_score(truth, of_test)),
                float(roc_auc_score(truth, of_test)),
                precision, precision / float(truth.mean()),
            )
        )  # fmt: skip

    draws = np.random.default_rng(seed).integers(0, len(test), (RESAMPLES, len(test)))
    counts = np.stack([np.bincount(draw, minlength=len(test)) for draw in draws])
    resampled = [
        weighted_metrics(labels[row.label][test], row.sign * scores[test, row.direction], counts)
        for row in rows
    ]
    # A label that does not occur in a resample is NaN there.
    precisions, areas = (
        np.nanmean([of_label[i] for of_label in resampled], axis=0) for i in range(2)
    )
    return LabelScores(
        labels=rows,
        average_precision=_interval([row.average_precision for row in rows], precisions),
        auroc=_interval([row.auroc for row in rows], areas),
    )


def _interval(of_labels: list[float], resampled: Float64Array) -> Interval:
    low, high = np.quantile(resampled, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return Interval(float(np.mean(of_labels)), (float(low), float(high)))


def weighted_metrics(
    truth: NDArray[np.bool_], scores: Float64Array, weights: NDArray[np.int64]
) -> tuple[Float64Array, Float64Array]:
    """Compute average precision and AUROC for many weightings of the same inputs.

    They agree with scikit-learn's.

    Parameters
    ----------
    truth, scores
        Truth values and scores of n inputs, no two scores equal.
    weights
        R weightings, shape (R, n).

    Returns
    -------
    average precision, AUROC
        Shape (R,) each. A weighting without positives has NaN in both, one without negatives in
        AUROC.
    """
    order = np.argsort(-scores, kind="stable")
    positive = weights[:, order] * truth[order]
    negative = weights[:, order] - positive
    hits, misses = positive.cumsum(axis=1), negative.cumsum(axis=1)
    seen = np.maximum(hits + misses, 1)
    P = np.where(hits[:, -1] > 0, hits[:, -1], np.nan)
    N = np.where(misses[:, -1] > 0, misses[:, -1], np.nan)
    precision = (hits / seen * positive).sum(axis=1) / P
    return np.asarray(precision), np.asarray((hits * negative).sum(axis=1) / (P * N))
