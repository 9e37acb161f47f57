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
from mlx_entk.features.channels import (
    RECOVERED,
    RECOVERY_RULE,
    Recovery,
    channel_alignment,
    constant_alignment,
    recovery,
)
from mlx_entk.features.disentangle import cycle_frequency, disentangle

__all__ = [
    "FREQUENCY_FAMILIES",
    "RECOVERED",
    "RECOVERY_RULE",
    "FeatureBank",
    "Overlap",
    "Recovery",
    "alignment_rows",
    "center",
    "channel_alignment",
    "constant_alignment",
    "cycle_frequency",
    "disentangle",
    "equivalent_families",
    "frequency_alignment",
    "modular_features",
    "recovery",
    "subspace_overlap",
]
