"""Steps along a run's modes: what they do to the next words that the model expects.

For each label, a mode is chosen on one half of the windows, and so are the label's words and the
sense of every direction (which of its two signs is predicted to raise these words). What a step
does is measured on the other half, and its price on text that the run does not know.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._files import digest, digest_of_texts, read_arrays, read_json, write_json
from mlx_entk._linalg import Float64Array
from mlx_entk._memory import default_limit
from mlx_entk._parameters import flatten_tree
from mlx_entk._records import from_json, to_json
from mlx_entk.controls import scaled
from mlx_entk.errors import InputError
from mlx_entk.lm.contexts import Context, read_contexts, tokens_of
from mlx_entk.lm.generation import encoder
from mlx_entk.lm.held_out import first_tokens, other_windows, words_of
from mlx_entk.lm.model import LanguageModel, hidden_before
from mlx_entk.lm.scoring import Mask, Weightings, judge, mode_scores
from mlx_entk.lm.steps import (
    Above,
    Weight,
    input_direction,
    likeliest,
    log_mass_gradient,
    log_masses,
    mode_direction,
    perplexity,
    random_direction,
)
from mlx_entk.lm.streams import last_inputs
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.language_model.layers import FORWARD, layer_operator, readout_of
from mlx_entk.studies.language_model.records import LMConfig, LMResults, contexts_file, vectors_file
from mlx_entk.studies.language_model.study import labels_and_halves

# Labels whose modes are stepped along unless labels are named.
_LABELS = 5
# Doses of a grid that is looked for: from one at which no mode changes the perplexity by more than
# the first share to one at which a random direction changes it by the second.
_DOSES, _LEAST, _MOST = 9, 0.01, 1.0
_SMALLEST, _LARGEST = 2.0**-14, 4.0
# How close to the price a step has to come, and how often it is tried.
_NEAR, _TRIES = 0.1, 8
# Windows that are shown for a label, and next tokens of each.
_SHOWN, _TOKENS = 3, 5

_FILE, _SCRATCH = "steps.json", "steps"

Kind = Literal["mode", "input", "random"]


@dataclass(frozen=True)
class StepSettings:
    """Which steps to take.

    Attributes
    ----------
    layer
        Number of the layer; None for the run's best one.
    labels
        Labels whose modes to step along; none for the five that modes tell best on the half on
        which they are chosen.
    doses
        Sizes ε of the steps in units of the weight's norm; none to look for a grid.
    price
        The rise of the perplexity at which directions are compared, as a share.
    random
        Random directions, at least 20.
    windows
        The most windows that effects are measured on.
    price_windows
        Windows of other text.
    seed
        Seed of the random directions and of the other text.
    """

    layer: int | None = None
    labels: tuple[str, ...] = ()
    doses: tuple[float, ...] = ()
    price: float = 0.05
    random: int = 20
    windows: int = 256
    price_windows: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        if self.random < 20:
            raise InputError(f"random is {self.random}: a middle 90% needs at least 20 directions")
        if not all(0 < dose < float("inf") for dose in self.doses):
            raise InputError("doses must be positive: each is taken with both signs")
        if not 0 < self.price <= _MOST:
            raise InputError(f"price is {self.price:g}: it must be above 0 and at most {_MOST:g}")
        if min(self.windows, self.price_windows) < 4:
            raise InputError("windows and price windows must be at least 4")


@dataclass(frozen=True)
class Change:
    """What a step does to a label's words: differences from the model as it is.

    Attributes
    ----------
    log_mass, log_mass_others
        Of the mean logarithm of their probability, on windows with the label and on the others.
    mass, mass_others
        Of their mean probability.
    """

    log_mass: float
    log_mass_others: float
    mass: float
    mass_others: float

    @property
    def selectivity(self) -> float:
        """How much more the logarithm changes on windows with the label."""
        return self.log_mass - self.log_mass_others


@dataclass(frozen=True)
class Step:
    """One step along a direction.

    Attributes
    ----------
    dose
        Its size ε in units of the weight's norm, with its sign.
    price
        The rise of the perplexity, as a share.
    changes
        By label.
    """

    dose: float
    price: float
    changes: dict[str, Change]


@dataclass(frozen=True)
class Direction:
    """Steps along one direction.

    Attributes
    ----------
    name
        What it is called.
    kind
        A mode, the control of a mode by the weight's input, or a random one.
    mode
        Number of the mode that it is, or is the control of.
    senses
        By label, the sign that is predicted to raise its words, on the half to choose on: on
        windows of each of two folds the words of the other.
    slopes
        By label, the first-order prediction: change of the mean logarithm per unit of dose on the
        windows with the label, on the half to measure on.
    steps
        In order of the dose; beyond the first one that doubles the perplexity there are none.
    at_price
        By sign, the step that costs the price; a sign is missing if none of the doses does.
    """

    name: str
    kind: Kind
    mode: int | None
    senses: dict[str, int]
    slopes: dict[str, float]
    steps: list[Step]
    at_price: dict[str, Step]

    def at(self, label: str, sense: int) -> Step | None:
        """The step at the price that is to raise a label's words, or with −1 to lower them."""
        return self.at_price.get(_sign(sense * self.senses[label]))

    def path(self, label: str, sense: int) -> list[Step]:
        """The steps that are to raise a label's words, or with −1 to lower them, smallest first."""
        sign = sense * self.senses[label]
        return sorted((s for s in self.steps if s.dose * sign > 0), key=lambda s: abs(s.dose))


