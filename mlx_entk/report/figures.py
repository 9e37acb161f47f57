"""The figures of a run of any study, and what to see in each."""

from collections.abc import Callable, Iterator

from mlx_entk.plotting import (
    descent_figures,
    kernel_figures,
    lm_figures,
    modular_figures,
    paper_figures,
    regression_figures,
    sweep_figures,
    tms_figures,
    transformer_figures,
)
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.runs import Run
from mlx_entk.studies import kernel, lm, mlp, sweep, tms, transformer

Figures = Iterator[tuple[str, Drawing]]


def _of_sweep(run: Run) -> Figures:
    folders = {row["seed"]: run.path / f"seed-{row['seed']}" for row in run.results["seeds"]}
    return sweep_figures(run.results, {seed: Run.load(path) for seed, path in folders.items()})


_FIGURES: dict[str, Callable[[Run], Figures]] = {
    kernel.STUDY: kernel_figures,
    lm.STUDY: lm_figures,
    mlp.STUDY: modular_figures,
    sweep.STUDY: _of_sweep,
    tms.STUDY: tms_figures,
    tms.PAPER_STUDY: paper_figures,
    tms.DESCENT_STUDY: descent_figures,
    transformer.STUDY: transformer_figures,
}


def figures(run: Run) -> Figures:
    """Every figure of a finished run with its name, drawn one at a time."""
    yield from _FIGURES[run.study](run)
    if (regression := run.regression) is not None:
        yield from regression_figures(regression)


# What to see in each figure.
CAPTIONS = {
    "grokking": (
        "The kernel and the network learn the function together: the overlap of a group of modes "
        "with the family that is the task (middle) rises where the test accuracy (top) does. Grey "
        "bands are the rises that the stated rule finds; the lowest panel is the slope of the "
        "overlap."
    ),
    "overlaps-over-training": (
        "A line that is high from epoch 0 on tells of the architecture, one that rises was "
        "learned. Overlap of each mode group of each kernel with the families of single "
        "frequencies, in per cent of the smaller dimension."
    ),
    "key-frequencies": (
        "The few bars above the dotted line are the frequencies that the network uses, in orange; "
        "the two panels read them off the embedding and off the kernel, independently. Where they "
        "agree, trust them."
    ),
    "localisation-sum-of-logits": (
        "Read down a column to see in which parameter a family lives: overlap of the leading two "
        "mode groups of each parameter's sum-of-logits kernel with the families at the key "
        "frequencies and, as control, at the others. Compare the panel after training with the "
        "two others."
    ),
    "localisation-trace": (
        "The same by the trace kernels: families that cancel in the mean of the logits appear "
        "only here."
    ),
    "localisation-class-0": ("The same by the kernels of class 0 alone, which see one output."),
    "overlaps-by-parameter": (
        "Which kernel turns to which family, and when: lines that rise before the grey area (the "
        "test accuracy) foretell it. Leading mode group in full lines, the next one dashed."
    ),
    "first-to-move": (
        "Dots left of the orange line are kernels that turned to their family before the test "
        "accuracy rose. A family is the one at the key frequencies whose overlap rose the most, "
        "the time that of half the rise; pale where it rose by less than 20%."
    ),
    "sweep": ("How much the headline figures scatter: a dot a seed, the dotted line their mean."),
    "sweep-overlap": (
        "In every seed the overlap of the leading modes with the sum at the key frequencies "
        "(below) follows the test accuracy (above), however late that rises."
    ),
    "sweep-leads": (
        "Kernels whose dots all lie right of zero turned to their family before the test accuracy "
        "rose in every seed. Hollow where the overlap rose by less than 20%, the median in "
        "orange."
    ),
    "lm-scores": (
        "The eNTK's modes are worth their price where they lie above the other directions by more "
        "than the bars. How well directions tell labels of the next word, mean over the labels, "
        "with 95% bootstrap intervals; dotted, what no information would reach."
    ),
    "lm-labels": (
        "Labels whose dots lie far right of their tick are known to the layer. Average precision "
        "by the best layer's modes, beside the other directions; the tick is the label's share."
    ),
    "lm-spectra": (
        "A steep beginning says that few directions carry most of the layer's kernel. Leading "
        "eigenvalues by layer."
    ),
    "spectra": (
        "Look for the drops: each shaded group of modes ends at a cliff that the stated criterion "
        "finds. Leading eigenvalues of the whole and the layerwise kernels after training."
    ),
    "spectra-over-training": (
        "Move the slider: groups that are there from the first epoch belong to inputs and "
        "architecture, those that part from the rest later are learned. Leading eigenvalues of "
        "each kernel."
    ),
    "alignment": (
        "A bright cell after training that is dark before it and by chance is a feature that the "
        "kernel has learned. Overlap of each mode group with each feature family, in per cent of "
        "the smaller of the two dimensions."
    ),
    "frequencies": (
        "A bright cell is a mode that is one frequency of one family; bright diagonals say that "
        "the group is made of single frequencies. The modes of each group, rotated within their "
        "eigenspace."
    ),
    "preactivations": (
        "Stripes are waves in n and m: single hidden neurons compute a frequency each, before the "
        "activation."
    ),
    "paper": (
        "Compare the cliffs (orange) with the number of reconstructed features (dashed) and of "
        "all features (dotted). Below, a bright diagonal is a kernel whose single modes are "
        "features, for two exponents of the importance rescaling."
    ),
    "spectra-flattened": (
        "Only a cliff that the trained kernel has and the null models have not tells of learning. "
        "Leading eigenvalues of the flattened kernel of the network, of the same before training "
        "and of one trained on shuffled targets; dotted, the number of features."
    ),
    "recovery": (
        "A bright diagonal is a kernel that tells features apart; the null models below should "
        "have none. How nearly each mode is one feature, for each exponent of the importance "
        "rescaling."
    ),
    "superposition": (
        "Off-diagonal colour in WᵀW and bright bars are features that share their direction with "
        "others; bars of no height are features that the network has dropped."
    ),
    "features-over-training": (
        "When the features appear: the network reconstructs them (full line) before, with or "
        "without single modes of its kernel recovering them (dashed). Move the slider to see the "
        "spectrum at each checkpoint."
    ),
    "geometry": (
        "Features (left) settle at equal angles as a polygon, and the inputs' hidden vectors "
        "(right) lie along them."
    ),
    "double-descent": (
        "The loss on new inputs rises before it falls for good, and the effective rank of the "
        "flattened kernel on new inputs rises and falls with it."
    ),
    "regression-path": (
        "Where a line stays above the dotted one, the kernel describes the network. R² of the "
        "kernel's predictors against the network on held-out inputs, over the ridge; dots are the "
        "ridges that are reported."
    ),
    "regression-modes": (
        "Which modes carry the function: a group that is high alone (green) is enough, one "
        "without which the rest is low (orange) is needed. The pure kernel predictor by its "
        "leading modes, with single modes removed, and by groups."
    ),
}
