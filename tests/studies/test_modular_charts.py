"""Charts of modular addition show what the results hold; how they look is judged by eye."""

import numpy as np
from matplotlib.figure import Figure

from mlx_entk.dynamics import Transition
from mlx_entk.spectrum import Modes
from mlx_entk.studies.modular import charts
from mlx_entk.studies.results import Grokking, Onset, Series


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for axis in figure.axes for text in axis.texts)


def test_the_frequency_heatmap_orders_modes_by_their_frequency() -> None:
    heatmap = np.array([[0.1, 0.9, 0, 0], [0, 0, 0, 1.0], [1.0, 0, 0, 0]])

    figure = charts.frequencies({(1, 3): heatmap}, ["n", "m"], "full")

    drawn = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(drawn, heatmap[[2, 0, 1]])


def test_neurons_share_one_colour_scale() -> None:
    neurons = np.arange(2 * 9.0).reshape(2, 3, 3)

    figure = charts.preactivations(neurons)

    limits = {axis.images[0].get_clim() for axis in figure.axes if axis.images}
    assert limits == {(-17.0, 17.0)}


def tracked(series: list[Series], after: float = 2.0) -> Grokking:
    rise = Transition(0.0, 10.0, before=1.0, after=after, explained=1.0, rises=after > 1)
    main = series[0]
    return Grokking(
        epochs=[0, 10, 20],
        train_accuracy=[1.0] * 3,
        test_accuracy=[0.0, 0.5, 1.0],
        kernel=main.kernel,
        modes=main.modes,
        family=main.family,
        onset=Onset("", rise, rise, 0, 0),
        distance={},
        velocity={},
        with_targets={},
        with_final={},
        after_kernel_accuracy=[0.0, 0.5, 1.0],
        after_kernel_rule="",
        series=series,
    )


def series(kernel: str, modes: Modes, family: str, overlap: list[float]) -> Series:
    rise = Transition(0.0, 10.0, before=1.0, after=2.0, explained=1.0, rises=True)
    return Series(kernel, modes, family, 4, overlap, [0.1, 0.05, 0.0], rise)


def test_the_grokking_figure_says_when_the_overlap_rises() -> None:
    metrics = [{"epoch": e, "train accuracy": 1.0, "test accuracy": e / 20} for e in (0, 10, 20)]

    followed = [series("full", (5, 8), "sum", [1.0, 2.0, 2.0])]

    rising = charts.grokking(metrics, tracked(followed, after=2.0))
    falling = charts.grokking(metrics, tracked(followed, after=0.5))

    assert "rise from epoch 0 to 10" in texts(rising)
    assert "rise" not in texts(falling)
    np.testing.assert_array_equal(rising.axes[1].lines[0].get_ydata(), [1, 2, 2])


def test_overlaps_over_training_are_per_cent_of_the_dimension() -> None:
    overlap = [1.0, 2.0, 4.0]
    followed = [
        series("full", (1, 4), "n", overlap),
        series("full", (1, 4), "carry", overlap),
        series("w", (5, 8), "n", overlap),
        series("w", (1, 4), "n", overlap),
    ]

    figure = charts.overlaps(tracked(followed), ["n", "sum"])

    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "whole kernel, modes 1–4",
        "w, modes 1–4",
        "w, modes 5–8",
    ]
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), [25, 50, 100])
