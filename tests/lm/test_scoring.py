"""Scores of directions against values by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from mlx_entk.lm.probes import judge_probes
from mlx_entk.lm.scoring import (
    Scorer,
    Weightings,
    judge,
    mode_scores,
    principal_scores,
    random_scores,
)


def test_a_mode_is_reduced_to_its_top_singular_vector() -> None:
    inputs, outputs = np.array([3.0, -1.0, 2.0, 0.0]), np.array([0.6, 0.8])
    rest = np.zeros((4, 2))
    rest[3] = [0.8, -0.6]  # orthogonal to both
    values = np.outer(inputs, outputs) + rest  # (N, d)

    mode = mode_scores(values.T.ravel(), N=4)  # channel-major

    sign = np.sign(mode.scores[0])
    np.testing.assert_allclose(sign * mode.scores, inputs, atol=1e-12)
    np.testing.assert_allclose(sign * mode.direction, outputs, atol=1e-12)
    assert mode.share == pytest.approx(14 / 15)


def test_principal_directions_are_those_of_the_covariance() -> None:
    x = np.random.default_rng(0).standard_normal((50, 4)) * [5, 2, 1, 0.1] + 3

    scores = principal_scores(x - x.mean(axis=0), 3)

    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(scores.var(axis=0, ddof=1), values[:3], rtol=1e-10)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-12)
    assert random_scores(x, 7, seed=0).shape == (50, 7)


Labels = dict[str, NDArray[np.bool_]]


def scorer(labels: Labels, halves: list[Any] | None = None, seed: int = 0) -> Scorer:
    """Of labels of one family, with a split in even and odd inputs, each its own document."""
    N = len(next(iter(labels.values())))
    halves = halves or [(np.arange(0, N, 2), np.arange(1, N, 2))]
    return Scorer.of(labels, {"all": list(labels)}, halves, np.arange(N), seed)


def test_direction_and_sign_are_chosen_on_one_half_and_judged_on_the_other() -> None:
    generator = np.random.default_rng(0)
    N = 400
    labels = {"a": generator.random(N) < 0.3, "b": generator.random(N) < 0.2}
    scores = generator.standard_normal((N, 5))
    scores[:, 2] -= 50 * labels["a"]  # tells a, from below
    scores[:, 4] += 1.5 * labels["b"]  # tells b in part
    test = np.arange(1, N, 2)
    judging = scorer(labels)

    summary = judging.summarised(*judging.judge(scores))

    a, b = summary.labels
    assert (a.label, a.direction, a.sign) == ("a", 2, -1)
    assert (b.label, b.direction, b.sign) == ("b", 4, 1)
    assert (a.average_precision, a.auroc) == (1, 1)
    truth, values = labels["b"][test], scores[test, 4]
    assert b.auroc == pytest.approx(roc_auc_score(truth, values))
    assert b.average_precision == pytest.approx(average_precision_score(truth, values))
    macro = summary.macros["all"]
    assert macro.average_precision.mean == pytest.approx((1 + b.average_precision) / 2)
    assert macro.precision_ahead is None
    assert summary == judging.summarised(*judging.judge(scores))


def test_resamples_are_judged_as_scikit_learn_does_with_equal_scores_too() -> None:
    generator = np.random.default_rng(2)
    N = 80
    masks = generator.random((3, N)) < 0.3
    scores = np.round(generator.standard_normal((N, 4)), 1)
    halves = [(p[:40], p[40:]) for p in (generator.permutation(N) for _ in range(3))]
    documents = np.arange(N) // 2
    once = Weightings.of_splits(halves, N)
    weightings = once.resampled(documents, 7, generator)

    judged = judge(scores, masks, weightings, (1, -1))

    for number, mask in enumerate(masks):
        for r in range(7):
            chosen_on, judged_on = weightings.chosen_on[r], weightings.judged_on[r]
            options = {
                (k, sign): average_precision_score(
                    mask, sign * scores[:, k], sample_weight=chosen_on
                )
                for k in range(4)
                for sign in (1, -1)
            }
            k, sign = judged.direction[number, r], judged.sign[number, r]
            assert options[k, sign] == pytest.approx(max(options.values()), abs=1e-6)
            values = sign * scores[:, k]
            assert judged.precision[number, r] == pytest.approx(
                average_precision_score(mask, values, sample_weight=judged_on), abs=1e-6
            )
            assert judged.auroc[number, r] == pytest.approx(
                roc_auc_score(mask, values, sample_weight=judged_on), abs=1e-6
            )


def test_documents_are_drawn_whole_and_stay_in_their_half() -> None:
    halves = [(np.arange(6), np.arange(6, 12)), (np.arange(6, 12), np.arange(6))]
    documents = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5])

    drawn = Weightings.of_splits(halves, 12).resampled(documents, 50, np.random.default_rng(0))

    for split, (first, second) in enumerate([(slice(6), slice(6, 12)), (slice(6, 12), slice(6))]):
        assert not drawn.chosen_on[split::2, second].any()
        assert not drawn.judged_on[split::2, first].any()
    both = drawn.chosen_on + drawn.judged_on
    for document in range(6):
        counts = both[:, documents == document]
        assert (counts == counts[:, :1]).all()
    firsts = [int(np.flatnonzero(documents == d)[0]) for d in range(6)]
    assert (both[:, firsts].sum(axis=1) == 6).all()


def test_labels_absent_from_a_resample_do_not_count_there() -> None:
    labels = {"a": np.arange(40) < 3, "b": np.arange(40) % 3 == 0}
    judging = scorer(labels)

    once, resampled = judging.judge(np.random.default_rng(0).standard_normal((40, 3)))

    assert np.isnan(resampled.precision[0]).any()
    summary = judging.summarised(once, resampled, (once, resampled))
    ahead = summary.macros["all"].precision_ahead
    assert ahead is not None
    assert (ahead.mean, ahead.interval, ahead.shown) == (0, (0, 0), False)


def test_a_difference_is_shown_where_there_is_one_and_only_there() -> None:
    generator = np.random.default_rng(1)
    labels = {name: generator.random(600) < 0.3 for name in "abcd"}
    noise, other = generator.standard_normal((2, 600, 10))
    telling = noise.copy()
    for k, mask in enumerate(labels.values()):
        telling[:, k] += 1.0 * mask
    judging = scorer(labels)
    about = judging.judge(telling)

    behind = judging.summarised(*judging.judge(other), about).macros["all"]
    same = judging.summarised(*judging.judge(telling + 0.05 * other), about).macros["all"]
    noises = judging.summarised(*judging.judge(other), judging.judge(noise)).macros["all"]

    assert behind.precision_ahead is not None
    assert behind.precision_ahead.interval[0] > 0.1
    assert behind.auroc_ahead is not None
    assert behind.auroc_ahead.shown
    assert same.precision_ahead is not None
    assert not same.precision_ahead.shown
    assert noises.precision_ahead is not None
    assert not noises.precision_ahead.shown
    low, high = behind.auroc.mean - 0.06, behind.auroc.mean + 0.06
    assert low < 0.5 < high


def test_shuffled_labels_are_told_by_nothing() -> None:
    generator = np.random.default_rng(3)
    labels = {"a": generator.random(800) < 0.3}
    scores = labels["a"][:, None] + 0.01 * generator.standard_normal((800, 3))
    judging = scorer(labels)
    shuffled = judging.shuffled(seed=0)

    told = judging.summarised(judging.judge_once(scores)).macros["all"]
    not_told = shuffled.summarised(shuffled.judge_once(scores)).macros["all"]

    assert told.auroc.mean == 1
    assert abs(not_told.auroc.mean - 0.5) < 0.08
    assert shuffled.masks.sum() == judging.masks.sum()


def test_probes_are_a_ceiling_for_labels_that_a_direction_tells() -> None:
    generator = np.random.default_rng(4)
    activations = generator.standard_normal((400, 20))
    labels = {
        "a": activations @ generator.standard_normal(20) > 2,
        "b": generator.random(400) < 0.3,
    }
    halves = [(np.arange(0, 400, 2), np.arange(1, 400, 2)), (np.arange(200), np.arange(200, 400))]
    judging = scorer(labels, halves)

    judged = judge_probes(activations, judging.masks, halves)

    assert judged.auroc.shape == (2, 2)
    assert judged.auroc[0].min() > 0.9
    assert abs(judged.auroc[1].mean() - 0.5) < 0.1
