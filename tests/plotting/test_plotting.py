"""Figures show what the results hold; how they look is judged by eye."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mlx_entk import Cliff
from mlx_entk.analysis import TrainedAlignment
from mlx_entk.plotting import plot_alignment, plot_spectra, plot_spectra_over_training


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for axis in figure.axes for text in axis.texts)


def test_spectra_mark_the_groups_that_end_at_a_cliff() -> None:
    values = {"full": np.geomspace(1, 1e-4, 20), "w": np.geomspace(1, 1e-4, 20)}

    cliffs = {"full": [Cliff((0, 0), 9, 0.0), Cliff((1, 5), 9, 0.0)], "w": [Cliff((0, 15), 9, 0.0)]}
    figure = plot_spectra(values, cliffs, shown=10)

    full, layer = figure.axes
    assert [text.get_text() for text in full.texts] == ["mode 0", "modes 1–5"]
    assert not layer.texts  # its cliff lies beyond the modes shown
    assert layer.get_xlim()[1] < 12
    np.testing.assert_array_equal(full.lines[0].get_ydata(), values["full"][:10])
    assert full.get_yscale() == "log"


def test_spectra_over_training_show_the_chosen_epochs() -> None:
    values = {"full": np.geomspace(1, 1e-3, 12).reshape(3, 4)}

    figure = plot_spectra_over_training(
        values, [0, 10, 20], [0, 20], shown=4, labels=["a", "b", "c"]
    )

    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == ["epoch 0", "epoch 20"]
    np.testing.assert_array_equal(axis.lines[1].get_ydata(), values["full"][2])
    (frames,) = figure.hints.frames
    assert list(frames.labels) == ["a", "b", "c"]
    np.testing.assert_array_equal(frames.y, values["full"])


def test_the_alignment_heatmap_prints_each_percentage_with_initialisation_and_chance() -> None:
    rows = [
        TrainedAlignment(
            kernel="full", modes=(1, 4), family=family, overlap=overlap, percent=25 * overlap,
            initial=1.0, chance=0.5, chance_deviation=0.1, dimension=4, angles=(0, 0, 0),
        )
        for family, overlap in (("n", 3.9), ("sum", 0.12))
    ]  # fmt: skip

    figure = plot_alignment(rows)

    assert texts(figure) == "98 3 25 25 12 12"
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [
        "whole kernel, modes 1–4"
    ]


def test_drawing_leaves_the_users_settings_alone() -> None:
    before = dict(mpl.rcParams)

    plot_spectra({"w": np.ones(3)}, {"w": []}, shown=3)

    assert dict(mpl.rcParams) == before
