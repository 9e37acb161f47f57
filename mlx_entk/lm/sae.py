"""Sparse autoencoders that readers have: their latents as directions to compare with."""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_entk._files import read_tensors
from mlx_entk._linalg import Float64Array
from mlx_entk.errors import InputError

# A latent is compared if it fires on at least this share of the inputs, the most active first.
_LEAST_ACTIVE, _MOST = 0.01, 4096


@dataclass(frozen=True)
class SparseAutoencoder:
    """The encoder of a sparse autoencoder.

    Attributes
    ----------
    weight, bias
        Shapes (d, m) and (m,).
    centre
        Taken from the activations first, shape (d,); 0 for a JumpReLU.
    threshold
        Below which a latent is 0, shape (m,).
    """

    weight: Float64Array
    bias: Float64Array
    centre: Float64Array
    threshold: Float64Array

    def scores(self, activations: Float64Array) -> Float64Array:
        """The latents of activations (N, d) that fire often enough, shape (N, k)."""
        latents = (activations - self.centre) @ self.weight + self.bias
        latents = np.where(latents > self.threshold, np.maximum(latents, 0), 0)
        active = (latents > 0).mean(axis=0)
        order = np.argsort(-active, kind="stable")[:_MOST]
        return np.asarray(latents[:, order[active[order] >= _LEAST_ACTIVE]])


def read_autoencoder(path: Path, d: int) -> SparseAutoencoder:
    """Read a sparse autoencoder from a safetensors file.

    Parameters
    ----------
    path
        Of a file in the layout of SAELens (``W_enc``, ``b_enc``, ``b_dec``), whose encoder takes
        ``b_dec`` from the stream first; or of a JumpReLU of Gemma Scope, with a ``threshold``
        (names in upper or lower case), whose encoder reads the stream as it is. A JumpReLU that
        was trained to read it less ``b_dec`` cannot be told from these by its file.
    d
        Width of the stream that it has to read.

    Raises
    ------
    InputError
        If the file cannot be read, has other arrays, or reads a stream of another width.
    """
    arrays = {
        name.lower(): np.array(value.astype(mx.float32), dtype=np.float64)
        for name, value in read_tensors(path)[0].items()
    }
    missing = [name for name in ("w_enc", "b_enc") if name not in arrays]
    if missing:
        raise InputError(
            f"{path} has no {' and no '.join(missing)}: it has {', '.join(sorted(arrays)[:8])}"
        )
    weight = arrays["w_enc"]
    m = arrays["b_enc"].size
    shapes = {
        "w_enc": (d, m), "b_enc": (m,), "b_dec": (d,), "threshold": (m,),
    }  # fmt: skip
    for name, shape in shapes.items():
        if name in arrays and arrays[name].shape != shape:
            raise InputError(
                f"{path}: {name} has shape {arrays[name].shape}, but the stream of {d} values "
                f"needs {shape}"
            )
    return SparseAutoencoder(
        weight,
        arrays["b_enc"],
        np.zeros(d) if "threshold" in arrays else arrays.get("b_dec", np.zeros(d)),
        arrays.get("threshold", np.zeros(m)),
    )
