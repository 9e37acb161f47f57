"""A language model: modes of its layers' kernels, and what they tell of the next word.

The operator S^½ J_r J_rᵀ S^½ of layer r, with J_r the Jacobian of the last hidden state at
the last position by the layer's weights and S = UᵀU of the unembedding U, has the eigenvalues of
the layerwise eNTK of the logits (Lin, arXiv 2510.00468v4, section on language models).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_entk._files import Arrays, digest, digest_of_file, write_arrays
from mlx_entk._linalg import Float64Array
from mlx_entk._memory import default_limit, peak_bytes
from mlx_entk._parameters import flatten_tree
from mlx_entk.controls import scaled
from mlx_entk.distributed import Group, is_first
from mlx_entk.errors import InputError
from mlx_entk.lm.contexts import (
    Context,
    LabelRule,
    documents_of,
    in_every_half,
    indicators,
    splits,
    tokens_of,
    write_contexts,
)
from mlx_entk.lm.generation import adds_bos, beginning, perplexities
from mlx_entk.lm.model import (
    LanguageModel,
    hidden_before,
    initialised,
    layer_function,
    square_root_of_readout,
)
from mlx_entk.lm.probes import judge_probes
from mlx_entk.lm.sae import SparseAutoencoder, read_autoencoder
from mlx_entk.lm.scoring import (
    Half,
    LabelScores,
    Mask,
    Scorer,
    principal_scores,
    random_scores,
)
from mlx_entk.lm.streams import Streams, last_streams
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.base import Headline
from mlx_entk.studies.estimate import Stage, shortest, stage_of_report
from mlx_entk.studies.language_model.layers import (
    FORWARD,
    LayerModes,
    LayerSolver,
    layer_operator,
    readout_of,
)
from mlx_entk.studies.language_model.records import (
    ENTK,
    ENTK_AT_INITIALISATION,
    MORPHOLOGY,
    PARTS_OF_SPEECH,
    PCA,
    PCA_NORMALISED,
    PCA_OF_INPUT,
    PCA_OF_LOGITS,
    PCA_OF_STATE,
    PCA_RAW,
    PCA_STANDARDISED,
    PROBE,
    RANDOM,
    SAE,
    SHUFFLED,
    LayerResults,
    LMConfig,
    LMResults,
    contexts_file,
    vectors_file,
    write_token_texts,
)

# Products that the solver takes for each mode, about, if it may take as many as it needs.
_PRODUCTS_PER_MODE = 3.0

# Windows whose perplexity is found, evenly spaced: logits at every position of a large vocabulary
# take longer than all other passes. And those that are tried for an estimate.
_PERPLEXITIES, _FEW = 128, 8
# Panels of a report, in addition to one for each layer.
_PANELS = 6

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
        few contexts for the modes, labels of which none passes the rule, or a sparse autoencoder
        that does not fit.
    """
    if not config.layers:
        raise InputError("there are no layers: name at least one")
    for layer in config.layers:
        layer_function(model, layer, config.selection, None)
    if not 0 < config.modes < len(contexts):
        raise InputError(f"modes is {config.modes}: {len(contexts)} contexts have fewer")
    if config.products is not None and config.products <= config.modes:
        raise InputError(f"products is {config.products}: it must be above {config.modes} modes")
    if config.splits < 2:
        raise InputError(f"splits is {config.splits}: at least 2 are needed")
    largest = max(max(context.tokens) for context in contexts)
    vocabulary = model.unembedding.shape[0]
    if largest >= vocabulary:
        raise InputError(
            f"contexts has token {largest}, but the model has {vocabulary} tokens: the contexts "
            "were made with another tokenizer"
        )
    if not labels_and_halves(config, contexts)[0]:
        raise InputError(
            f"contexts has no label to score: a label needs {LabelRule()}, and windows of several "
            "documents"
        )
    autoencoders = _autoencoders(config, model)
    tokens = {"tokens": tokens_of(contexts)}
    labels = {str(i): mx.array(list(str(c.labels).encode())) for i, c in enumerate(contexts)}
    return replace(
        config,
        contexts=digest(tokens | labels)[:16],
        weights=digest(flatten_tree(model.module.parameters()))[:16],
        autoencoders=" ".join(digest_of_file(path)[:16] for path, _ in autoencoders.values()),
        ahead=beginning(model, config.bos),
    )


