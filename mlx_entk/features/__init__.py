"""Ground-truth features, and how far an eigenspace holds them."""

from mlx_entk.features.alignment import (
    Overlap,
    alignment_rows,
    center,
    equivalent_families,
    frequency_alignment,
    subspace_overlap,
)
from mlx_entk.features.bank import FREQUENCY_FAMILIES, FeatureBank, modular_features
from mlx_entk.features.disentangle import cycle_frequency, disentangle

__all__ = [
    "FREQUENCY_FAMILIES",
    "FeatureBank",
    "Overlap",
    "alignment_rows",
    "center",
    "cycle_frequency",
    "disentangle",
    "equivalent_families",
    "frequency_alignment",
    "modular_features",
    "subspace_overlap",
]
