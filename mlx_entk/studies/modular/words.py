"""Captions and table cells that the studies of modular addition share."""

from mlx_entk.dynamics import Transition

GROKKING_CAPTION = (
    "If the overlap of a group of modes with the family that is the task (middle) rises when the "
    "test accuracy (top) does, the kernel and the network learn the function together. Grey bands "
    "are rises by the stated rule; the bottom panel shows the slope of the overlap."
)
KERNELS_IN_TRAINING_CAPTION = (
    "How the kernels change while the network learns. From above: the test accuracy of the network "
    "and of regression with the whole kernel of the same epoch (the after kernel; Long, 2021); "
    "the centred alignment of each kernel with the targets (Baratin et al., 2021; Atanasov et al., "
    "2021) and with the last kernel; and the kernel velocity (Fort et al., 2020), the distance "
    "from the checkpoint before per epoch."
)
SPECTRA_OVER_TRAINING_CAPTION = (
    "The leading eigenvalues of each kernel. Move the slider: groups of modes that exist from the "
    "first epoch are due to the inputs and the architecture; groups that separate later are "
    "learned."
)


def rise_cell(rise: Transition) -> str:
    """When a series rose, for a table."""
    if not rise.rises:
        return "never"
    return (
        f"from epoch {rise.onset:.0f} to {rise.completion:.0f} (R² of the fit {rise.explained:.2f})"
    )
