"""How well directions tell labels: average precision and the rest, with bootstrap intervals."""

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
        By its top singular vector, times the singular value, shape (N,).
    share
        Of the mode's square norm that this explains.
    """

    scores: Float64Array
    share: float


def mode_scores(vector: Float64Array, N: int) -> Mode:
    """Reduce an eigenvector over inputs and outputs, channel-major of length d·N."""
    values = vector.reshape(-1, N).T
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    return Mode(left[:, 0] * singular[0], float(singular[0] ** 2 / (singular**2).sum()))


def principal_scores(activations: Float64Array, count: int) -> Float64Array:
    """Scores by the leading principal directions of activations (N, d), shape (N, count)."""
    centred = activations - activations.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(left[:, :count] * singular[:count])


def random_scores(activations: Float64Array, count: int, seed: int) -> Float64Array:
    """Scores by random directions of activations (N, d), shape (N, count)."""
    directions = np.random.default_rng(seed).standard_normal((activations.shape[1], count))
    return np.asarray((activations - activations.mean(axis=0)) @ directions)


@dataclass(frozen=True)
class LabelScore:
    """The direction chosen for a label on one half, judged on the other.

    Attributes
    ----------
    label
        ``name=value``.
    direction
        Its number, from 0.
    sign
        1 or −1: which end of it.
    positives
        Inputs of the second half that have the label.
    average_precision, auroc
        Of the scores.
    precision
        Share of the label among as many inputs of the largest scores as have it.
    enrichment
        That over the share of the label among all.
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
        Over the labels.
    interval
        The lower and the upper end.
    """

    mean: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class LabelScores:
    """How well some directions tell labels.

    Attributes
    ----------
    labels
        One for each label.
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
    """Choose direction and sign for each label on one half, judge them on the other.

    Parameters
    ----------
    scores
        Of N inputs by k directions, shape (N, k).
    labels
        Which inputs have each label, shape (N,).
    train, test
        Numbers of the inputs of the halves.

    Returns
    -------
    LabelScores
        The intervals are over resamples of the second half.

    Raises
    ------
    InputError
        Where scikit-learn is missing.
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
    # A label that a resample happens to leave out has no figure there.
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
    """Average precision and AUROC for many weightings of the same inputs, as scikit-learn's.

    Parameters
    ----------
    truth, scores
        Of n inputs, no two scores equal.
    weights
        Shape (R, n).

    Returns
    -------
    average precision, AUROC
        Shape (R,) each; NaN where a weighting has no positive or no negative.
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