def _autoencoders(
    config: LMConfig, model: LanguageModel
) -> dict[int, tuple[Path, SparseAutoencoder]]:
    """Sparse autoencoders by layer."""
    found = {}
    for text in config.sae:
        number, _, file = text.partition("=")
        if not number.isdigit() or int(number) not in config.layers:
            raise InputError(
                f"sae is {text}: write LAYER=FILE, with one of the layers "
                f"{', '.join(map(str, config.layers))}"
            )
        width = model.unembedding.shape[1]
        found[int(number)] = Path(file), read_autoencoder(Path(file), width)
    return found


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
    tokens = tokens_of(contexts, config.ahead)
    if is_first(group):
        write_contexts(contexts_file(run), contexts)
        write_token_texts(run, _token_texts(model, tokens))
    folder = run.file(PRODUCTS)
    solver = LayerSolver(config, tokens, folder, limit, progress, group)
    found: dict[int, tuple[LayerModes, LayerModes | None]] = {}
    for layer in config.layers:
        trained = solver.modes(_TRAINED, layer, lambda: model, explained=True)
        initial = (
            solver.modes(_INITIAL, layer, lambda: initialised(model, config.seed), explained=False)
            if config.initial
            else None
        )
        if trained is not None:
            found[layer] = trained, initial
    if not is_first(group):
        return None  # this rank only helped

    labels, halves = labels_and_halves(config, contexts)
    families = _families(list(labels))
    documents = documents_of(contexts)
    scorer = Scorer.of(labels, families, halves, documents, config.seed)
    streams = last_streams(model, tokens, config.layers, config.selection, FORWARD, progress)
    judged = np.linspace(0, len(contexts) - 1, min(_PERPLEXITIES, len(contexts))).astype(np.int64)
    perplexity = perplexities(model, tokens[mx.array(judged)], len(config.ahead))
    logits = streams.final @ np.array(square_root_of_readout(model.unembedding), dtype=np.float64)
    autoencoders = _autoencoders(config, model)
    layers: list[LayerResults] = []
    arrays: Arrays = {"perplexity/windows": judged, "perplexity/values": perplexity}
    for number, (layer, (trained, initial)) in enumerate(found.items()):
        progress("labels", number, len(found))
        directions = _directions(config, streams, layer, logits, trained, initial)
        scores = _scored(scorer, directions, config.seed)
        output = scaled(streams.outputs[layer], "standardised")
        scores[PROBE] = scorer.summarised(judge_probes(output, scorer.masks, halves))
        if layer in autoencoders:
            latents = autoencoders[layer][1].scores(streams.outputs[layer])
            if latents.shape[1]:
                scores[SAE] = scorer.summarised(scorer.judge_once(latents, signs=(1,)))
        layers.append(
            LayerResults(
                layer=layer,
                values=trained.values.tolist(),
                residuals=trained.residuals.tolist(),
                shares=trained.shares.tolist(),
                products=trained.products,
                product_seconds=trained.seconds,
                batch=trained.batch,
                initial_residual=None if initial is None else float(initial.residuals.max()),
                scores=scores,
            )
        )
        arrays[f"values/layer-{layer}"] = trained.values
        arrays[f"scores/layer-{layer}"] = trained.scores
        arrays[f"ends/layer-{layer}"] = trained.ends
        arrays[f"positions/layer-{layer}"] = trained.positions
        write_arrays(vectors_file(run, layer), {"vectors": trained.vectors})
    progress("labels", len(found), len(found))
    results = LMResults(
        config=config,
        inputs=len(contexts),
        window=len(contexts[0].tokens),
        documents=len(set(documents.tolist())),
        perplexity=float(np.median(perplexity)),
        tokenizer_adds_bos=adds_bos(model),
        label_rule=str(LabelRule()),
        labels={label: int(mask.sum()) for label, mask in labels.items()},
        families=families,
        forward_seconds=streams.seconds,
        notes=list(model.notes),
        layers=layers,
    )
    return results, arrays


def labels_and_halves(
    config: LMConfig, contexts: Sequence[Context]
) -> tuple[dict[str, Mask], list[tuple[Half, Half]]]:
    """The labels to score, and the splits."""
    halves = splits(contexts, config.splits, config.seed)
    return in_every_half(indicators(contexts, LabelRule()), halves), halves


def _token_texts(model: LanguageModel, tokens: mx.array) -> dict[str, str]:
    """The text of each token that occurs, with its spaces; nothing without a tokenizer."""
    if model.tokenizer is None:
        return {}
    occurring = np.unique(np.array(tokens)).tolist()
    return {str(token): str(model.tokenizer.decode([token])) for token in occurring}


def _families(labels: Sequence[str]) -> dict[str, list[str]]:
    """Labels by family: word classes, and all others."""
    classes = [label for label in labels if label.startswith("upos=")]
    others = [label for label in labels if label not in classes]
    families = {PARTS_OF_SPEECH: classes, MORPHOLOGY: others}
    return {name: members for name, members in families.items() if members}


