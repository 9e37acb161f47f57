"""Scores of directions against values by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mlx_entk.lm.scoring import (
    mode_scores,
    principal_scores,
    random_scores,
    score_labels,
    weighted_metrics,
)


def test_a_mode_is_reduced_to_its_top_singular_vector() -> None:
    inputs, outputs = np.array([3.0, -1.0, 2.0, 0.0]), np.array([0.6, 0.8])
    rest = np.zeros((4, 2))
    rest[3] = [0.8, -0.6]  # orthogonal to both
    values = np.outer(inputs, outputs) + rest  # (N, d)

    mode = mode_scores(values.T.ravel(), N=4)  # channel-major

    sign = np.sign(mode.scores[0])
    np.testing.assert_allclose(sign * mode.scores, inputs, atol=1e-12)
    assert mode.share == pytest.approx(14 / 15)


def test_principal_directions_are_those_of_the_covariance() -> None:
    x = np.random.default_rng(0).standard_normal((50, 4)) * [5, 2, 1, 0.1] + 3

    scores = principal_scores(x - x.mean(axis=0), 3)

    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(scores.var(axis=0, ddof=1), values[:3], rtol=1e-10)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-12)
    assert random_scores(x, 7, seed=0).shape == (50, 7)


def test_direction_and_sign_are_chosen_on_one_half_and_judged_on_the_other() -> None:
    generator = np.random.default_rng(0)
    N = 400
    labels = {"a": generator.random(N) < 0.3, "b": generator.random(N) < 0.2}
    scores = generator.standard_normal((N, 5))
    scores[:, 2] -= 50 * labels["a"]  # tells a, from below
    scores[:, 4] += 1.5 * labels["b"]  # tells b in part
    train, test = np.arange(0, N, 2), np.arange(1, N, 2)

    chosen = score_labels(scores, labels, train, test)

    a, b = chosen.labels
    assert (a.label, a.direction, a.sign) == ("a", 2, -1)
    assert (b.label, b.direction, b.sign) == ("b", 4, 1)
    assert (a.average_precision, a.auroc, a.precision) == (1, 1, 1)
    assert a.enrichment == pytest.approx(1 / labels["a"][test].mean())
    assert a.positives == labels["a"][test].sum()
    truth, values = labels["b"][test], scores[test, 4]
    pairs = values[truth][:, None] > values[~truth]
    assert b.auroc == pytest.approx(pairs.mean())
    order = np.argsort(-values)
    hits = truth[order]
    precisions = hits.cumsum() / np.arange(1, hits.size + 1)
    assert b.average_precision == pytest.approx(precisions[hits].mean())
    low, high = chosen.average_precision.interval
    assert low < chosen.average_precision.mean < high
    assert chosen == score_labels(scores, labels, train, test)


def test_resamples_are_judged_as_scikit_learn_does() -> None:
    generator = np.random.default_rng(2)
    truth, scores = generator.random(80) < 0.3, generator.standard_normal(80)
    weights = np.stack([np.bincount(d, minlength=80) for d in generator.integers(0, 80, (9, 80))])
    weights[0] = ~truth  # no positives

    precision, auroc = weighted_metrics(truth, scores, weights)

    assert np.isnan(precision[0])
    assert np.isnan(auroc[0])
    for row, p, a in zip(weights[1:], precision[1:], auroc[1:], strict=True):
        assert p == pytest.approx(average_precision_score(truth, scores, sample_weight=row))
        assert a == pytest.approx(roc_auc_score(truth, scores, sample_weight=row))


def test_noise_is_not_told() -> None:
    generator = np.random.default_rng(1)
    scores, labels = generator.standard_normal((600, 25)), {"a": generator.random(600) < 0.3}

    chosen = score_labels(scores, labels, np.arange(300), np.arange(300, 600))

    low, high = chosen.auroc.interval
    assert low < 0.5 < high
