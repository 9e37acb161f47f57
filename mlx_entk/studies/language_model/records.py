"""Configuration and results of the study of a language model."""

from dataclasses import dataclass
from pathlib import Path

from mlx_entk.lm.model import SELECTION
from mlx_entk.lm.scoring import LabelScores
from mlx_entk.runs import Run

# Kinds of directions that are compared, the first of which the study is about.
ENTK = "eNTK"
# The controls without a kernel: of the stream after the layer, and of the logits.
PCA, PCA_RAW, PCA_STANDARDISED = "PCA", "PCA, raw", "PCA, standardised"
PCA_OF_LOGITS = "PCA of the logits"
RANDOM, ENTK_AT_INITIALISATION = "random", "eNTK at initialisation"
CONTROLS = (PCA, PCA_RAW, PCA_STANDARDISED, PCA_OF_LOGITS)
METHODS = (ENTK, *CONTROLS, RANDOM, ENTK_AT_INITIALISATION)


@dataclass(frozen=True)
class LMConfig:
    """What to compute of which model.

    Attributes
    ----------
    model
        Folder or hub id.
    layers
        Numbers of layers, from 0.
    selection
        Weights inside a layer, as dotted names.
    modes
        How many of each layer.
    tolerance
        Residual ‖Kv − λv‖/λ₀ at which the solver stops.
    seed
        Of the halves, the random directions, the initialisation and the solver.
    contexts, weights
        Digests, filled in by ``mlx_entk.studies.language_model.study.prepare``.
    """

    model: str
    layers: tuple[int, ...]
    selection: tuple[str, ...] = SELECTION
    modes: int = 25
    tolerance: float = 1e-3
    seed: int = 0
    contexts: str = ""
    weights: str = ""


@dataclass(frozen=True)
class LayerResults:
    """What the study finds in one layer.

    Attributes
    ----------
    layer
        Its number, from 0.
    values, residuals
        Leading eigenvalues, and the residual ‖Kv − λv‖/λ of each mode.
    shares
        Of the square norm of each mode, what its scores of the inputs explain.
    products
        Matrix-vector products that it took.
    product_seconds
        Seconds of each.
    batch
        Inputs of one pass.
    scores
        How well directions tell labels, by the kind of directions, one of ``METHODS``.
    """

    layer: int
    values: list[float]
    residuals: list[float]
    shares: list[float]
    products: int
    product_seconds: float
    batch: int
    scores: dict[str, LabelScores]

    @property
    def best_control(self) -> str:
        """The control without a kernel that tells labels best."""
        return max(CONTROLS, key=lambda name: self.scores[name].average_precision.mean)

    @property
    def margin(self) -> float:
        """Mean average precision of the eNTK's modes beyond that of the best control."""
        return self.precision - self.scores[self.best_control].average_precision.mean

    @property
    def precision(self) -> float:
        """Mean average precision of the eNTK's modes over the labels."""
        return self.scores[ENTK].average_precision.mean


@dataclass(frozen=True)
class LMResults:
    """What the study finds.

    Attributes
    ----------
    inputs, window
        Windows, and tokens of each.
    label_rule
        Which labels are scored.
    labels
        In how many windows each label follows, the most frequent first.
    forward_seconds
        Seconds of one forward pass of the whole model over all windows.
    layers
        In the order of the configuration.
    """

    config: LMConfig
    inputs: int
    window: int
    label_rule: str
    labels: dict[str, int]
    forward_seconds: float
    layers: list[LayerResults]

    @property
    def best(self) -> LayerResults:
        """The layer whose eNTK modes tell labels best."""
        return max(self.layers, key=lambda row: row.precision)

    @property
    def label_shares(self) -> dict[str, float]:
        """In which share of the windows each label follows."""
        return {label: count / self.inputs for label, count in self.labels.items()}


def contexts_file(run: Run) -> Path:
    """Where a run keeps its contexts."""
    return run.file("contexts.jsonl")
