"""Activations and outputs alone, as controls of what an eNTK holds."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import (
    InputError,
    analyze_kernels,
    layer_factors,
    layerwise_entk,
    orthonormal_basis,
)
from mlx_entk.controls import (
    OUTPUTS,
    SCALINGS,
    align_controls,
    best_group,
    controls_of,
    equal_to_activations,
    gram_modes,
    scaled,
)
from mlx_entk.features import center
from mlx_entk.spectrum import Spectrum

RANDOM = np.random.default_rng(0)
H = RANDOM.standard_normal((40, 12)) * np.geomspace(10, 0.1, 12) + 5


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("wide", [False, True])
def test_modes_are_those_of_the_gram_matrix(scaling: str, wide: bool) -> None:
    values = np.concatenate([H] * 5, axis=1) + RANDOM.standard_normal((40, 60)) if wide else H
    expected = np.array(values)
    if scaling != "raw":
        expected = expected - expected.mean(axis=0)
    if scaling == "standardised":
        expected = expected / expected.std(axis=0)

    found = gram_modes(scaled(values, scaling))  # type: ignore[arg-type]

    reference = np.linalg.eigvalsh(expected @ expected.T)[::-1][: found.values.size]
    np.testing.assert_allclose(found.values, reference, rtol=1e-8, atol=1e-9)
    gram = found.vectors.T @ found.vectors
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-7)


def test_coordinates_that_do_not_vary_become_zero() -> None:
    values = np.stack([np.full(9, 3e4), np.arange(9.0)], axis=1).astype(np.float32)

    standardised = scaled(values, "standardised")

    assert not standardised[:, 0].any()
    assert standardised[:, 1].std() == pytest.approx(1)


def test_the_best_group_lies_anywhere_in_the_spectrum() -> None:
    spectrum = Spectrum(np.arange(8.0, 0, -1), np.eye(8), 0.0)

    assert best_group(spectrum, np.eye(8)[:, [4, 6]], 3) == ((4, 6), 2.0)
    assert best_group(spectrum, np.eye(8)[:, [0, 1]], 3) == ((0, 2), 2.0)
    assert best_group(spectrum, np.eye(8)[:, [4, 6]], 99) == ((0, 7), 2.0)  # all that there are


def test_the_best_group_leaves_rounding_out() -> None:
    spectrum = Spectrum(np.array([2.0, 1, 1e-9, 1e-9]), np.eye(4), 1e-8)

    assert best_group(spectrum, np.eye(4)[:, [3]], 1) == ((0, 0), 0.0)
    assert best_group(Spectrum(np.zeros(4), np.eye(4), 0.0), np.eye(4)[:, [3]], 1)[1] == 0


def test_a_feature_in_the_activations_leaves_no_margin() -> None:
    """A kernel that is the activations' Gram matrix adds nothing to them."""
    feature = H[:, [0]]
    analysis = analyze_kernels(
        {"w": H @ H.T}, {"f": feature}, groups=[(0, 2)],
        controls={"activations": H, OUTPUTS: RANDOM.standard_normal((40, 3))},
    )  # fmt: skip
    (row,) = analysis.alignment

    control = analysis.controls.best(row)

    assert control is not None
    assert control.control == "activations"
    assert control.overlap >= row.overlap - 1e-6
    margin = analysis.controls.margin(row)
    assert margin is not None
    assert margin <= 1e-4
    outputs = analysis.controls.best(row, "outputs")
    assert outputs is not None
    assert outputs.control == OUTPUTS
    # Groups of the size of the eNTK's, and single modes.
    assert len(analysis.controls.rows) == 2 * 2 * len(SCALINGS)
    assert {c.size for c in analysis.controls.rows} == {1, 3}
    single = analysis.controls.strongest("f", 1)
    assert single is not None
    assert single.modes[0] == single.modes[1]
    assert 0.3 < single.overlap < control.overlap


def test_percentages_are_of_the_dimension_of_the_kernels_group() -> None:
    basis = orthonormal_basis(center(H[:, :4]))
    rows = align_controls({OUTPUTS: H[:, :2]}, {"f": basis}, [6])

    assert all(row.dimension == 4 for row in rows)
    centred = next(row for row in rows if row.scaling == "centred")
    assert centred.modes == (0, 1)  # there are no more
    assert centred.percent == pytest.approx(50)


def test_controls_that_do_not_fit_are_refused() -> None:
    basis = orthonormal_basis(center(H[:, :4]))
    with pytest.raises(InputError, match="activations h are of 39 inputs, features f of 40"):
        align_controls({"h": H[1:]}, {"f": basis}, [3])
    with pytest.raises(InputError, match="have NaN or infinite"):
        align_controls({"h": np.full((40, 2), np.nan)}, {"f": basis}, [3])
    with pytest.raises(InputError, match="scaling 'whitened' is unknown"):
        scaled(H, "whitened")  # type: ignore[arg-type]


def test_the_readout_is_told_to_be_its_activations_and_factors_have_rows() -> None:
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2))
    x = mx.array(H.astype(np.float32))
    controls = controls_of(model, x)
    assert list(controls) == ["input of layers.0.weight", "input of layers.2.weight", OUTPUTS]
    assert list(controls_of(model, x, every_layer=False)) == ["input of layers.2.weight", OUTPUTS]

    found = analyze_kernels(
        layerwise_entk(model, x, reduction="trace"), {"f": H[:, :2]}, groups=[(0, 2)],
        controls=controls, factors=layer_factors(model, x),
    ).controls  # fmt: skip

    assert found.equal_to_activations == ["layers.2.weight"]
    assert {row.control for row in found.factors} == {
        "layers.0.weight, activations", "layers.0.weight, backward",
        "layers.2.weight, activations", "layers.2.weight, backward",
    }  # fmt: skip
    (by_activations,) = [r for r in found.factors if r.control == "layers.2.weight, activations"]
    readout = ("input of layers.2.weight", "raw", 3)
    (raw,) = [r for r in found.rows if (r.control, r.scaling, r.size) == readout]
    assert by_activations.overlap == pytest.approx(raw.overlap, rel=1e-3)


def test_rounding_of_activations_is_no_mode() -> None:
    """Activations of rank 3 in single precision have 3 modes, also once they are centred."""
    draw = np.random.default_rng(0)
    exact = draw.standard_normal((300, 3)) @ draw.standard_normal((3, 64)) + 3
    rounded = exact.astype(np.float32)
    family = orthonormal_basis(center(draw.standard_normal((300, 10))))

    (row,) = [
        r for r in align_controls({"h": rounded}, {"f": family}, [20]) if r.scaling == "centred"
    ]

    assert row.modes == (0, 2)
    true = orthonormal_basis(center(exact))
    assert row.overlap == pytest.approx(((true.T @ family) ** 2).sum(), rel=1e-3)


def test_a_layer_without_derivatives_is_not_its_activations() -> None:
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    model.layers[0].bias = mx.full((4,), -1e3)  # a dead layer
    x = mx.array(H.astype(np.float32))

    assert "layers.0.weight" not in equal_to_activations(layer_factors(model, x))