@dataclass(frozen=True)
class Example:
    """A window and its likeliest next tokens, as text with probabilities.

    Attributes
    ----------
    text
        The end of the window.
    word
        The word that follows there.
    before, raised, lowered
        Of the model as it is, and after the steps at the price; empty if there is none.
    """

    text: str
    word: str
    before: list[tuple[str, float]]
    raised: list[tuple[str, float]]
    lowered: list[tuple[str, float]]


@dataclass(frozen=True)
class LabelSteps:
    """A label, its words and its mode.

    Attributes
    ----------
    label
        ``name=value``.
    words
        Tokens with which its words begin.
    mode, end
        The mode that tells it best on the half to choose on, and at which end it is.
    precision
        Average precision there, and share of the label.
    windows, others
        Windows that effects are measured on, with the label and without.
    mass, mass_others
        Mean probability of its words there, of the model as it is.
    examples
        Windows with the label, those that the mode scores highest at its end.
    """

    label: str
    words: list[str]
    mode: int
    end: int
    precision: float
    windows: int
    others: int
    mass: float
    mass_others: float
    examples: list[Example]


@dataclass(frozen=True)
class StepResults:
    """What steps along modes of a layer do.

    Attributes
    ----------
    settings
        What was asked for, with the layer, labels and doses that were taken.
    request
        A digest of all that this was computed from.
    weight
        Name of the weight.
    chosen_on, measured_on
        Windows of the two halves that were used.
    perplexity
        Of the other text, by the model as it is.
    labels
        In the order of the settings.
    directions
        Modes, then their controls, then random ones.
    """

    settings: StepSettings
    request: str
    weight: str
    chosen_on: int
    measured_on: int
    perplexity: float
    labels: list[LabelSteps]
    directions: list[Direction]

    @property
    def modes(self) -> dict[int, Direction]:
        """The modes' directions by their number."""
        return {d.mode: d for d in self.directions if d.kind == "mode" and d.mode is not None}

    def input_of(self, mode: int) -> Direction | None:
        """The control by the weight's input of a mode; None if the input is unknown."""
        found = (d for d in self.directions if d.kind == "input" and d.mode == mode)
        return next(found, None)

    @property
    def random(self) -> list[Direction]:
        """The random directions."""
        return [d for d in self.directions if d.kind == "random"]


def _sign(value: float) -> str:
    return "+" if value > 0 else "-"


