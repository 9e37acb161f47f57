"""Configuration and results of the study of a language model."""

from dataclasses import dataclass
from pathlib import Path

from mlx_entk._files import read_json, write_json
from mlx_entk.errors import InputError
from mlx_entk.lm.generation import Bos
from mlx_entk.lm.model import SELECTION
from mlx_entk.lm.scoring import LabelScores, Macro
from mlx_entk.runs import Run

# Kinds of directions that are compared, the first of which the study is about.
ENTK = "eNTK"
# The controls without a kernel: of the stream after the layer, of what the weight multiplies, of
# what the unembedding reads, and of the logits.
PCA, PCA_RAW, PCA_STANDARDISED = "PCA", "PCA, raw", "PCA, standardised"
PCA_NORMALISED = "PCA, RMS-normalised"
PCA_OF_INPUT, PCA_OF_STATE = "PCA of the input", "PCA of the state"
PCA_OF_LOGITS = "PCA of the logits"
PCAS = (
    PCA, PCA_RAW, PCA_STANDARDISED, PCA_NORMALISED, PCA_OF_INPUT, PCA_OF_STATE, PCA_OF_LOGITS,
)  # fmt: skip
RANDOM, ENTK_AT_INITIALISATION = "random", "eNTK at the start"
SHUFFLED = "labels shuffled"
PROBE, SAE = "linear probe", "autoencoder"
METHODS = (ENTK, *PCAS, RANDOM, ENTK_AT_INITIALISATION, SHUFFLED, PROBE, SAE)

# Families of labels.
PARTS_OF_SPEECH, MORPHOLOGY = "part of speech", "morphology"


_TOKENS = "tokens.json"


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
        Residual ‖Kv − λv‖/λ at which the solver stops, with λ₀/100 in place of λ for modes below
        it.
    products
        The most products that the solver takes for a layer; None for as many as it takes.
    bos
        Whether the token that begins a text stands before each window: ``auto``, ``yes``, ``no``.
    initial
        Whether to compare with the same model drawn anew.
    splits
        Into halves: to choose directions on, and to judge them on.
    sae
        Files of sparse autoencoders, each as ``LAYER=FILE``.
    seed
        Of the splits, the random directions, the initialisation and the solver.
    contexts, weights, autoencoders
        Digests, filled in by ``mlx_entk.studies.language_model.study.prepare``.
    ahead
        Tokens before each window, filled in likewise.
    """

    model: str
    layers: tuple[int, ...]
    selection: tuple[str, ...] = SELECTION
    modes: int = 25
    tolerance: float = 1e-3
    products: int | None = None
    bos: Bos = "auto"
    initial: bool = True
    splits: int = 20
    sae: tuple[str, ...] = ()
    seed: int = 0
    contexts: str = ""
    weights: str = ""
    autoencoders: str = ""
    ahead: tuple[int, ...] = ()


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
    initial_residual
        The largest residual of the modes at initialisation; None without them.
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
    initial_residual: float | None
    scores: dict[str, LabelScores]

    def best_control(self, family: str) -> str:
        """The principal directions that tell the labels of a family best."""
        return max(
            (name for name in PCAS if name in self.scores),
            key=lambda name: self.scores[name].macros[family].average_precision.mean,
        )

    def macro(self, method: str, family: str) -> Macro:
        """How well a kind of directions tells the labels of a family."""
        return self.scores[method].macros[family]


@dataclass(frozen=True)
class LMResults:
    """What the study finds.

    Attributes
    ----------
    inputs, window
        Windows, and tokens of each, without what stands before it.
    documents
        Texts that the windows come from.
    perplexity
        Median over some of the windows, evenly spaced; ``spectra.npz`` has it for each of them.
    tokenizer_adds_bos
        Whether the tokenizer begins a text with a token of its own.
    label_rule
        Which labels are scored.
    labels
        In how many windows each label follows, the most frequent first.
    families
        The labels of each family, of those families that have any.
    forward_seconds
        Seconds of one forward pass of the whole model over all windows.
    notes
        What was done to the model's weights when they were loaded.
    layers
        In the order of the configuration.
    """

    config: LMConfig
    inputs: int
    window: int
    documents: int
    perplexity: float
    tokenizer_adds_bos: bool
    label_rule: str
    labels: dict[str, int]
    families: dict[str, list[str]]
    forward_seconds: float
    notes: list[str]
    layers: list[LayerResults]

    @property
    def best(self) -> LayerResults:
        """The layer whose modes tell labels best on the halves on which they were chosen."""
        return max(self.layers, key=lambda row: row.scores[ENTK].chosen_precision)

    @property
    def family(self) -> str:
        """The family that results are summed up by: the first one that has labels."""
        return next(iter(self.families))

    @property
    def label_shares(self) -> dict[str, float]:
        """In which share of the windows each label follows."""
        return {label: count / self.inputs for label, count in self.labels.items()}


def contexts_file(run: Run) -> Path:
    """Where a run keeps its contexts."""
    return run.file("contexts.jsonl")


def vectors_file(run: Run, layer: int) -> Path:
    """Where a run keeps the modes of a layer: ``vectors`` of shape (d·N, k)."""
    return run.file("vectors", f"layer-{layer}.npz")


def write_token_texts(run: Run, texts: dict[str, str]) -> None:
    """Keep the text of each token of the contexts, by its number, in a run."""
    write_json(run.file(_TOKENS), dict(texts))


def read_token_texts(run: Run) -> dict[str, str]:
    """Read what ``write_token_texts`` wrote; without the file, of a model without a tokenizer, {}.

    Raises
    ------
    InputError
        If the file holds something else.
    """
    path = run.file(_TOKENS)
    texts = read_json(path) if path.exists() else {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"{path} does not hold the texts of tokens: remove it")
    return {number: str(text) for number, text in texts.items()}
