"""Figures show what the results hold; how they look is judged by eye."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mlx_entk import Cliff
from mlx_entk.analysis import TrainedAlignment
from mlx_entk.features import Alignment
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


def test_the_alignment_heatmap_prints_each_percentage_and_what_training_changed() -> None:
    rows = [
        TrainedAlignment(
            kernel="full", modes=(1, 4), family=family, overlap=overlap, percent=25 * overlap,
            initial=1.0, chance=0.5, chance_deviation=0.1, dimension=4, angles=(0, 0, 0),
        )
        for family, overlap in (("n", 3.9), ("sum", 0.12))
    ]  # fmt: skip

    figure = plot_alignment(rows)

    assert texts(figure) == "98 3 +72 −22"
    change = figure.axes[1].images[0]
    assert change.get_clim() == (-100, 100)  # nothing is in the middle of the colours
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [
        "whole kernel, modes 1–4"
    ]


def test_families_that_span_one_space_share_a_column_of_the_heatmap() -> None:
    rows = [
        Alignment(
            kernel="full", modes=(1, 4), family=family, overlap=2.0, percent=50.0,
            chance=0.5, chance_deviation=0.1, dimension=4, angles=(0, 0, 0),
        )
        for family in ("n", "m", "2n")
    ]  # fmt: skip

    figure = plot_alignment(rows, equivalent=[["n", "2n"]])

    names = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert names == ["n = 2n", "m"]
    assert texts(figure) == "50 50"


def test_eigenvalue_axes_end_a_little_below_the_noise_floor() -> None:
    """What rounding leaves, down to 1e-281, took most of the axis."""
    values = {"full": np.array([1.0, 0.1, 1e-4, 1e-17, 1e-281, 0.0])}

    known = plot_spectra(values, {"full": []}, shown=6, floors={"full": 1e-5}).axes[0]
    unknown = plot_spectra(values, {"full": []}, shown=6).axes[0]
    over_training = plot_spectra_over_training(
        {"full": np.stack([values["full"], values["full"]])}, [0, 9], [0, 9], 6, ["a", "b"],
        {"full": 1e-5},
    ).axes[0]  # fmt: skip

    assert "noise floor" in [text.get_text() for text in known.texts]
    assert 1e-6 < known.get_ylim()[0] < 1e-5
    assert 1e-6 < over_training.get_ylim()[0] < 1e-5
    assert unknown.get_ylim()[0] > 1e-14
    for axis in (known, over_training):
        assert all(float(place).is_integer() for place in axis.get_xticks())


def test_powers_of_ten_at_ticks_have_exponents_of_full_size() -> None:
    figure = plot_spectra({"full": np.geomspace(1, 1e-6, 9)}, {"full": []}, shown=9)
    figure.settle()

    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert "10⁻³" in labels
    assert not any("$" in label for label in labels)


def test_drawing_leaves_the_users_settings_alone() -> None:
    before = dict(mpl.rcParams)

    plot_spectra({"w": np.ones(3)}, {"w": []}, shown=3)

    assert dict(mpl.rcParams) == before