def steps_of(run: Run) -> StepResults | None:
    """What steps along a run's modes did; None if none were taken.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    path = run.file(_FILE)
    if not path.exists():
        return None
    return from_json(StepResults, read_json(path), str(path))


def steps_of_run(
    run: Run,
    results: LMResults,
    model: LanguageModel,
    texts: Sequence[str],
    settings: StepSettings,
    progress: Progress = silent,
    memory_limit: int | None = None,
) -> StepResults:
    """Take steps along modes of a finished run, and write what they do to its steps.json.

    Every direction is kept until all are done, so that the same call goes on after a kill; one
    with other settings begins anew.

    Parameters
    ----------
    run, results
        The run, which the caller holds by ``run.session()``, and its results.
    model
        The run's model.
    texts
        Text for the price. Of what the run's windows are from, only passages count that are not
        in them.
    settings
        Which steps.
    memory_limit
        Bytes for the products by which the directions of modes are found; None is half of what is
        available.

    Raises
    ------
    InputError
        If the run keeps no modes, is of several weights, or was made of another model; for a layer
        or a label that it does not have; or if the texts are too short.
    """
    settings, config = _checked(settings, results), results.config
    assert settings.layer is not None
    vectors = _vectors(run, config, settings.layer, results.inputs)
    if digest(flatten_tree(model.module.parameters()))[:16] != config.weights:
        raise InputError(f"{run.path} was made of another model than the one that is given")
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer, which the words of labels need")
    request = digest_of_texts([str(to_json(settings)), str(run.config), *texts])
    stored = steps_of(run)
    if stored is not None and stored.request == request:
        return stored
    contexts = read_contexts(contexts_file(run))
    plan = _Plan.of(run, config, settings, model, contexts, texts, progress)
    directions = _directions(plan, config, vectors, results, settings, memory_limit, progress)
    scratch = _Scratch(run.file(_SCRATCH), request)
    doses = settings.doses or scratch.doses(lambda: _grid(plan, directions, progress))
    settings = replace(settings, doses=tuple(sorted(set(doses))), labels=tuple(plan.labels))
    found = []
    for number, drawn in enumerate(directions):
        progress("steps", number, len(directions), drawn.name)
        found.append(scratch.direction(number, partial(_taken, plan, settings, drawn)))
    progress("steps", len(directions), len(directions))
    taken = StepResults(
        settings=settings,
        request=request,
        weight=plan.weight.name,
        chosen_on=len(plan.chosen),
        measured_on=len(plan.measured),
        perplexity=plan.base_perplexity,
        labels=[_label_steps(plan, label, found, directions) for label in plan.labels],
        directions=found,
    )
    write_json(run.file(_FILE), to_json(taken))
    scratch.remove()
    return taken


def _checked(settings: StepSettings, results: LMResults) -> StepSettings:
    config, layers = results.config, [row.layer for row in results.layers]
    if len(config.selection) != 1:
        raise InputError(
            f"the run is about {', '.join(config.selection)} together, and steps are taken in one "
            "weight: run it with a single --select"
        )
    layer = results.best.layer if settings.layer is None else settings.layer
    if layer not in layers:
        raise InputError(f"the run has no layer {layer}: it has {', '.join(map(str, layers))}")
    unknown = [label for label in settings.labels if label not in results.labels]
    if unknown:
        raise InputError(
            f"the run scores no {', '.join(unknown)}: it has {', '.join(results.labels)}"
        )
    return replace(settings, layer=layer, labels=tuple(dict.fromkeys(settings.labels)))


def _vectors(run: Run, config: LMConfig, layer: int, N: int) -> NDArray[np.float32]:
    path = vectors_file(run, layer)
    if not path.exists():
        raise InputError(
            f"{run.path} does not keep its modes, as runs of earlier versions did not: run its "
            "command again with another --out"
        )
    vectors = read_arrays(path).get("vectors")
    if vectors is None or vectors.ndim != 2 or vectors.shape[1] != config.modes or len(vectors) % N:
        raise InputError(f"{path} is damaged: it does not hold the {config.modes} modes of the run")
    return vectors


@dataclass(frozen=True)
class _Drawn:
    """A direction to take steps along; random ones are drawn again whenever they are needed."""

    name: str
    kind: Kind
    mode: int | None
    make: Callable[[], mx.array]


@dataclass(frozen=True)
class _Plan:
    """What steps are measured by.

    Attributes
    ----------
    weight
        The weight.
    labels
        By label, the mode, the end and the precision by which it was chosen.
    masks
        Which of all windows have each label.
    words
        Tokens of each label's words.
    chosen, measured
        Numbers of the windows of the two halves.
    all_hidden, above
        What the layer reads on all windows, and what stands above it on the measured ones.
    gradients
        By label the gradients of the mean log-probability of its words: on the half to choose on,
        of windows of each of two folds by the words of the other; and on the other half.
    text, above_text
        The other text, and what stands above the layer on it.
    base, base_perplexity
        Log-probabilities of each label's words on the measured windows, shape (L, n), and the
        perplexity of the other text, by the model as it is.
    """

    weight: Weight
    contexts: Sequence[Context]
    tokens: mx.array
    all_hidden: mx.array
    ahead: int
    scores: Float64Array
    labels: dict[str, tuple[int, int, float]]
    masks: Mapping[str, Mask]
    words: dict[str, list[int]]
    chosen: NDArray[np.int64]
    measured: NDArray[np.int64]
    above: Above
    gradients: dict[str, tuple[Float64Array, Float64Array]]
    text: mx.array
    above_text: Above
    base: Float64Array
    base_perplexity: float

    @classmethod
    def of(
        cls,
        run: Run,
        config: LMConfig,
        settings: StepSettings,
        model: LanguageModel,
        contexts: Sequence[Context],
        texts: Sequence[str],
        progress: Progress,
    ) -> "_Plan":
        """Choose modes, words and windows, and measure the model as it is."""
        assert settings.layer is not None
        layer = settings.layer
        masks, halves = labels_and_halves(config, contexts)
        scores = run.arrays[f"scores/layer-{layer}"]
        labels = _chosen_modes(masks, halves[:1], scores, settings.labels)
        generator = np.random.default_rng([settings.seed, 1])
        chosen, measured = (
            np.sort(generator.permutation(half)[: settings.windows]) for half in halves[0]
        )
        for label in labels:
            if not 0 < masks[label][measured].sum() < len(measured):
                raise InputError(
                    f"of {len(measured)} windows to measure on, all or none have {label}: raise "
                    "the number of windows"
                )
        weight = Weight(model, layer, config.selection[0])
        tokens = tokens_of(contexts, config.ahead)
        all_hidden = hidden_before(model, tokens, layer, FORWARD)
        progress("windows", 1, 2)
        above = Above(weight, all_hidden[mx.array(measured)], last=True)
        states = Above(weight, all_hidden[mx.array(chosen)], last=True).states(weight.value)
        first = first_tokens(model, [contexts[i] for i in chosen], mx.concatenate(list(states)))
        words = {label: words_of(first, masks[label][chosen]) for label in labels}
        if silent_ones := [label for label, tokens in words.items() if not tokens]:
            raise InputError(f"the words of {', '.join(silent_ones)} are unknown in the contexts")
        text = other_windows(
            texts, encoder(model), contexts, config.ahead, settings.price_windows, settings.seed
        )
        above_text = Above(weight, hidden_before(model, text, layer, FORWARD), last=False)

        def gradient(label: str, windows: NDArray[np.int64], tokens: Sequence[int]) -> Float64Array:
            with_label = windows[masks[label][windows]]
            shares = np.full(len(with_label), 1 / len(with_label))
            rows = all_hidden[mx.array(with_label)]
            return log_mass_gradient(weight, rows, mx.array(list(tokens)), shares)

        def out_of_fold(label: str) -> Float64Array:
            # A window's own word is probable there: whether a step raises the others' tells more.
            places, total = np.flatnonzero(masks[label][chosen]), np.zeros(weight.value.shape)
            for number in range(2):
                here, other = places[number::2], places[1 - number :: 2]
                if len(here):
                    of_other = [token for i in other if (token := first[i]) is not None]
                    tokens = sorted(set(of_other)) or words[label]
                    total += len(here) / len(places) * gradient(label, chosen[here], tokens)
            return total

        gradients = {
            label: (out_of_fold(label), gradient(label, measured, words[label])) for label in labels
        }
        progress("windows", 2, 2)
        return cls(
            weight=weight,
            contexts=contexts,
            tokens=tokens,
            all_hidden=all_hidden,
            ahead=len(config.ahead),
            scores=scores,
            labels=labels,
            masks=masks,
            words=words,
            chosen=chosen,
            measured=measured,
            above=above,
            gradients=gradients,
            text=text,
            above_text=above_text,
            base=log_masses(above, weight.value, [mx.array(t) for t in words.values()]),
            base_perplexity=perplexity(above_text, weight.value, text, len(config.ahead)),
        )  # fmt: skip

    def price(self, direction: mx.array, dose: float) -> float:
        """The rise of the other text's perplexity by a step, as a share."""
        value = self.weight.stepped(direction, dose)
        found = perplexity(self.above_text, value, self.text, self.ahead)
        return found / self.base_perplexity - 1

    def changes(self, direction: mx.array, dose: float) -> dict[str, Change]:
        """What a step does to each label's words."""
        value = self.weight.stepped(direction, dose)
        words = [mx.array(tokens) for tokens in self.words.values()]
        after = log_masses(self.above, value, words)
        found = {}
        for label, new, old in zip(self.words, after, self.base, strict=True):
            has = self.masks[label][self.measured]
            log, mass = new - old, np.exp(new) - np.exp(old)
            found[label] = Change(
                float(log[has].mean()), float(log[~has].mean()),
                float(mass[has].mean()), float(mass[~has].mean()),
            )  # fmt: skip
        return found


