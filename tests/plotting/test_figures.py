"""Figures show what the results hold; how they look is judged by eye."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mlx_entk.plotting import heatmaps, spectra, training


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for axis in figure.axes for text in axis.texts)


def test_spectra_mark_the_groups_that_end_at_a_cliff() -> None:
    values = {"full": np.geomspace(1, 1e-4, 20), "w": np.geomspace(1, 1e-4, 20)}

    figure = spectra.spectra(values, {"full": [[0, 0], [1, 5]], "w": [[0, 15]]}, shown=10)

    full, layer = figure.axes
    assert [text.get_text() for text in full.texts] == ["mode 0", "modes 1–5"]
    assert not layer.texts  # its cliff lies beyond the modes shown
    assert layer.get_xlim()[1] < 12
    np.testing.assert_array_equal(full.lines[0].get_ydata(), values["full"][:10])
    assert full.get_yscale() == "log"


def test_spectra_over_training_show_the_chosen_epochs() -> None:
    values = {"full": np.geomspace(1, 1e-3, 12).reshape(3, 4)}

    figure = spectra.spectra_over_training(
        values, [0, 10, 20], [0, 20], shown=4, labels=["a", "b", "c"]
    )

    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == ["epoch 0", "epoch 20"]
    np.testing.assert_array_equal(axis.lines[1].get_ydata(), values["full"][2])
    (frames,) = figure.hints.frames
    assert list(frames.labels) == ["a", "b", "c"]
    np.testing.assert_array_equal(frames.y, values["full"])


def test_the_alignment_heatmap_prints_each_percentage_beside_initialisation_and_chance() -> None:
    rows = [
        {"kernel": "full", "modes": [1, 4], "family": family, "overlap": overlap,
         "initial": 1.0, "chance": 0.5, "dimension": 4}
        for family, overlap in (("n", 3.9), ("sum", 0.12))
    ]  # fmt: skip

    figure = heatmaps.alignment(rows)

    assert texts(figure) == "98 3 25 25 12 12"
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [
        "full kernel, modes 1–4"
    ]


def test_the_frequency_heatmap_orders_modes_by_their_frequency() -> None:
    heatmap = np.array([[0.1, 0.9, 0, 0], [0, 0, 0, 1.0], [1.0, 0, 0, 0]])

    figure = heatmaps.frequencies({(1, 3): heatmap}, ["n", "m"], "full")

    drawn = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(drawn, heatmap[[2, 0, 1]])


def test_neurons_share_one_colour_scale() -> None:
    neurons = np.arange(2 * 9.0).reshape(2, 3, 3)

    figure = heatmaps.preactivations(neurons)

    limits = {axis.images[0].get_clim() for axis in figure.axes if axis.images}
    assert limits == {(-17.0, 17.0)}


def grokking_results(after: float) -> dict[str, object]:
    transition = {"onset": 0.0, "completion": 10.0, "before": 1.0, "after": after}
    series = {"kernel": "full", "modes": [5, 8], "family": "sum"}
    return {
        **series,
        "epochs": [0, 10, 20],
        "series": [{**series, "overlap": [1.0, 2.0, 2.0], "derivative": [0.1, 0.05, 0.0]}],
        "onset": {"overlap": transition, "test_accuracy": transition, "steepest_overlap": 0},
    }


def test_the_grokking_figure_says_when_the_overlap_rises() -> None:
    metrics = [{"epoch": e, "train accuracy": 1.0, "test accuracy": e / 20} for e in (0, 10, 20)]

    rising = training.grokking(metrics, grokking_results(after=2.0))
    falling = training.grokking(metrics, grokking_results(after=0.5))

    assert "rise from epoch 0 to 10" in texts(rising)
    assert "rise" not in texts(falling)
    np.testing.assert_array_equal(rising.axes[1].lines[0].get_ydata(), [1, 2, 2])


def test_overlaps_over_training_are_per_cent_of_the_dimension() -> None:
    row = {"kernel": "full", "modes": [1, 4], "dimension": 4, "overlap": [1.0, 2.0, 4.0]}
    tracked = {
        "epochs": [0, 10, 20],
        "series": [
            {**row, "family": "n"},
            {**row, "family": "carry"},
            {**row, "family": "n", "kernel": "w", "modes": [5, 8]},
            {**row, "family": "n", "kernel": "w"},
        ],
    }

    figure = training.overlaps(tracked, ["n", "sum"])

    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "full kernel, modes 1–4",
        "w, modes 1–4",
        "w, modes 5–8",
    ]
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), [25, 50, 100])


def test_drawing_leaves_the_readers_settings_alone() -> None:
    before = dict(mpl.rcParams)

    heatmaps.preactivations(np.ones((1, 3, 3)))

    assert dict(mpl.rcParams) == before
