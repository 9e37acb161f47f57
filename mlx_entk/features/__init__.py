"""Ground-truth features, and how far an eigenspace holds them."""

from mlx_entk.features.alignment import (
    Overlap,
    center,
    equivalent_families,
    frequency_alignment,
    subspace_overlap,
)
from mlx_entk.features.bank import FeatureBank, modular_features
from mlx_entk.features.disentangle import cycle_frequency, disentangle

__all__ = [
    "FeatureBank",
    "Overlap",
    "center",
    "cycle_frequency",
    "disentangle",
    "equivalent_families",
    "frequency_alignment",
    "modular_features",
    "subspace_overlap",
]
