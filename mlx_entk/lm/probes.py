"""Directions that are told the labels: linear probes, the ceiling for those that are not."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array
from mlx_entk.errors import InputError
from mlx_entk.lm.scoring import Half, Judged, Weightings, judge

# Inverse strength of the penalty on a probe's weights, for standardised inputs.
_C = 0.01


def judge_probes(
    activations: Float64Array, masks: NDArray[np.bool_], halves: Sequence[tuple[Half, Half]]
) -> Judged:
    """Fit a logistic regression for each label and split on one half, and judge it on the other.

    Parameters
    ----------
    activations
        Shape (N, d), each coordinate standardised.
    masks
        Which inputs have each label, shape (L, N).
    halves
        The splits.

    Raises
    ------
    InputError
        If scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise InputError("probes need the extra lm: pip install 'mlx-entk[lm]'") from error
    N = activations.shape[0]
    judged: list[list[Judged]] = []
    for mask in masks:
        of_label = []
        for split in halves:
            chosen = mask[split[0]]
            scores = np.zeros(N)
            if chosen.any() and not chosen.all():
                with warnings.catch_warnings():  # where it stops does not matter for a ceiling
                    warnings.simplefilter("ignore")
                    probe = LogisticRegression(C=_C, max_iter=200, class_weight="balanced")
                    probe.fit(activations[split[0]], chosen)
                scores = np.asarray(probe.decision_function(activations))
            weightings = Weightings.of_splits([split], N)
            of_label.append(judge(scores[:, None], mask[None], weightings, (1,)))
        judged.append(of_label)

    def joined(field: str) -> NDArray[Any]:
        return np.array([[getattr(one, field)[0, 0] for one in of_label] for of_label in judged])

    return Judged(
        joined("direction"), joined("sign"), joined("chosen_precision"), joined("precision"),
        joined("auroc"),
    )  # fmt: skip
