"""Linear probes against least squares written out, and against classes that cannot be told."""

import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.probes import RIDGES, linear_probes

RANDOM = np.random.default_rng(0)
N, D, CLASSES = 120, 8, 4
LABELS = RANDOM.integers(0, CLASSES, N)
H = RANDOM.standard_normal((N, D)) + 1.5 * RANDOM.standard_normal((CLASSES, D))[LABELS] + 3
TRAIN, HELD_OUT = np.split(RANDOM.permutation(N), [80])


def least_squares(ridge: float, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercept of (H − mean) on the unit vectors, by the normal equations."""
    centre, wanted = H[rows].mean(axis=0), np.eye(CLASSES)[LABELS[rows]]
    X = H[rows] - centre
    penalty = ridge * np.linalg.norm(H[TRAIN] - H[TRAIN].mean(axis=0), 2) ** 2
    weights = np.linalg.solve(X.T @ X + penalty * np.eye(D), X.T @ (wanted - wanted.mean(axis=0)))
    return weights, wanted.mean(axis=0) - centre @ weights


def test_a_probe_is_the_ridge_regression_with_the_least_error_when_one_input_is_left_out() -> None:
    def left_out(ridge: float) -> float:
        error = 0.0
        for row in range(len(TRAIN)):
            weights, intercept = least_squares(ridge, np.delete(TRAIN, row))
            wanted = np.eye(CLASSES)[LABELS[TRAIN[row]]]
            error += float(((H[TRAIN[row]] @ weights + intercept - wanted) ** 2).sum())
        return error

    best = min(RIDGES, key=left_out)
    weights, intercept = least_squares(best, TRAIN)
    right = (H @ weights + intercept).argmax(axis=1) == LABELS

    found = linear_probes(H, {"label": LABELS}, TRAIN, HELD_OUT)["label"]

    assert found.ridge == best
    assert found.train == pytest.approx(right[TRAIN].mean())
    assert found.held_out == pytest.approx(right[HELD_OUT].mean())
    assert found.held_out > 0.8 > 0.5 > found.shuffled_held_out


def test_with_a_coordinate_for_every_input_only_held_out_inputs_tell() -> None:
    """Noise: any classes can be fitted, and none predicted."""
    noise = RANDOM.standard_normal((N, 4 * N))

    found = linear_probes(noise, {"label": LABELS}, TRAIN, HELD_OUT)["label"]

    assert found.train == found.shuffled_train == 1
    assert found.held_out < 0.5
    assert found.shuffled_held_out < 0.5


def test_activations_that_do_not_vary_give_the_usual_class() -> None:
    found = linear_probes(np.ones((N, 3)), {"label": LABELS}, TRAIN, HELD_OUT)["label"]

    assert found.held_out == found.chance


@pytest.mark.parametrize(
    ("targets", "train", "held_out", "message"),
    [
        ({"odd": LABELS - 1}, TRAIN, HELD_OUT, "targets odd are not whole numbers"),
        ({"odd": LABELS + 0.5}, TRAIN, HELD_OUT, "targets odd are not whole numbers"),
        ({"odd": LABELS[:-1]}, TRAIN, HELD_OUT, "targets odd are of 119 inputs"),
        ({"odd": LABELS}, TRAIN, TRAIN, "others to be judged on"),
        ({"odd": LABELS}, TRAIN, [], "others to be judged on"),
        ({"odd": LABELS}, [1, 1, 2], HELD_OUT, "train has indices that repeat"),
        ({"odd": LABELS}, TRAIN, [N], "held_out has indices that repeat or are not below 120"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    targets: dict[str, np.ndarray], train: np.ndarray, held_out: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        linear_probes(H, targets, train, held_out)
