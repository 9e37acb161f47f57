"""Captions and cells that the studies of modular addition share."""

from mlx_entk.dynamics import Transition

GROKKING_CAPTION = (
    "The kernel and the network learn the function together: the overlap of a group of modes "
    "with the family that is the task (middle) rises when the test accuracy (top) does. Grey "
    "bands are the rises by the stated rule; the lowest panel is the slope of the overlap."
)
SPECTRA_OVER_TRAINING_CAPTION = (
    "Move the slider: groups that are there from the first epoch belong to inputs and "
    "architecture; those that part from the rest later are learned. Leading eigenvalues of each "
    "kernel."
)


def rise_cell(rise: Transition) -> str:
    """When a series rose, for a table."""
    if not rise.rises:
        return "never"
    return (
        f"from epoch {rise.onset:.0f} to {rise.completion:.0f} (R² of the fit {rise.explained:.2f})"
    )
