"""Kernels by other means: closed form and finite differences in float64, and PyTorch."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
from numpy.typing import NDArray

from mlx_entk._parameters import flatten_tree, unflatten_tree

Kernel = NDArray[np.float64]


def relative_error(value: NDArray[Any], reference: NDArray[Any]) -> float:
    """Largest difference over the largest entry of the reference."""
    return float(np.abs(value - reference).max() / np.abs(reference).max())


def from_jacobian(J: NDArray[np.float64], J2: NDArray[np.float64] | None = None) -> Kernel:
    """K[n, m, c, d] from Jacobians of shapes (N, C, P) and (M, C, P)."""
    return np.asarray(np.einsum("ncp,mdp->nmcd", J, J if J2 is None else J2))


def quadratic_mlp_kernels(W1: NDArray[Any], W2: NDArray[Any], x: NDArray[Any]) -> dict[str, Kernel]:
    """Full layerwise kernels of f(x) = W₂ (W₁x/√I)²/H, in closed form and float64."""
    W1, W2, x = (np.asarray(a, dtype=np.float64) for a in (W1, W2, x))
    H, I = W1.shape  # noqa: E741
    hidden = x @ W1.T / np.sqrt(I)
    deltas = W2[None] * (2 * hidden / (H * np.sqrt(I)))[:, None]
    activations = hidden**2 / H
    return {
        "hidden.weight": np.einsum("nm,nch,mdh->nmcd", x @ x.T, deltas, deltas),
        "readout.weight": np.einsum("nm,cd->nmcd", activations @ activations.T, np.eye(len(W2))),
    }


def finite_difference_jacobian(
    model: nn.Module, x: mx.array, step: float = 1e-5
) -> dict[str, NDArray[np.float64]]:
    """Jacobian by central differences of the model in float64, without any autodiff.

    The model itself is called, or its ``numpy_forward(params, x)`` if it has one.
    """
    originals = flatten_tree(model.trainable_parameters())
    columns: dict[str, NDArray[np.float64]] = {}
    with mx.stream(mx.cpu):  # float64 exists on the CPU alone
        wide = {name: np.array(value, dtype=np.float64) for name, value in originals.items()}

        def outputs(name: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
            params = wide | {name: value}
            if hasattr(model, "numpy_forward"):
                return np.asarray(model.numpy_forward(params, np.array(x, dtype=np.float64)))
            arrays = {key: mx.array(given, dtype=mx.float64) for key, given in params.items()}
            model.update(unflatten_tree(arrays))
            return np.array(model(x.astype(mx.float64)), dtype=np.float64).reshape(len(x), -1)

        for name, value in wide.items():
            slopes = []
            for index in np.ndindex(value.shape):
                shift = np.zeros_like(value)
                shift[index] = step
                rise = outputs(name, value + shift) - outputs(name, value - shift)
                slopes.append(rise / (2 * step))
            columns[name] = np.stack(slopes, axis=-1)
        model.update(unflatten_tree(originals))
    return columns


def torch_mlp_jacobian(
    layers: list[tuple[NDArray[Any], NDArray[Any] | None]], x: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """Jacobian of dense layers with tanh between them by ``torch.func``, in float64."""
    params = {
        f"layers.{i}.{name}": torch.from_numpy(np.array(array, dtype=np.float64))
        for i, layer in enumerate(layers)
        for name, array in zip(("weight", "bias"), layer, strict=True)
        if array is not None
    }

    def network(values: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        for i in range(len(layers)):
            row = torch.nn.functional.linear(
                row, values[f"layers.{i}.weight"], values.get(f"layers.{i}.bias")
            )
            if i < len(layers) - 1:
                row = torch.tanh(row)
        return row

    rows = torch.from_numpy(np.array(x, dtype=np.float64))
    jacobian = torch.func.vmap(torch.func.jacrev(network), in_dims=(None, 0))(params, rows)
    return {name: J.flatten(2).numpy() for name, J in jacobian.items()}
