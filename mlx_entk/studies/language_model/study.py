"""A language model: modes of its layers' kernels, and what they tell of the next word.

The operator S^{1/2} J_r J_rᵀ S^{1/2} of layer r, with J_r the Jacobian of the last hidden state at
the last position by the layer's weights and S = UᵀU of the unembedding U, has the eigenvalues of
the layerwise eNTK of the logits (Lin, arXiv 2510.00468v4, section on language models).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from mlx_entk._files import Arrays, digest
from mlx_entk._linalg import Float64Array
from mlx_entk._memory import default_limit
from mlx_entk._parameters import flatten_tree
from mlx_entk.controls import scaled
from mlx_entk.distributed import Group, is_first
from mlx_entk.errors import InputError
from mlx_entk.lm.contexts import (
    Context,
    LabelRule,
    halves,
    indicators,
    tokens_of,
    write_contexts,
)
from mlx_entk.lm.model import (
    LanguageModel,
    hidden_after,
    hidden_before,
    initialised,
    layer_function,
    square_root_of_readout,
)
from mlx_entk.lm.scoring import principal_scores, random_scores, score_labels
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.base import Headline
from mlx_entk.studies.estimate import Stage, seconds_of
from mlx_entk.studies.language_model.layers import FORWARD, LayerSolver, layer_operator
from mlx_entk.studies.language_model.records import (
    ENTK,
    ENTK_AT_INITIALISATION,
    PCA,
    PCA_OF_LOGITS,
    PCA_RAW,
    PCA_STANDARDISED,
    RANDOM,
    LayerResults,
    LMConfig,
    LMResults,
    contexts_file,
)

# Products that the solver takes for each mode, about.
_PRODUCTS_PER_MODE = 2.4

# The models whose modes are found.
_TRAINED, _INITIAL = "trained", "initialisation"

# The folder of a run that keeps every product until its layer is done.
PRODUCTS = "modes"


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
        raise InputError("there are no layers: name at least one")
    if not 0 < config.modes < len(contexts):
        raise InputError(f"modes is {config.modes}: {len(contexts)} contexts have fewer")
    largest = max(max(context.tokens) for context in contexts)
    vocabulary = model.unembedding.shape[0]
    if largest >= vocabulary:
        raise InputError(
            f"contexts has token {largest}, but the model has {vocabulary} tokens: the contexts "
            "were made with another tokenizer"
        )
    train, test = halves(len(contexts), config.seed)
    if not indicators(contexts, train, test, LabelRule()):
        raise InputError(f"contexts has no label to score: a label needs {LabelRule()}")
    tokens = {"tokens": tokens_of(contexts)}
    labels = {str(i): mx.array(list(str(c.labels).encode())) for i, c in enumerate(contexts)}
    return replace(
        config,
        contexts=digest(tokens | labels)[:16],
        weights=digest(flatten_tree(model.module.parameters()))[:16],
    )


def compute(
    config: LMConfig,
    run: Run,
    progress: Progress = silent,
    *,
    model: LanguageModel,
    contexts: Sequence[Context],
    memory_limit: int | None = None,
    group: Group | None = None,
) -> tuple[LMResults, Arrays] | None:
    """Find the modes of each layer's kernel, and score them by labels of the next word.

    Parameters
    ----------
    run
        Keeps every product until its layer is done, so that a killed run goes on from there.
    model, contexts
        As given to ``prepare``, whose configuration this is.
    memory_limit
        Bytes, by default half of what is available.
    group
        Ranks that share the work.

    Returns
    -------
    results, arrays
        None on the ranks beyond the first, which only help to find the modes.
    """
    limit = default_limit() if memory_limit is None else memory_limit
    tokens = tokens_of(contexts)
    if is_first(group):
        write_contexts(contexts_file(run), contexts)
    folder = run.file(PRODUCTS)
    solver = LayerSolver(config, tokens, folder, limit, progress, group)
    models: dict[str, Callable[[], LanguageModel]] = {
        _TRAINED: lambda: model,
        _INITIAL: lambda: initialised(model, config.seed),
    }
    rule = LabelRule()
    train, test = halves(len(contexts), config.seed)
    labels = indicators(contexts, train, test, rule)
    state, forward_seconds = _last_state(model, tokens)
    # Their principal directions are those of the logits themselves.
    logits = scaled(state @ np.array(square_root_of_readout(model.unembedding)), "centred")
    layers: list[LayerResults] = []
    arrays: Arrays = {}
    for layer in config.layers:
        trained, initial = (solver.modes(name, layer, make) for name, make in models.items())
        if trained is None or initial is None:
            continue  # this rank only helps
        progress(f"labels, layer {layer}", 0, 1)
        stream = _stream_after(model, tokens, layer)
        scores = {
            ENTK: trained.scores,
            PCA: principal_scores(scaled(stream, "centred"), config.modes),
            PCA_RAW: principal_scores(stream, config.modes),
            PCA_STANDARDISED: principal_scores(scaled(stream, "standardised"), config.modes),
            PCA_OF_LOGITS: principal_scores(logits, config.modes),
            RANDOM: random_scores(stream, config.modes, config.seed),
            ENTK_AT_INITIALISATION: initial.scores,
        }
        layers.append(
            LayerResults(
                layer=layer,
                values=trained.values.tolist(),
                residuals=trained.residuals.tolist(),
                shares=trained.shares.tolist(),
                products=trained.products,
                product_seconds=trained.seconds,
                batch=trained.batch,
                scores={
                    method: score_labels(of_method, labels, train, test, config.seed)
                    for method, of_method in scores.items()
                },
            )
        )
        arrays[f"values/layer-{layer}"] = trained.values
        arrays[f"scores/layer-{layer}"] = trained.scores
        progress(f"labels, layer {layer}", 1, 1)
    if not is_first(group):
        return None
    results = LMResults(
        config=config,
        inputs=len(contexts),
        window=tokens.shape[1],
        label_rule=str(rule),
        labels={label: int(mask.sum()) for label, mask in labels.items()},
        forward_seconds=forward_seconds,
        layers=layers,
    )
    return results, arrays


def estimate(
    config: LMConfig,
    *,
    model: LanguageModel,
    contexts: Sequence[Context],
    memory_limit: int | None = None,
) -> list[Stage]:
    """What ``compute`` would take on this device, by one product of the first layer."""
    limit = default_limit() if memory_limit is None else memory_limit
    tokens = tokens_of(contexts)[:FORWARD]
    operator = layer_operator(model, config, min(config.layers), tokens, limit)
    vector = np.ones(operator.shape[0])
    operator @ vector  # compiles
    one = seconds_of(lambda: operator @ vector) * len(contexts) / tokens.shape[0]
    products = round(_PRODUCTS_PER_MODE * config.modes) * len(config.layers) * 2
    return [Stage("products, trained and at initialisation", products, products * one, limit)]


def _stream_after(model: LanguageModel, tokens: mx.array, layer: int) -> Float64Array:
    """The residual stream after a layer at the last position, shape (N, d)."""
    parts = []
    for start in range(0, tokens.shape[0], FORWARD):
        hidden = hidden_before(model, tokens[start : start + FORWARD], layer, FORWARD)
        parts.append(np.array(hidden_after(model, hidden, layer), dtype=np.float64))
    return np.concatenate(parts)


def _last_state(model: LanguageModel, tokens: mx.array) -> tuple[Float64Array, float]:
    """The last hidden state at the last position, shape (N, d), and the seconds that it takes."""
    start = time.perf_counter()
    parts = []
    for begin in range(0, tokens.shape[0], FORWARD):
        hidden = model.hidden(tokens[begin : begin + FORWARD])
        mx.eval(hidden)
        parts.append(np.array(hidden.astype(mx.float32), dtype=np.float64))
    return np.concatenate(parts), time.perf_counter() - start


def headline(results: LMResults) -> Headline:
    """The numbers of a run by which it is compared with others: mean average precisions."""
    numbers: Headline = {}
    for row in results.layers:
        for method, scores in row.scores.items():
            numbers[f"layer {row.layer}, {method}"] = scores.average_precision.mean
        numbers[f"layer {row.layer}, eNTK beyond the best PCA"] = row.margin
    return numbers
