"""What a run found, in two sentences."""

from collections.abc import Callable

from mlx_entk._files import Json
from mlx_entk.studies import kernel, lm, mlp, sweep, tms, transformer

# What a study is called, for people.
TITLES = {
    kernel.STUDY: "Kernel of a model",
    lm.STUDY: "Language model",
    mlp.STUDY: "Modular addition, MLP",
    sweep.STUDY: "Sweep over seeds",
    tms.STUDY: "Toy model of superposition",
    tms.PAPER_STUDY: "Toy models of superposition, the paper's three",
    tms.DESCENT_STUDY: "Toy models of superposition, double descent",
    transformer.STUDY: "Modular addition, transformer",
}


def headline(results: Json) -> str:
    """Two sentences on the results of a finished run of any study: what was found, beside what."""
    return " ".join(_SENTENCES[results["study"]](results))


Sentences = tuple[str, str]


def _mlp(results: Json) -> Sentences:
    tracked = results["grokking"]
    family, modes = tracked["family"], tracked["modes"]
    (row,) = [
        row
        for row in results["alignment"]
        if (row["kernel"], row["modes"], row["family"]) == (tracked["kernel"], modes, family)
    ]
    before, chance = (100 * row[key] / row["dimension"] for key in ("initial", "chance"))
    return (
        f"The network is right on {results['accuracy']['test']:.1%} of the pairs that it was not "
        f"trained on, and its eNTK has {_cliffs(results['cliffs']['full'])}.",
        f"Modes {modes[0]}–{modes[1]} hold {row['percent']:.0f}% of the {family} family, where "
        f"chance gives {chance:.0f}% and the same modes before training {before:.0f}%.",
    )


def _transformer(results: Json) -> Sentences:
    tracked, keys = results["grokking"], results["key_frequencies"]["embedding"]
    main = transformer.headline(results)
    grokked = results["grokked_at"]
    ahead = [row for row in tracked["moves"] if row["lead"] > 0 and row["rise"] >= 0.2]
    first = (
        f"{ahead[0]['kernel']} was the first to turn, {ahead[0]['lead']:.0f} epochs ahead of the "
        "test accuracy"
        if ahead
        else "no kernel turned to its family ahead of the test accuracy"
    )
    return (
        f"The network {'did not grok' if grokked is None else f'grokked at epoch {grokked}'} "
        f"(test accuracy {results['accuracy']['test']:.1%} at the end) and uses the frequencies "
        f"{', '.join(map(str, keys))}.",
        f"The leading modes of the unembedding's kernel hold "
        f"{main['unembedding with sum']:.0f}% of the sum at these frequencies, before training "
        f"{main['initially with sum']:.0f}%; {first}.",
    )


def _tms(results: Json) -> Sentences:
    counts, config = results["reconstructed"], results["config"]
    beta = min((row["beta"] for row in results["kernels"] if row["beta"] > 0), default=0.0)
    recovered = {
        row["network"]: row["recovered"] for row in results["kernels"] if row["beta"] == beta
    }
    (whole,) = [
        row for row in results["kernels"] if row["network"] == "trained" and row["beta"] == 0
    ]
    return (
        f"The network reconstructs {counts['trained']} of {config['n']} features with "
        f"{config['m']} hidden units, and its flattened eNTK has {_cliffs(whole['cliffs'])}.",
        f"Single modes recover {recovered['trained']} features at β = {beta:g}; "
        f"{recovered['initial']} before training, {recovered['shuffled']} in the network trained "
        f"on shuffled targets, and {results['recovered_by_constants']} look like a constant, "
        "which a bias alone gives.",
    )


