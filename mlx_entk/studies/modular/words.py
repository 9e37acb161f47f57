"""Captions and table cells that the studies of modular addition share."""

from mlx_entk.dynamics import Transition
from mlx_entk.studies.results import Grokking

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


def grokking_caption(tracked: Grokking) -> str:
    """The caption of test accuracy above overlap, with what this run shows."""
    accuracy, overlap = tracked.onset.test_accuracy, tracked.onset.overlap
    if accuracy.rises and overlap.rises:
        together = accuracy.onset <= overlap.completion and overlap.onset <= accuracy.completion
        found = (
            "The two rise in the same epochs: the kernel and the network learn the function "
            "together."
            if together
            else f"The overlap rises {'before' if overlap.onset < accuracy.onset else 'after'} the "
            "test accuracy."
        )
    elif accuracy.rises:
        found = "The test accuracy rises, but the overlap does not follow it."
    elif overlap.rises:
        found = "The overlap rises, but the network does not learn the task."
    else:
        found = "Neither rises: there is nothing that they could have learned together."
    return (
        "The test accuracy (top), and the overlap of a group of modes with the family that is the "
        f"task (middle). {found} The dashed line is what the best of activations and outputs alone "
        f"holds after training. Grey bands are rises by the stated rule; the bottom panel shows "
        "the slope of the overlap."
    )


def rise_cell(rise: Transition) -> str:
    """When a series rose, for a table."""
    if not rise.rises:
        return "never"
    return (
        f"from epoch {rise.onset:.0f} to {rise.completion:.0f} (R² of the fit {rise.explained:.2f})"
    )
