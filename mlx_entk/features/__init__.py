"""Ground-truth features, and how much of them an eigenspace holds."""

from mlx_entk.features.alignment import (
    Alignment,
    Overlap,
    align,
    center,
    equivalent_families,
    family_shares,
    frequency_alignment,
    frequency_shares,
    subspace_overlap,
)
from mlx_entk.features.bank import (
    FREQUENCY_FAMILIES,
    KEYED_FAMILIES,
    Family,
    FeatureBank,
    Role,
    modular_features,
    readout_family,
)
from mlx_entk.features.channels import (
    RECOVERED,
    RECOVERY_RULE,
    Recovery,
    channel_alignment,
    constant_alignment,
    count_recovered,
    recovery,
)
from mlx_entk.features.cycles import cycle_frequency, disentangle_frequencies
from mlx_entk.features.frequencies import (
    KEY_RULE,
    embedding_power,
    frequency_features,
    kernel_power,
    key_frequencies,
)
from mlx_entk.features.rotation import METHODS, Directions, Method, disentangle

__all__ = [
    "FREQUENCY_FAMILIES",
    "KEYED_FAMILIES",
    "KEY_RULE",
    "METHODS",
    "RECOVERED",
    "RECOVERY_RULE",
    "Alignment",
    "Directions",
    "Family",
    "FeatureBank",
    "Method",
    "Overlap",
    "Recovery",
    "Role",
    "align",
    "center",
    "channel_alignment",
    "constant_alignment",
    "count_recovered",
    "cycle_frequency",
    "disentangle",
    "disentangle_frequencies",
    "embedding_power",
    "equivalent_families",
    "family_shares",
    "frequency_alignment",
    "frequency_features",
    "frequency_shares",
    "kernel_power",
    "key_frequencies",
    "modular_features",
    "readout_family",
    "recovery",
    "subspace_overlap",
]
