"""Sparse features, most of which are absent from any one input."""

import numpy as np
from numpy.typing import NDArray


def sparse_features(
    rows: int, n: int, sparsity: float, generator: np.random.Generator, normalised: bool = True
) -> NDArray[np.float32]:
    """Draw inputs whose features are absent (0) with some probability, else uniform on [0, 1).

    Elhage et al. (2022) draw them this way; Henighan et al., "Superposition, Memorization, and
    Double Descent" (2023), also scale each input to unit length.

    Parameters
    ----------
    rows
        How many inputs to draw.
    n
        How many features an input has.
    sparsity
        The probability that a feature is absent.
    generator
        Draws the random numbers.
    normalised
        Whether to scale inputs to unit length; an input without any feature stays zero.

    Returns
    -------
    numpy.ndarray
        Shape (rows, n), float32.
    """
    present = generator.random((rows, n)) >= sparsity
    x = np.where(present, generator.random((rows, n)), 0.0)
    if normalised:
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    return x.astype(np.float32)
