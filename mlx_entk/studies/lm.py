"""A language model: modes of its layers' kernels, and what they tell of the next word.

The operator S^{1/2} J_r J_rᵀ S^{1/2} of layer r, with J_r the Jacobian of the last hidden state at
the last position by the layer's weights and S = UᵀU of the unembedding U, has the eigenvalues of
the layerwise eNTK of the logits (Lin, arXiv 2510.00468v4, section on language models).
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._files import Arrays, Json, digest, read_arrays, write_arrays
from mlx_entk._linalg import Float64Array
from mlx_entk._memory import default_limit
from mlx_entk._parameters import flatten_tree
from mlx_entk.distributed import Group, first_says, is_first
from mlx_entk.eigensolvers import RecordedOperator, top_modes
from mlx_entk.errors import InputError
from mlx_entk.kernel import entk_operator
from mlx_entk.lm.contexts import Context, LabelRule, halves, indicators, tokens_of
from mlx_entk.lm.model import (
    SELECTION,
    LanguageModel,
    hidden_after,
    hidden_before,
    initialised,
    layer_function,
    square_root_of_readout,
)
from mlx_entk.lm.scoring import mode_scores, principal_scores, random_scores, score_labels
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.estimate import Stage, seconds_of

STUDY = "lm"

# Of the budget, the part for one pass; the cached stream and the solver's vectors have the rest.
_PASS = 0.5
# Inputs of a forward pass that is not differentiated.
_FORWARD = 32
# Products that the solver takes for each mode, about.
_PRODUCTS_PER_MODE = 2.4

TRAINED, INITIAL = "trained", "initialisation"
METHODS = ("eNTK", "PCA", "random", "eNTK at initialisation")


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
        Digests, filled in by :func:`prepare`.
    """

    model: str
    layers: tuple[int, ...]
    selection: tuple[str, ...] = SELECTION
    modes: int = 25
    tolerance: float = 1e-3
    seed: int = 0
    contexts: str = ""
    weights: str = ""

    def as_json(self) -> Json:
        """The settings by name."""
        return asdict(self) | {"layers": list(self.layers), "selection": list(self.selection)}


def prepare(config: LMConfig, model: LanguageModel, contexts: Sequence[Context]) -> LMConfig:
    """Check a request, and fill in the digests of what it is computed from.

    Raises
    ------
    InputError
        For layers or weights that the model does not have, tokens outside its vocabulary, too
        few contexts for the modes, or labels of which none passes the rule.
    """
    for layer in config.layers:
        layer_function(model, layer, config.selection, None)
    if not config.layers:
        raise InputError("no layers: name at least one")
    if not 0 < config.modes < len(contexts):
        raise InputError(f"modes is {config.modes}: {len(contexts)} contexts have fewer")
    largest = max(max(context.tokens) for context in contexts)
    vocabulary = model.unembedding.shape[0]
    if largest >= vocabulary:
        raise InputError(
            f"contexts has token {largest}, the model knows {vocabulary}: they are of another "
            "tokenizer"
        )
    train, test = halves(len(contexts), config.seed)
    if not indicators(contexts, train, test, LabelRule()):
        raise InputError(f"contexts has no label to score: a label needs {LabelRule()}")
    tokens = {"tokens": tokens_of(contexts)}
    labels = {str(i): mx.array(list(str(c.labels).encode())) for i, c in enumerate(contexts)}
    return LMConfig(
        **asdict(config)
        | {
            "contexts": digest(tokens | labels)[:16],
            "weights": digest(flatten_tree(model.module.parameters()))[:16],
        }
    )


def run_lm(
    config: LMConfig,
    model: LanguageModel,
    contexts: Sequence[Context],
    run: Run,
    *,
    memory_limit: int | None = None,
    group: Group | None = None,
    progress: Progress = silent,
) -> Json:
    """Modes of each layer's kernel, scored by labels of the next word; stored in the run folder.

    Parameters
    ----------
    model, contexts
        As given to :func:`prepare`, whose configuration this is.
    run
        Keeps every product until its layer is done, so that a killed run goes on from there.
    memory_limit
        Bytes, by default half of what is available.
    group
        Ranks that share the work. All but the first have a run folder of their own to throw
        away.

    Returns
    -------
    dict
        What ``results.json`` holds.
    """
    if first_says(run.finished, group):
        return run.results if is_first(group) else {}
    limit = default_limit() if memory_limit is None else memory_limit
    tokens = tokens_of(contexts)
    train, test = halves(len(contexts), config.seed)
    rule = LabelRule()
    labels = indicators(contexts, train, test, rule)
    results: Json = {
        "study": STUDY,
        "config": config.as_json(),
        "inputs": len(contexts),
        "window": tokens.shape[1],
        "label_rule": str(rule),
        "labels": {label: int(mask.sum()) for label, mask in labels.items()},
        "forward_seconds": _forward_seconds(model, tokens),
        "layers": [],
    }
    arrays: Arrays = {}
    models = {TRAINED: lambda: model, INITIAL: lambda: initialised(model, config.seed)}
    for layer in config.layers:
        found = {
            name: _layer_modes(config, make, name, layer, tokens, run, limit, group, progress)
            for name, make in models.items()
        }
        if not is_first(group):
            continue
        progress(f"labels, layer {layer}", 0, 1)
        trained, initial = found[TRAINED], found[INITIAL]
        stream = _stream_after(model, tokens, layer)
        scores = {
            "eNTK": trained["scores"],
            "PCA": principal_scores(stream, config.modes),
            "random": random_scores(stream, config.modes, config.seed),
            "eNTK at initialisation": initial["scores"],
        }
        results["layers"].append(
            {
                "layer": layer,
                "values": trained["values"].tolist(),
                "residuals": trained["residuals"].tolist(),
                "shares": trained["shares"].tolist(),
                "products": int(trained["products"]),
                "product_seconds": float(trained["seconds"]),
                "batch": int(trained["batch"]),
                "scores": {
                    name: score_labels(scores[name], labels, train, test, config.seed)
                    for name in METHODS
                },
            }
        )
        arrays[f"values/layer-{layer}"] = trained["values"]
        arrays[f"scores/layer-{layer}"] = trained["scores"]
        progress(f"labels, layer {layer}", 1, 1)
    if is_first(group):
        run.save_results(results, arrays)
        shutil.rmtree(run.path / "modes", ignore_errors=True)
    return results