def _chosen_modes(
    masks: Mapping[str, Mask],
    halves: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    scores: Float64Array,
    asked: Sequence[str],
) -> dict[str, tuple[int, int, float]]:
    """By label, the mode, the end and the precision on the half to choose on."""
    judged = judge(
        scores, np.stack(list(masks.values())), Weightings.of_splits(halves, len(scores)), (1, -1)
    )
    found = {
        label: (int(judged.direction[i, 0]), int(judged.sign[i, 0]),
                float(judged.chosen_precision[i, 0]))
        for i, label in enumerate(masks)
    }  # fmt: skip
    best = sorted(found, key=lambda label: -found[label][2])[:_LABELS]
    return {label: found[label] for label in asked or best}


def _directions(
    plan: _Plan,
    config: LMConfig,
    vectors: NDArray[np.float32],
    results: LMResults,
    settings: StepSettings,
    memory_limit: int | None,
    progress: Progress,
) -> list[_Drawn]:
    """The labels' modes and the leading one, their controls, and random directions."""
    weight, limit = plan.weight, default_limit() if memory_limit is None else memory_limit
    (row,) = [row for row in results.layers if row.layer == weight.layer]
    modes = sorted({0, *(mode for mode, _, _ in plan.labels.values())})
    if len(modes) == 1 and config.modes > 1:
        modes.append(1)  # to compare with
    readout = readout_of(weight.model, plan.tokens, limit)
    operator = layer_operator(weight.model, config, weight.layer, plan.all_hidden, readout, limit)
    known: dict[int, mx.array] = {}
    for number, mode in enumerate(modes):
        progress("directions", number, len(modes))
        vector = vectors[:, mode].astype(np.float64)
        scores = mode_scores(vector, len(plan.scores)).scores
        if not abs(scores @ plan.scores[:, mode]) >= 0.99 * (scores @ scores):
            raise InputError(
                f"mode {mode} of layer {weight.layer} is not the one that the run's scores are of: "
                "the run was altered"
            )
        known[mode] = mode_direction(operator, vector, row.values[mode])
    progress("directions", len(modes), len(modes))
    drawn = [
        _Drawn(f"mode {mode}", "mode", mode, partial(_as_it_is, u)) for mode, u in known.items()
    ]
    inputs = last_inputs(weight.model, plan.all_hidden, weight.layer, weight.name, FORWARD)
    if inputs is not None:
        inputs = scaled(inputs, "centred")
        components = np.linalg.svd(inputs, full_matrices=False)[2][: config.modes]
        pairs = [(row.values[mode], u) for mode, u in known.items()]
        for mode, u in known.items():
            array, number = input_direction(u, components, pairs)
            name = f"input PC {number} for mode {mode}"
            drawn.append(_Drawn(name, "input", mode, partial(_as_it_is, array)))
    shape = tuple(weight.value.shape)
    for i in range(settings.random):
        make = partial(random_direction, shape, (settings.seed, 2, i))
        drawn.append(_Drawn(f"random {i}", "random", None, make))
    return drawn


