"""How well directions separate labels: average precision and AUROC over repeated splits.

For each label a direction and a sign are chosen on one half of the windows and judged on the
other. Differences between two kinds of directions are judged on the same resamples of documents,
with the choice made anew in each of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array

RESAMPLES = 200
INTERVAL = 0.95

Mask = NDArray[np.bool_]
Half = NDArray[np.int64]


@dataclass(frozen=True)
class Mode:
    """A mode of the operator on (N, d) values, reduced to a score for each input.

    Attributes
    ----------
    scores
        The top singular vector over inputs times its singular value, shape (N,).
    direction
        The top singular vector over outputs, shape (d,).
    share
        Share of the mode's squared norm that this explains.
    """

    scores: Float64Array
    direction: Float64Array
    share: float


def mode_scores(vector: Float64Array, N: int) -> Mode:
    """Reduce an eigenvector over inputs and outputs, channel-major of length d·N, to scores."""
    values = vector.reshape(-1, N).T
    U, singular, V = np.linalg.svd(values, full_matrices=False)
    share = float(singular[0] ** 2 / (singular**2).sum())
    return Mode(U[:, 0] * singular[0], V[0].copy(), share)


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
class Weightings:
    """Which windows count how often: to choose directions by, and to judge them by.

    Attributes
    ----------
    chosen_on, judged_on
        Counts, shape (R, N) each. A window counts in one of them.
    """

    chosen_on: NDArray[np.float32]
    judged_on: NDArray[np.float32]

    @classmethod
    def of_splits(cls, halves: Sequence[tuple[Half, Half]], N: int) -> "Weightings":
        """Every window once, a row for each split."""
        sides = np.zeros((2, len(halves), N), np.float32)
        for row, split in enumerate(halves):
            for side, numbers in zip(sides, split, strict=True):
                side[row, numbers] = 1
        return cls(sides[0], sides[1])

    def resampled(
        self, documents: NDArray[np.int64], count: int, generator: np.random.Generator
    ) -> "Weightings":
        """Documents drawn with replacement, each time for the next of the splits.

        Parameters
        ----------
        documents
            Number of the document of each window, from 0, shape (N,).
        count
            How many resamples.
        generator
            Draws them.
        """
        D = int(documents.max()) + 1
        times = generator.multinomial(D, np.full(D, 1 / D), size=count)[:, documents]
        rows = np.arange(count) % len(self.chosen_on)
        return Weightings(
            (self.chosen_on[rows] * times).astype(np.float32),
            (self.judged_on[rows] * times).astype(np.float32),
        )


@dataclass(frozen=True)
class Judged:
    """How well the chosen directions separate labels, for L labels and R weightings.

    Attributes
    ----------
    direction, sign
        What was chosen, shape (L, R) each.
    chosen_precision
        Average precision where it was chosen, shape (L, R).
    precision, auroc
        Average precision and AUROC where it was judged, shape (L, R). A weighting without
        positives has NaN in both, one without negatives in AUROC.
    """

    direction: NDArray[np.int64]
    sign: NDArray[np.int64]
    chosen_precision: NDArray[np.float32]
    precision: NDArray[np.float32]
    auroc: NDArray[np.float32]


def judge(
    scores: Float64Array, masks: NDArray[np.bool_], weightings: Weightings, signs: Iterable[int]
) -> Judged:
    """Choose a direction and a sign for each label by average precision, and judge them.

    Parameters
    ----------
    scores
        Scores of N inputs along k directions, shape (N, k).
    masks
        Which inputs have each label, shape (L, N).
    weightings
        On which inputs to choose, and on which to judge.
    signs
        1 and −1, or 1 alone for directions with a meaning of their own.
    """
    best: Judged | None = None
    for k in range(scores.shape[1]):
        for sign in signs:
            ranked = _Ranked(sign * scores[:, k])
            chosen, _ = ranked.metrics(masks, weightings.chosen_on)
            precision, auroc = ranked.metrics(masks, weightings.judged_on)
            found = Judged(
                np.full(chosen.shape, k), np.full(chosen.shape, sign), chosen, precision, auroc
            )
            best = found if best is None else _better(best, found)
    assert best is not None
    return best


def _better(a: Judged, b: Judged) -> Judged:
    takes_b = np.nan_to_num(b.chosen_precision, nan=-1) > np.nan_to_num(a.chosen_precision, nan=-1)
    return Judged(
        np.where(takes_b, b.direction, a.direction),
        np.where(takes_b, b.sign, a.sign),
        np.where(takes_b, b.chosen_precision, a.chosen_precision),
        np.where(takes_b, b.precision, a.precision),
        np.where(takes_b, b.auroc, a.auroc),
    )


class _Ranked:
    """Inputs in the order of their scores, the largest first, equal ones together."""

    def __init__(self, scores: Float64Array):
        self._order = np.argsort(-scores, kind="stable")
        in_order = scores[self._order]
        ends = np.append(in_order[1:] != in_order[:-1], True)
        at_end = np.flatnonzero(ends)
        group = np.concatenate([[0], np.cumsum(ends)[:-1]])
        self._last = None if ends.all() else at_end[group]
        self._group, self._at_end = group, at_end

    def metrics(
        self, masks: NDArray[np.bool_], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Average precision and AUROC by scikit-learn's definitions, shape (L, R) each."""
        in_order = weights[:, self._order]
        seen = np.maximum(self._to_the_end_of_equals(in_order.cumsum(axis=1)), 1)
        total = in_order.sum(axis=1)
        precision = np.full((len(masks), len(weights)), np.nan, np.float32)
        auroc = precision.copy()
        for number, mask in enumerate(masks):
            positive = in_order * mask[self._order]
            above = positive.cumsum(axis=1)
            hits = self._to_the_end_of_equals(above)
            P = above[:, -1]
            N = total - P
            # Of equal scores, half of the positives count as above a negative.
            before = hits if self._last is None else self._before_equals(hits)
            won = ((hits + before) * (in_order - positive)).sum(axis=1) / 2
            with np.errstate(invalid="ignore", divide="ignore"):
                precision[number] = (hits / seen * positive).sum(axis=1) / P
                auroc[number] = won / (P * N)
        return precision, auroc

    def _to_the_end_of_equals(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        return sums if self._last is None else sums[:, self._last]

    def _before_equals(self, hits: NDArray[np.float32]) -> NDArray[np.float32]:
        ends = hits[:, self._at_end]
        before = np.concatenate([np.zeros_like(ends[:, :1]), ends[:, :-1]], axis=1)
        return before[:, self._group]


@dataclass(frozen=True)
class Estimate:
    """A mean over labels, over splits.

    Attributes
    ----------
    mean
        The mean.
    deviation
        Its standard deviation between splits.
    """

    mean: float
    deviation: float


@dataclass(frozen=True)
class Difference:
    """How much larger a mean over labels is than that of other directions.

    Attributes
    ----------
    mean
        The difference of the means.
    interval
        Of the same over resamples of documents, the ends of the middle 95%.
    """

    mean: float
    interval: tuple[float, float]

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0."""
        low, high = self.interval
        return low > 0 or high < 0


@dataclass(frozen=True)
class Macro:
    """How well directions separate the labels of one family.

    Attributes
    ----------
    average_precision, auroc
        Means over the labels.
    precision_ahead, auroc_ahead
        How far other directions, those that a study is about, lie ahead of these; None for those
        directions themselves, and for what was not resampled.
    """

    average_precision: Estimate
    auroc: Estimate
    precision_ahead: Difference | None = None
    auroc_ahead: Difference | None = None


@dataclass(frozen=True)
class LabelScore:
    """How well the directions chosen for a label separate it.

    Attributes
    ----------
    label
        ``name=value``.
    direction, sign
        What was chosen most often, and at which end the label is: 1 or −1.
    average_precision, auroc
        Means over splits.
    """

    label: str
    direction: int
    sign: int
    average_precision: float
    auroc: float


@dataclass(frozen=True)
class LabelScores:
    """How well some directions separate labels.

    Attributes
    ----------
    labels
        A score for each label.
    macros
        By family of labels.
    chosen_precision
        Mean average precision over all labels on the halves on which directions were chosen.
    """

    labels: list[LabelScore]
    macros: dict[str, Macro]
    chosen_precision: float


@dataclass(frozen=True)
class Scorer:
    """Scores directions by the same labels, splits and resamples.

    Attributes
    ----------
    labels
        For each label, which inputs have it, shape (N,).
    families
        Labels by family.
    once, resampled
        The splits themselves, and resamples of documents for them.
    """

    labels: Mapping[str, Mask]
    families: Mapping[str, Sequence[str]]
    once: Weightings
    resampled: Weightings

    @classmethod
    def of(
        cls,
        labels: Mapping[str, Mask],
        families: Mapping[str, Sequence[str]],
        halves: Sequence[tuple[Half, Half]],
        documents: NDArray[np.int64],
        seed: int,
    ) -> "Scorer":
        """With resamples of documents drawn by a seed."""
        once = Weightings.of_splits(halves, len(documents))
        generator = np.random.default_rng([seed, 1])
        return cls(labels, families, once, once.resampled(documents, RESAMPLES, generator))

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Shape (L, N)."""
        return np.stack(list(self.labels.values()))

    def shuffled(self, seed: int) -> "Scorer":
        """The same with labels given to other windows."""
        order = np.random.default_rng([seed, 2]).permutation(self.masks.shape[1])
        labels = {name: mask[order] for name, mask in self.labels.items()}
        return Scorer(labels, self.families, self.once, self.resampled)

    def judge(self, scores: Float64Array, signs: Iterable[int] = (1, -1)) -> tuple[Judged, Judged]:
        """Judge directions on the splits, and on the resamples."""
        signs = tuple(signs)
        return tuple(judge(scores, self.masks, w, signs) for w in (self.once, self.resampled))  # type: ignore[return-value]

    def judge_once(self, scores: Float64Array, signs: Iterable[int] = (1, -1)) -> Judged:
        """Judge directions on the splits alone."""
        return judge(scores, self.masks, self.once, tuple(signs))

    def summarised(
        self,
        once: Judged,
        resampled: Judged | None = None,
        about: tuple[Judged, Judged] | None = None,
    ) -> LabelScores:
        """Means over labels and splits, and how far other directions lie ahead.

        Parameters
        ----------
        once, resampled
            What was judged on the splits, and on the resamples.
        about
            The same of the directions that a study is about.
        """
        place = {name: number for number, name in enumerate(self.labels)}
        macros = {}
        for family, names in self.families.items():
            rows = [place[name] for name in names]
            ahead: list[Difference | None] = [None, None]
            if about is not None and resampled is not None:
                ahead = [
                    _difference(
                        getattr(about[0], of)[rows], getattr(once, of)[rows],
                        getattr(about[1], of)[rows], getattr(resampled, of)[rows],
                    )
                    for of in ("precision", "auroc")
                ]  # fmt: skip
            macros[family] = Macro(
                _estimate(once.precision[rows]), _estimate(once.auroc[rows]), ahead[0], ahead[1]
            )
        labels = [
            LabelScore(
                name,
                *_most_frequent(once, number),
                float(np.nanmean(once.precision[number])),
                float(np.nanmean(once.auroc[number])),
            )
            for name, number in place.items()
        ]
        return LabelScores(labels, macros, float(np.nanmean(once.chosen_precision)))


def _most_frequent(judged: Judged, label: int) -> tuple[int, int]:
    pairs = np.stack([judged.direction[label], judged.sign[label]], axis=1)
    values, counts = np.unique(pairs, axis=0, return_counts=True)
    direction, sign = values[counts.argmax()]
    return int(direction), int(sign)


def _estimate(values: NDArray[np.float32]) -> Estimate:
    by_split = np.nanmean(values.astype(np.float64), axis=0)
    deviation = by_split.std(ddof=1) if len(by_split) > 1 else 0.0
    return Estimate(float(by_split.mean()), float(deviation))


def _difference(
    about: NDArray[np.float32],
    other: NDArray[np.float32],
    about_resampled: NDArray[np.float32],
    other_resampled: NDArray[np.float32],
) -> Difference:
    means = np.nanmean(about, axis=0, dtype=np.float64) - np.nanmean(
        other, axis=0, dtype=np.float64
    )
    resampled = np.nanmean(about_resampled, axis=0) - np.nanmean(other_resampled, axis=0)
    low, high = np.nanquantile(resampled, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return Difference(float(means.mean()), (float(low), float(high)))