def estimate(
    config: LMConfig,
    model: LanguageModel,
    contexts: Sequence[Context],
    memory_limit: int | None = None,
) -> list[Stage]:
    """What :func:`run_lm` would take on this device, by one product of the first layer."""
    limit = default_limit() if memory_limit is None else memory_limit
    tokens = tokens_of(contexts)[:_FORWARD]
    layer = min(config.layers)
    hidden = hidden_before(model, tokens, layer, _FORWARD)
    root = square_root_of_readout(model.unembedding)
    function = layer_function(model, layer, config.selection, root)
    operator = entk_operator(function, hidden, memory_limit=int(_PASS * limit))
    vector = np.ones(operator.shape[0])
    operator @ vector  # compiles
    one = seconds_of(lambda: operator @ vector) * len(contexts) / tokens.shape[0]
    products = round(_PRODUCTS_PER_MODE * config.modes) * len(config.layers) * 2
    return [Stage("products, trained and at initialisation", products, products * one, limit)]


def _layer_modes(
    config: LMConfig,
    make: Callable[[], LanguageModel],
    name: str,
    layer: int,
    tokens: mx.array,
    run: Run,
    limit: int,
    group: Group | None,
    progress: Progress,
) -> Arrays:
    """Values, residuals, per-input scores and what it took; from a file where that is there."""
    done = run.path / "modes" / f"{name}-{layer}.npz"
    if first_says(done.exists(), group):
        return read_arrays(done) if is_first(group) else {}
    model = make()
    hidden = hidden_before(model, tokens, layer, _FORWARD)
    root = square_root_of_readout(model.unembedding)
    function = layer_function(model, layer, config.selection, root)
    operator = entk_operator(function, hidden, memory_limit=int(_PASS * limit), group=group)
    folder = run.path / "modes" / f"{name}-{layer}"
    stage, start = f"{name}, layer {layer}", time.perf_counter()

    def told(products: int) -> None:
        progress(stage, products, products + 1, "products")  # how many it takes nobody knows

    recorded = RecordedOperator(operator, folder, told, group)
    modes = top_modes(recorded, config.modes, tolerance=config.tolerance, seed=config.seed)
    progress(stage, recorded.products, recorded.products, "products")
    reduced = [mode_scores(vector, tokens.shape[0]) for vector in modes.spectrum.vectors.T]
    made = max(operator.products, 1)
    arrays: Arrays = {
        "values": modes.spectrum.values,
        "residuals": modes.residuals,
        "scores": np.stack([mode.scores for mode in reduced], axis=1),
        "shares": np.array([mode.share for mode in reduced]),
        "products": np.array(recorded.products),
        "seconds": np.array((time.perf_counter() - start) / made),
        "batch": np.array(operator.batch),
    }
    if is_first(group):
        write_arrays(done, arrays)
        shutil.rmtree(folder, ignore_errors=True)
    return arrays


def _stream_after(model: LanguageModel, tokens: mx.array, layer: int) -> Float64Array:
    parts = []
    for start in range(0, tokens.shape[0], _FORWARD):
        hidden = hidden_before(model, tokens[start : start + _FORWARD], layer, _FORWARD)
        parts.append(np.array(hidden_after(model, hidden, layer), dtype=np.float64))
    return np.concatenate(parts)


def _forward_seconds(model: LanguageModel, tokens: mx.array) -> float:
    """One forward pass of all layers over all inputs."""
    start = time.perf_counter()
    for begin in range(0, tokens.shape[0], _FORWARD):
        mx.eval(model.hidden(tokens[begin : begin + _FORWARD]))
    return time.perf_counter() - start


def leading_windows(
    scores: Float64Array, mode: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the inputs with the largest scores of a mode, and with the smallest."""
    order = np.argsort(scores[:, mode], kind="stable")
    return order[::-1][:count], order[:count]


def contexts_file(run: Run) -> Path:
    """Where a run keeps its contexts."""
    return run.path / "contexts.jsonl"


def headline(results: Json) -> dict[str, float | None]:
    """The figures of a run that a comparison sets side by side: mean average precisions."""
    return {
        f"layer {row['layer']}, {method}": found["average_precision"]["mean"]
        for row in results["layers"]
        for method, found in row["scores"].items()
    }