def _as_it_is(array: mx.array) -> mx.array:
    return array


def _grid(plan: _Plan, directions: Sequence[_Drawn], progress: Progress) -> tuple[float, ...]:
    """Doses from where modes cost next to nothing to where a random direction costs a lot."""
    modes = [drawn.make() for drawn in directions if drawn.kind == "mode"]
    random = next(drawn.make() for drawn in directions if drawn.kind == "random")
    smallest = []
    for number, direction in enumerate(modes):
        progress("doses", number, len(modes) + 1)
        smallest.append(_first_beyond(plan, direction, _LEAST, _SMALLEST) / 2)
    progress("doses", len(modes), len(modes) + 1)
    least = min(smallest)
    most = max(_first_beyond(plan, random, _MOST, least), 8 * least)
    progress("doses", len(modes) + 1, len(modes) + 1)
    return tuple(float(f"{dose:.3g}") for dose in np.geomspace(least, most, _DOSES))


def _first_beyond(plan: _Plan, direction: mx.array, price: float, start: float) -> float:
    """The first of doubled doses, with either sign, that changes the perplexity by so much."""
    dose = start
    while dose < _LARGEST:
        if max(abs(plan.price(direction, sign * dose)) for sign in (1, -1)) > price:
            break
        dose *= 2
    return dose


