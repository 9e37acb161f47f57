"""Sentences and captions claim what the figures of their run support, and nothing else."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_entk.analysis import TrainedAlignment
from mlx_entk.cliffs import Cliff
from mlx_entk.controls import OUTPUTS, ControlAlignment, Controls
from mlx_entk.dynamics import Transition
from mlx_entk.features import Alignment
from mlx_entk.lm.scoring import Difference, Estimate, LabelScores, Macro
from mlx_entk.studies.kernel import STUDY as KERNEL
from mlx_entk.studies.kernel.study import KernelAlignment, KernelConfig, KernelResults
from mlx_entk.studies.language_model.records import (
    ENTK,
    METHODS,
    PCA_STANDARDISED,
    LayerResults,
)
from mlx_entk.studies.language_model.show import difference_sentence
from mlx_entk.studies.modular.words import grokking_caption
from mlx_entk.studies.modular_mlp import STUDY as MLP
from mlx_entk.studies.modular_mlp import MLPConfig, MLPResults
from mlx_entk.studies.modular_transformer import STUDY as TRANSFORMER
from mlx_entk.studies.modular_transformer import TransformerConfig, TransformerResults
from mlx_entk.studies.modular_transformer.show import _lead_sentence
from mlx_entk.studies.modular_transformer.study import lead_test
from mlx_entk.studies.results import Grokking, Move, Onset
from mlx_entk.studies.running import run_study
from mlx_entk.studies.words import holding_sentence, margin_sentence


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> MLPResults:
    """A run that has hardly begun."""
    config = MLPConfig(p=5, width=16, epochs=20)
    return MLP.results_of(run_study(MLP, config, tmp_path_factory.mktemp("mlp") / "run"))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> TransformerResults:
    config = TransformerConfig(p=5, d_model=8, heads=2, d_mlp=8, epochs=40, hold=0)
    folder: Path = tmp_path_factory.mktemp("transformer")
    return TRANSFORMER.results_of(run_study(TRANSFORMER, config, folder / "run"))


def rise(onset: float, completion: float) -> Transition:
    return Transition(onset, completion, 0.0, 1.0, explained=1.0, rises=True)


FLAT = Transition(10.0, 20.0, 0.1, 0.12, explained=0.4, rises=False)


# Rises


@pytest.mark.parametrize(
    ("accuracy", "overlap", "said"),
    [
        (rise(50, 100), rise(60, 90), "the kernel and the network learn the function together"),
        (rise(50, 100), rise(10, 30), "The overlap rises before the test accuracy."),
        (rise(50, 100), rise(110, 130), "The overlap rises after the test accuracy."),
        (rise(50, 100), FLAT, "The test accuracy rises, but the overlap does not follow it."),
        (FLAT, rise(50, 100), "The overlap rises, but the network does not learn the task."),
        (FLAT, FLAT, "Neither rises"),
    ],
)
def test_the_caption_of_grokking_says_what_rose(
    mlp: MLPResults, accuracy: Transition, overlap: Transition, said: str
) -> None:
    onset = replace(mlp.grokking.onset, test_accuracy=accuracy, overlap=overlap)

    caption = grokking_caption(replace(mlp.grokking, onset=onset))

    assert said in caption
    assert caption.count("together") == (said.count("together") or "Neither" in said)


def test_a_run_that_learned_nothing_is_not_said_to_rise(mlp: MLPResults) -> None:
    onset = replace(mlp.grokking.onset, test_accuracy=FLAT)
    tables = MLP.show.tables(replace(mlp, grokking=replace(mlp.grokking, onset=onset)))

    assert ["test accuracy rises", "never"] in [list(cells) for cells in tables[0].rows]


# The transformer


def changed(
    results: TransformerResults, accuracy: float, rises: bool, lead: float
) -> TransformerResults:
    tracked = results.grokking
    moves = [replace(move, lead=lead, rise=0.9) for move in tracked.moves]
    onset: Onset = replace(tracked.onset, test_accuracy=rise(10, 20) if rises else FLAT)
    return replace(
        results,
        accuracy=replace(results.accuracy, test=accuracy),
        grokking=replace(tracked, onset=onset, moves=moves),
    )


def test_a_transformer_that_has_not_learned_does_not_use_frequencies(
    transformer: TransformerResults,
) -> None:
    learned, _ = TRANSFORMER.show.summary(changed(transformer, 1.0, True, 5))
    not_learned, _ = TRANSFORMER.show.summary(changed(transformer, 0.082, True, 5))

    assert "its embedding uses the frequenc" in learned
    assert "uses" not in not_learned
    assert "but it does not solve the task" in not_learned


@pytest.mark.parametrize(
    ("rises", "lead", "said"),
    [
        (True, 7, "was the first to turn, 7 epochs ahead of the test accuracy"),
        (True, -7, "no kernel turned to its family ahead of the test accuracy"),
        (False, 7, "the test accuracy does not rise, so no kernel turned ahead of it"),
    ],
)
def test_a_kernel_is_ahead_only_of_an_accuracy_that_rises(
    transformer: TransformerResults, rises: bool, lead: float, said: str
) -> None:
    assert said in TRANSFORMER.show.summary(changed(transformer, 1.0, rises, lead))[1]


def moves(leads: dict[str, float]) -> list[Move]:
    return [
        Move(name, (0, 1), "sum", 2, FLAT, rise=0.9, epoch=1.0, lead=lead)
        for name, lead in leads.items()
    ]


def test_one_kernel_ahead_in_every_seed_is_compared_with_chance() -> None:
    alone = [moves({"a": 5, "b": -1, "c": -1, "d": -2}) for _ in range(8)]
    common = [moves({"a": 5, "b": 1, "c": 1, "d": -2 if seed else 1}) for seed in range(8)]

    surprising, expected = lead_test(alone), lead_test(common)

    assert (surprising.kernel, surprising.ahead, surprising.seeds) == ("a", 8, 8)
    assert surprising.p < 0.001
    # of four kernels, three of which lead in every seed, some one leads in all of them often
    assert expected.ahead == 8
    assert expected.p > 0.2


def test_the_sentence_of_leads_has_their_chance() -> None:
    def tracked(lead: float) -> Any:
        return SimpleNamespace(moves=moves({"W_in": lead, "W_out": -1}))

    ahead = _lead_sentence({0: tracked(5), 1: tracked(6)})
    assert ahead.startswith("W_in was ahead in 2 of 2 seeds; if the kernels of every seed changed")
    assert _lead_sentence({0: tracked(-5)}) == "No kernel was ahead in any seed."


# What the eNTK adds


def row(percent: float) -> Alignment:
    return Alignment("full", (1, 4), "sum", percent / 25, 4, percent, 0.5, 0.1, (0.0, 0.0, 0.0))


def controls(percent: float, name: str = OUTPUTS) -> Controls:
    best = ControlAlignment(name, "centred", 4, (0, 3), "sum", percent / 25, 4, percent)
    return Controls("rule", [best], [], [])


@pytest.mark.parametrize(
    ("of_control", "said"),
    [
        (89.0, "hold 89%: the eNTK adds 5 points."),
        (93.5, "hold 94%: the eNTK adds nothing to that."),
        (99.0, "hold 99%, which is more."),
        (93.0, "hold 93%: the eNTK adds 1 point."),
    ],
)
def test_the_margin_is_said_as_it_is(of_control: float, said: str) -> None:
    sentence = margin_sentence(row(94.0), controls(of_control))

    assert sentence == f"Outputs alone (centred, modes 0–3) {said}"


def test_without_controls_there_is_no_margin() -> None:
    assert margin_sentence(row(94.0), Controls("rule", [], [], [])) == ""
    one = margin_sentence(row(94.0), controls(10, "input of w"))
    assert one.startswith("Input of w alone (centred, modes 0–3) holds 10%")


def test_what_a_group_holds_is_told_with_the_spread_of_chance() -> None:
    assert holding_sentence(row(94.0)) == ("Modes 1–4 hold 94% of “sum”; chance gives 12.5 ± 2.5%")


def test_the_summary_of_the_mlp_has_its_controls(mlp: MLPResults) -> None:
    _, second = MLP.show.summary(mlp)

    tracked: Grokking = mlp.grokking
    (main,) = [
        r
        for r in mlp.alignment
        if (r.kernel, r.modes, r.family) == (tracked.kernel, tracked.modes, tracked.family)
    ]
    assert isinstance(main, TrainedAlignment)
    assert margin_sentence(main, mlp.controls) in second
    assert second.startswith(holding_sentence(main))


# A user's own model


def kernel_results(**changes: Any) -> KernelResults:
    aligned = KernelAlignment(**vars(row(94.0)), shuffled=0.5, shuffled_deviation=0.1, initial=1.0)
    return replace(
        KernelResults(
            config=KernelConfig("m:make"),
            inputs=9,
            parameters=20,
            cliffs={"full": [Cliff((0, 0), 9.0, 0.01), Cliff((1, 4), 9.0, 0.01)]},
            cliff_rule="rule",
            effective_rank={"full": 3.0},
            equivalent_families=[],
            cliffs_before={"full": []},
            alignment=[aligned],
            controls=controls(89.0),
            without="",
            mode_features=["sum"],
        ),
        **changes,
    )


def test_a_kernel_is_told_with_all_that_it_is_compared_with() -> None:
    first, second = KERNEL.show.summary(kernel_results())

    assert first.endswith("has cliffs before modes 1 and 5.")
    assert second == (
        "Modes 1–4 hold 94% of “sum”; chance gives 12.5 ± 2.5%; before training the same modes "
        "held 25%. Outputs alone (centred, modes 0–3) hold 89%: the eNTK adds 5 points."
    )
    null = KERNEL.show.tables(kernel_results())[-1]
    assert "--initial" not in null.note


def test_what_a_kernel_is_not_compared_with_is_not_claimed() -> None:
    unknown = replace(kernel_results().alignment[0], initial=None)
    results = kernel_results(alignment=[unknown], without="they take 9 GB")

    _, second = KERNEL.show.summary(results)

    assert "before training" not in second
    null = KERNEL.show.tables(results)[-1]
    assert "name it with --initial" in null.note
    assert "Activations are left out: they take 9 GB." in null.note
    nothing = kernel_results(alignment=[], mode_features=[])
    assert KERNEL.show.summary(nothing)[1] == "No features were given to align its modes with."
    no_cliff = kernel_results(cliffs={"full": []})
    assert KERNEL.show.summary(no_cliff)[0].endswith("has no cliff by the stated criterion.")


# Language models


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.01, 0.05), "They tell more than PCA, standardised, the best control"),
        ((-0.02, 0.05), "That they tell more or less than PCA, standardised, the"),
        ((-0.05, -0.01), "PCA, standardised, which needs no kernel, tells more"),
    ],
)
def test_a_language_models_modes_tell_more_only_where_the_paired_interval_says_so(
    interval: tuple[float, float], said: str
) -> None:
    def scored(mean: float, ahead: Difference | None) -> LabelScores:
        macro = Macro(Estimate(mean, 0.01), Estimate(0.8, 0.01), ahead, ahead)
        return LabelScores([], {"part of speech": macro}, mean)

    difference = Difference(sum(interval) / 2, interval)
    far = Difference(0.3, (0.25, 0.35))
    scores = {method: scored(0.2, far) for method in METHODS}
    scores |= {ENTK: scored(0.5, None), PCA_STANDARDISED: scored(0.48, difference)}

    row = LayerResults(3, [], [], [], 1, 1.0, 1, None, scores)

    assert difference_sentence(row, "part of speech").startswith(said)