def _paper(results: Json) -> Sentences:
    models = results["models"]
    counts = ", ".join(f"{m['reconstructed']['trained']} ({name})" for name, m in models.items())

    def recovered(model: Json, network: str) -> int:
        betas = [row["beta"] for row in model["kernels"] if row["beta"] > 0]
        return next(
            int(row["recovered"])
            for row in model["kernels"]
            if row["network"] == network and row["beta"] == min(betas)
        )

    found = ", ".join(f"{recovered(model, 'trained')} ({name})" for name, model in models.items())
    null = ", ".join(f"{recovered(model, 'shuffled')} ({name})" for name, model in models.items())
    return (
        f"Of {results['config']['n']} features the three models reconstruct {counts}.",
        f"Single modes of their kernels recover {found} at the smallest β, those of networks "
        f"trained on shuffled targets {null}.",
    )


def _descent(results: Json) -> Sentences:
    sizes = results["sizes"]
    peak = max(sizes, key=lambda row: float(row["test_loss"]))
    last = sizes[-1]
    return (
        f"The loss on new inputs is largest with {peak['rows']} rows, {peak['test_loss']:.1e}, and "
        f"{last['test_loss']:.1e} with {last['rows']}.",
        f"The effective rank of the flattened eNTK is {peak['effective_rank']:.0f} there and "
        f"{last['effective_rank']:.0f} at the end.",
    )


def _kernel(results: Json) -> Sentences:
    first = (
        f"The {_reduction(results)} eNTK of {results['parameters']:,} parameters on "
        f"{results['inputs']:,} inputs has {_cliffs(results['cliffs']['full'])}."
    )
    rows = [row for row in results["alignment"] if row["kernel"] == "full"]
    rows = [row for row in rows if row["modes"] != [0, 0]] or rows
    if not rows:
        return first, (
            "No features were given to align its modes with."
            if not results["mode_features"]
            else "There is no group of modes to align with the features."
        )
    best = max(rows, key=lambda row: float(row["percent"] - 100 * row["chance"] / row["dimension"]))
    return first, (
        f"Modes {best['modes'][0]}–{best['modes'][1]} hold {best['percent']:.0f}% of "
        f"{best['family']}, where chance gives {100 * best['chance'] / best['dimension']:.0f}%."
    )


def _lm(results: Json) -> Sentences:
    def mean(row: Json, method: str) -> float:
        return float(row["scores"][method]["average_precision"]["mean"])

    best = max(results["layers"], key=lambda row: mean(row, "eNTK"))
    others = ", ".join(f"{mean(best, m):.3f} by {m}" for m in lm.METHODS if m != "eNTK")
    return (
        f"Over {results['inputs']:,} windows the modes of {len(results['layers'])} layers were set "
        f"against {len(results['labels'])} labels of the next word.",
        f"They tell them best in layer {best['layer']}: mean average precision "
        f"{mean(best, 'eNTK'):.3f}, beside {others}.",
    )


def _sweep(results: Json) -> Sentences:
    spread = {name: row for name, row in results["spread"].items() if row["count"]}
    name, row = next(iter(spread.items()))
    seeds = len(results["seeds"])
    whole = [name for name, row in spread.items() if row["count"] == seeds]
    return (
        f"{seeds} seeds of `mlx-entk {' '.join(results['config']['command'])}`.",
        f"The {name} lies between {row['smallest']:.4g} and {row['largest']:.4g}, and {len(whole)} "
        f"of {len(results['spread'])} headline figures exist in every seed.",
    )


def _cliffs(groups: list[list[int]]) -> str:
    before = [str(last + 1) for _, last in groups]
    if not before:
        return "no cliff by the stated criterion"
    if len(before) == 1:
        return f"one cliff, before mode {before[0]}"
    return f"cliffs before modes {', '.join(before[:-1])} and {before[-1]}"


def _reduction(results: Json) -> str:
    reduction = results["config"]["reduction"]
    return reduction if isinstance(reduction, str) else f"class {reduction[0]}, {reduction[1]}"


_SENTENCES: dict[str, Callable[[Json], Sentences]] = {
    kernel.STUDY: _kernel,
    lm.STUDY: _lm,
    mlp.STUDY: _mlp,
    sweep.STUDY: _sweep,
    tms.STUDY: _tms,
    tms.PAPER_STUDY: _paper,
    tms.DESCENT_STUDY: _descent,
    transformer.STUDY: _transformer,
}