def _directions(
    config: LMConfig,
    streams: Streams,
    layer: int,
    logits: Float64Array,
    trained: LayerModes,
    initial: LayerModes | None,
) -> dict[str, Float64Array]:
    """Scores of the windows along each kind of directions, shape (N, k) each."""
    output = streams.outputs[layer]
    norms = np.sqrt((output**2).mean(axis=1, keepdims=True))
    normalised = output / np.where(norms > 0, norms, 1)

    def principal(values: Float64Array) -> Float64Array:
        return principal_scores(values, config.modes)

    directions = {
        ENTK: trained.scores,
        PCA_RAW: principal(output),
        PCA: principal(scaled(output, "centred")),
        PCA_STANDARDISED: principal(scaled(output, "standardised")),
        PCA_NORMALISED: principal(scaled(normalised, "centred")),
        PCA_OF_STATE: principal(scaled(streams.final, "centred")),
        # Of S^½h, whose principal directions are those of the logits.
        PCA_OF_LOGITS: principal(scaled(logits, "centred")),
        RANDOM: random_scores(output, config.modes, config.seed),
    }
    if layer in streams.inputs:
        directions[PCA_OF_INPUT] = principal(scaled(streams.inputs[layer], "standardised"))
    if initial is not None:
        directions[ENTK_AT_INITIALISATION] = initial.scores
    return directions


def _scored(
    scorer: Scorer, directions: Mapping[str, Float64Array], seed: int
) -> dict[str, LabelScores]:
    """How well each kind of directions tells labels, and how far the eNTK's lie ahead."""
    about = scorer.judge(directions[ENTK])
    scores = {ENTK: scorer.summarised(*about)}
    for name, values in directions.items():
        if name != ENTK:
            scores[name] = scorer.summarised(*scorer.judge(values), about)
    shuffled = scorer.shuffled(seed)
    scores[SHUFFLED] = shuffled.summarised(shuffled.judge_once(directions[ENTK]))
    return scores


def estimate(
    config: LMConfig,
    *,
    model: LanguageModel,
    contexts: Sequence[Context],
    memory_limit: int | None = None,
) -> list[Stage]:
    """What ``compute`` and a report would take on this device, by what some windows take.

    A product takes in proportion to the layers above, so that one of the middle layer stands for
    all.
    """
    limit = default_limit() if memory_limit is None else memory_limit
    tokens = tokens_of(contexts, config.ahead)[:FORWARD]
    times = len(contexts) / tokens.shape[0]
    layer = sorted(config.layers)[len(config.layers) // 2]
    hidden = hidden_before(model, tokens, layer, FORWARD)
    readout = readout_of(model, tokens, limit)
    before = mx.get_active_memory()
    operator = layer_operator(model, config, layer, hidden, readout, limit)
    vector = np.ones(operator.shape[0])
    working = peak_bytes(lambda: operator @ vector)  # compiles
    kept = max(0, mx.get_active_memory() - before)
    one = shortest(lambda: operator @ vector) * times
    passing = peak_bytes(lambda: mx.eval(model.hidden(tokens)))
    forward = shortest(lambda: mx.eval(model.hidden(tokens))) * times
    few = tokens[:_FEW]
    predicting = peak_bytes(lambda: perplexities(model, few, len(config.ahead)))
    predicted = shortest(lambda: perplexities(model, few, len(config.ahead)))
    predicted *= min(_PERPLEXITIES, len(contexts)) / few.shape[0]
    each = config.products or round(_PRODUCTS_PER_MODE * config.modes)
    models = 2 if config.initial else 1
    what = "products, trained and at initialisation" if config.initial else "products"
    products = each * len(config.layers) * models
    passes = len(config.layers) * models + 1
    # What is kept of every window, and the vectors of the solver, of which it needs about two for
    # each mode.
    vectors = 8 * vector.size * times * 2 * (config.modes + 1)
    memory = working + min(limit, kept * times) + vectors + hidden.nbytes * times
    return [
        Stage(what, products, products * one, int(memory)),
        Stage("forward passes", passes, passes * forward, passing),
        Stage("perplexity", 1, predicted, predicting),
        stage_of_report(len(config.layers) + _PANELS),
    ]


def headline(results: LMResults) -> Headline:
    """The numbers of a run by which it is compared with others: mean average precisions."""
    numbers: Headline = {}
    for row in results.layers:
        for family in results.families:
            for method, scores in row.scores.items():
                mean = scores.macros[family].average_precision.mean
                numbers[f"layer {row.layer}, {family}, {method}"] = mean
    return numbers