def _taken(plan: _Plan, settings: StepSettings, drawn: _Drawn) -> Direction:
    """Steps along a direction, at all doses and at the price."""
    direction, norm = drawn.make(), plan.weight.norm
    flat = np.array(direction, dtype=np.float64)
    predicted = {
        label: [norm * float((gradient * flat).sum()) for gradient in of_label]
        for label, of_label in plan.gradients.items()
    }
    steps: list[Step] = []
    at_price: dict[str, Step] = {}
    for sign in (1, -1):
        path = [(0.0, 0.0)]
        for size in settings.doses:
            cost = plan.price(direction, sign * size)
            if not np.isfinite(cost):
                break
            path.append((size, cost))
            steps.append(Step(sign * size, cost, plan.changes(direction, sign * size)))
            if cost > _MOST:
                break
        found = _at_price(partial(_signed_price, plan, direction, sign), path, settings.price)
        if found is not None:
            size, cost = found
            at_price[_sign(sign)] = Step(sign * size, cost, plan.changes(direction, sign * size))
    return Direction(
        name=drawn.name,
        kind=drawn.kind,
        mode=drawn.mode,
        senses={label: 1 if chosen >= 0 else -1 for label, (chosen, _) in predicted.items()},
        slopes={label: measured for label, (_, measured) in predicted.items()},
        steps=sorted(steps, key=lambda step: step.dose),
        at_price=at_price,
    )


def _signed_price(plan: _Plan, direction: mx.array, sign: int, size: float) -> float:
    return plan.price(direction, sign * size)


def _at_price(
    price: Callable[[float], float], path: Sequence[tuple[float, float]], wanted: float
) -> tuple[float, float] | None:
    """The smallest dose that costs what is wanted, about, and what it costs.

    Parameters
    ----------
    price
        Of a dose.
    path
        Doses and their prices from (0, 0) on.
    wanted
        The price.

    Returns
    -------
    float, float
        None if no dose of the path costs so much.
    """
    beyond = next((i for i, (_, cost) in enumerate(path) if cost >= wanted), None)
    if beyond is None:
        return None
    low, high = path[beyond - 1], path[beyond]
    best = high
    for number in range(_TRIES):
        if abs(best[1] - wanted) <= _NEAR * wanted:
            break
        if number % 3 == 2:  # where the price is no such function, halving goes on
            dose = (low[0] + high[0]) / 2
        elif low[0] > 0 and low[1] > 0:  # a power of the dose in between
            power = np.log(wanted / low[1]) / np.log(high[1] / low[1])
            dose = float(low[0] * (high[0] / low[0]) ** power)
        else:  # as the square of what is added
            share = np.sqrt(max(wanted - low[1], 0.0) / (high[1] - low[1]))
            dose = float(low[0] + share * (high[0] - low[0]))
        best = dose, price(dose)
        low, high = (low, best) if best[1] >= wanted else (best, high)
    return best


def _label_steps(
    plan: _Plan, label: str, found: Sequence[Direction], drawn: Sequence[_Drawn]
) -> LabelSteps:
    mode, end, precision = plan.labels[label]
    has = plan.masks[label][plan.measured]
    base = np.exp(plan.base[list(plan.labels).index(label)])
    decode = plan.weight.model.tokenizer.decode
    return LabelSteps(
        label=label,
        words=[str(decode([token])) for token in plan.words[label]],
        mode=mode,
        end=end,
        precision=precision,
        windows=int(has.sum()),
        others=int((~has).sum()),
        mass=float(base[has].mean()),
        mass_others=float(base[~has].mean()),
        examples=_examples(plan, label, found, drawn),
    )


def _examples(
    plan: _Plan, label: str, found: Sequence[Direction], drawn: Sequence[_Drawn]
) -> list[Example]:
    """What the steps along a label's mode at the price do to the next words of some windows."""
    mode, end, _ = plan.labels[label]
    (place,) = [i for i, d in enumerate(drawn) if d.kind == "mode" and d.mode == mode]
    has = np.flatnonzero(plan.masks[label][plan.measured])
    ends = np.argsort(-end * plan.scores[plan.measured[has], mode], kind="stable")
    numbers = has[ends][:_SHOWN]
    windows = plan.measured[numbers]
    above = Above(plan.weight, plan.all_hidden[mx.array(windows)], last=True)
    direction, decode = drawn[place].make(), plan.weight.model.tokenizer.decode

    def following(dose: float) -> list[list[tuple[str, float]]]:
        value = plan.weight.stepped(direction, dose)
        return [
            [(str(decode([token])), p) for token, p in window]
            for window in likeliest(above, value, _TOKENS)
        ]

    shown = {0: following(0.0)}
    for sense in (1, -1):
        step = found[place].at(label, sense)
        shown[sense] = [[] for _ in numbers] if step is None else following(step.dose)
    contexts = [plan.contexts[i] for i in windows]
    return [
        Example(" ".join(c.text.split())[-56:], c.word, shown[0][i], shown[1][i], shown[-1][i])
        for i, c in enumerate(contexts)
    ]


@dataclass(frozen=True)
class _Scratch:
    """Files of what was done before all is done.

    Attributes
    ----------
    folder
        Where they are.
    request
        Of what: files of another request are not read.
    """

    folder: Path
    request: str

    def doses(self, find: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
        """The grid, found before or now."""
        path = self.folder / "doses.json"
        stored = self._stored(path)
        if stored is not None:
            return from_json(tuple[float, ...], stored, str(path))
        found = find()
        write_json(path, {"request": self.request, "found": list(found)})
        return found

    def direction(self, number: int, take: Callable[[], Direction]) -> Direction:
        """Steps along a direction, taken before or now."""
        path = self.folder / f"{number:03d}.json"
        stored = self._stored(path)
        if stored is not None:
            return from_json(Direction, stored, str(path))
        taken = take()
        write_json(path, {"request": self.request, "found": to_json(taken)})
        return taken

    def _stored(self, path: Path) -> object:
        if not path.exists():
            return None
        try:
            stored = read_json(path)
        except InputError:  # what was damaged is done again
            return None
        return stored.get("found") if stored.get("request") == self.request else None

    def remove(self) -> None:
        """Forget it all."""
        shutil.rmtree(self.folder, ignore_errors=True)
