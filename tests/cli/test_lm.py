"""``mlx-entk lm``: from text to labels, resumed, shown, and on several ranks."""

import json
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from examples import small_language_model
from mlx_entk import InputError
from mlx_entk._records import to_json
from mlx_entk.lm.contexts import read_contexts
from mlx_entk.lm.model import load_model
from mlx_entk.runs import Run
from mlx_entk.studies import language_model as study
from tests.conftest import Command
from tests.test_distributed import launch

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself

TINY = small_language_model.Settings(
    vocabulary=400, width=16, layers=2, heads=2, window=16, batch=4, steps=30
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and contexts for it."""
    folder = tmp_path_factory.mktemp("tiny")
    small_language_model.main(folder, TINY)
    return folder


@pytest.fixture
def contexts(tiny: Path, mlx_entk: Command) -> Path:
    path = tiny / "contexts.jsonl"
    if not path.exists():
        code, output, _ = mlx_entk(
            "lm", "contexts", "--model", tiny, "--texts", tiny / "held-out.txt",
            "--count", "240", "--window", "12", "--out", path,
        )  # fmt: skip
        assert (code, output) == (0, f"Contexts: {path}\n")
    return path


def prepared(tiny: Path, contexts: Path) -> tuple[study.LMConfig, dict[str, Any]]:
    """The study of the second layer: its configuration, and what it is given."""
    model, rows = load_model(str(tiny)), read_contexts(contexts)
    config = study.prepare(study.LMConfig(str(tiny), (1,), modes=4), model, rows)
    return config, {"model": model, "contexts": rows}


def completed(folder: Path, config: study.LMConfig, **given: Any) -> study.LMResults:
    """Results of the study in a run folder, where it may have begun."""
    run = Run.create(folder, study.STUDY.name, to_json(config))
    study.STUDY.complete(config, run, **given)
    return study.STUDY.results_of(run)


def test_text_to_labels_and_windows(mlx_entk: Command, tiny: Path, contexts: Path) -> None:
    command = partial(
        mlx_entk, "lm", "--model", tiny, "--contexts", contexts, "--modes", "6", "--out", "run"
    )

    code, output, _ = command("--layers", "0-1")

    assert code == 0
    assert "eNTK ahead by" in output
    results = json.loads(Path("run/results.json").read_text())
    assert [row["layer"] for row in results["layers"]] == [0, 1]
    for row in results["layers"]:
        assert set(row["scores"]) == set(study.METHODS) - {"autoencoder"}
        assert max(row["residuals"]) < 1e-2
        assert all(0 < share <= 1 for share in row["shares"])
        assert row["values"] == sorted(row["values"], reverse=True)
        for name, found in row["scores"].items():
            for macro in found["macros"].values():
                assert 0 <= macro["auroc"]["mean"] <= 1
                untold = ("eNTK", "labels shuffled", "linear probe")
                assert (macro["precision_ahead"] is None) == (name in untold)
    assert set(results["labels"]) >= {"upos=PUNCT"}
    assert not Path("run/modes").exists()
    for name in ("lm-scores", "lm-labels", "lm-spectra"):
        assert Path(f"run/figures/{name}.png").stat().st_size > 0
    assert command("--layers", "0-1")[1] == output  # nothing is left to do

    code, shown, _ = mlx_entk("lm", "show", "run", "--layer", "1", "--mode", "2", "--windows", "3")
    assert code == 0
    assert "Layer 1, mode 2" in shown
    scores = Run.load(Path("run")).arrays["scores/layer-1"][:, 2]
    rows = read_contexts(contexts)
    assert rows[int(scores.argmax())].word in shown
    assert rows[int(scores.argmin())].word in shown
    report = Path("run/report.html").read_text()
    assert "Layer 0, mode 4" in report
    assert 'href="modes.html"' in report
    assert rows[int(scores.argmax())].word in Path("run/modes.html").read_text()
    positions = Run.load(Path("run")).arrays["positions/layer-1"][2]
    ends = Run.load(Path("run")).arrays["ends/layer-1"][2]
    np.testing.assert_allclose(positions.sum(axis=1), scores[ends], rtol=1e-3, atol=1e-4)


def test_the_published_protocol_in_one_command(
    mlx_entk: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (tiny / "held-out.txt").read_text().split()
    stories = [" ".join(words[i : i + 60]) for i in range(0, 60 * 300, 60)]
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(stories))
    calls = []

    def greedy(model: Any, ahead: tuple[int, ...]) -> Any:  # the model itself says one word alone
        def continued(windows: Any) -> list[str]:
            calls.extend(windows)
            return [" the of" if sum(window) % 2 else " of the" for window in windows]

        return continued

    monkeypatch.setattr("mlx_entk_cli.lm.greedy", greedy)
    paper = partial(
        mlx_entk, "lm", "paper", "--model", tiny, "--texts", "stories.txt", "--window", "8",
        "--each", "30", "--values", "2", "--modes", "4", "--no-initial", "--out", "run",
    )  # fmt: skip

    code, output, errors = paper()

    assert code == 0, errors
    rows = read_contexts(tmp_path / "run-contexts.jsonl")
    assert [sum(r.labels["upos"] == c for r in rows) for c in ("DET", "ADP")] == [30, 30]
    assert len({row.document for row in rows}) == 60
    assert {row.word for row in rows} == {"the", "of"}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["layer"] for row in results["layers"]] == [0]  # the last but one
    assert results["layers"][0]["products"] <= 8
    assert results["documents"] == 60
    asked = len(calls)
    assert paper()[:2] == (0, output)
    assert len(calls) == asked  # the windows are kept
    code, _, errors = paper("--each", "20")
    assert code == 2
    assert "run-contexts.jsonl were drawn with other each: remove the file" in errors
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(stories[::-1]))
    assert "were drawn with other texts, seed: remove the file" in paper("--seed", "1")[2]


def test_a_killed_run_goes_on_from_its_last_product(
    tiny: Path, contexts: Path, tmp_path: Path
) -> None:
    config, given = prepared(tiny, contexts)
    whole = completed(tmp_path / "whole", config, **given)

    def kill(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        completed(tmp_path / "killed", config, progress=kill, **given)
    kept = sorted((tmp_path / "killed" / "modes" / "trained-1").iterdir())
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 9
    seen: dict[str, Any] = {}

    def look(stage: str, done: int, total: int, note: str = "") -> None:
        if stage.startswith("trained") and done == 10:
            seen["stamps"] = [path.stat().st_mtime_ns for path in kept]

    resumed = completed(tmp_path / "killed", config, progress=look, **given)

    assert seen["stamps"] == stamps  # read, not made again
    np.testing.assert_allclose(resumed.layers[0].values, whole.layers[0].values, rtol=1e-5)


def test_ranks_find_the_modes_of_one_process(tiny: Path, contexts: Path, tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        out = tmp_path / f"run-{count}"
        arguments = ("lm", "--model", tiny, "--contexts", contexts, "--modes", "5", "--out", out)
        command = ["-c", "from mlx_entk_cli.main import main; main()", *map(str, arguments)]
        outcomes = launch(count, tmp_path, command)
        assert [code for code, _, _ in outcomes] == [0] * count
        assert [bool(output) for _, output, _ in outcomes] == [True] + [False] * (count - 1)
        found.append(Run.load(out).results["layers"][0]["values"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--model": None}, "--model is missing"),
        ({"--out": None}, "--out is missing"),
        ({"--contexts": "none.jsonl"}, "cannot read none.jsonl"),
        ({"--model": "empty"}, "empty is not a model folder"),
        ({"--layers": "first"}, "--layers first: write 12-17, 0,5 or all"),
        ({"--layers": "0-2"}, "the model has layers 0 to 1"),
        ({"--select": "mlp.w"}, "layer 1 has no mlp.w: it has self_attn"),
        ({"--modes": "240"}, "modes is 240: 240 contexts have fewer"),
        ({"--contexts": "other.jsonl"}, "has token 4000, but the model has 400"),
        ({"--contexts": "bare.jsonl"}, "contexts has no label to score"),
        ({"--memory-limit": "1kB"}, "raise the memory limit"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    mlx_entk: Command, tiny: Path, contexts: Path, changes: dict[str, str | None], message: str
) -> None:
    Path("empty").mkdir()
    row = {"tokens": [1, 2], "text": "", "word": "", "labels": {}}
    Path("bare.jsonl").write_text(f"{json.dumps(row)}\n" * 60)
    Path("other.jsonl").write_text(f"{json.dumps(row | {'tokens': [1, 4000]})}\n" * 60)
    given = {"--model": str(tiny), "--contexts": str(contexts), "--modes": "4", "--out": "run"}
    arguments = [part for k, v in (given | changes).items() if v is not None for part in (k, v)]

    code, output, errors = mlx_entk("lm", *arguments)

    assert (code, output) == (2, "")
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_contexts_and_show_say_what_is_wrong(mlx_entk: Command, tiny: Path, contexts: Path) -> None:
    Path("folder").mkdir()
    Path("folder/note.md").write_text("the number of words is small")
    build = partial(mlx_entk, "lm", "contexts", "--model", tiny, "--out", "c.jsonl")
    for arguments, message in {
        ("--texts", "folder"): "were asked for: give more text",
        ("--texts", "folder", "--count", "0"): "must be at least 1",
        ("--texts", "folder", "--balance", "upos"): "--balance upos: write LABEL=COUNT",
        ("--texts", "folder", "--balance", "upos=0"): "--balance upos=0: write LABEL=COUNT",
        ("--texts", "folder", "--balance", "upos=9"): "0 values of upos have 9 windows",
        ("--texts", "folder", "--tagger", "spacy:no_such_pipeline"): "spaCy",
        ("--texts", "folder", "--tagger", "json"): "--tagger json: write MODULE:FUNCTION",
        ("--texts", "folder", "--tagger", "json:tag"): "json:tag cannot be imported",
    }.items():
        code, _, errors = build(*arguments)
        assert (code, message in errors) == (2, True), errors
    Path("folder/note.md").unlink()
    assert "no .txt, .md or .txt.gz file below folder" in build("--texts", "folder")[2]
    assert not Path("c.jsonl").exists()

    mlx_entk("lm", "--model", tiny, "--contexts", contexts, "--modes", "4", "--out", "run")
    mlx_entk("tms", "--n", "5", "--m", "2", "--rows", "30", "--steps", "60", "--out", "tms")
    for arguments, message in {
        ("run", "--layer", "0"): "the run has no layer 0: it has 1",
        ("run", "--mode", "4"): "the run has modes 0 to 3, not 4",
        ("tms",): "tms is a tms run, not a run of `mlx-entk lm`",
        ("none",): "none is not a folder",
    }.items():
        code, _, errors = mlx_entk("lm", "show", *arguments)
        assert (code, message in errors) == (2, True), errors


def test_without_mlx_lm_the_extra_is_named(
    mlx_entk: Command, tiny: Path, contexts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlx_lm", None)

    code, _, errors = mlx_entk("lm", "--model", tiny, "--contexts", contexts, "--out", "run")

    assert code == 2
    assert "language models need the extra lm: pip install 'mlx-entk[lm]'" in errors


def test_the_operator_stays_within_its_limit(tiny: Path, contexts: Path, tmp_path: Path) -> None:
    config, given = prepared(tiny, contexts)
    limit = 4_000_000
    mx.reset_peak_memory()
    before = mx.get_active_memory()

    completed(tmp_path / "run", config, memory_limit=limit, **given)

    assert mx.get_peak_memory() - before < limit


@pytest.mark.slow
def test_a_trained_model_from_text_to_table(mlx_entk: Command, tmp_path: Path) -> None:
    small_language_model.main(tmp_path / "model", small_language_model.Settings())
    texts = tmp_path / "model" / "held-out.txt"
    built = mlx_entk(
        "lm", "contexts", "--model", "model", "--texts", texts, "--count", "256",
        "--window", "24", "--out", "contexts.jsonl",
    )  # fmt: skip
    ran = mlx_entk(
        "lm", "--model", "model", "--contexts", "contexts.jsonl", "--modes", "10", "--out", "run"
    )

    assert (built[0], ran[0]) == (0, 0)
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["layers"]
    assert row["layer"] == 3
    assert max(row["residuals"]) < 1e-2
    # What training has put there: more than the same architecture drawn anew can tell.
    for macro in row["scores"]["eNTK at the start"]["macros"].values():
        assert macro["precision_ahead"]["mean"] > 0


def test_code_that_a_model_brings_is_never_run(tiny: Path, tmp_path: Path) -> None:
    """mlx-lm takes a module from config.json, and transformers one from tokenizer_config.json."""
    marker = tmp_path / "was-run"
    for where, file, key, value in (
        ("model", "config.json", "model_file", "payload.py"),
        ("tokenizer", "tokenizer_config.json", "auto_map",
         {"AutoTokenizer": ["payload.Tokenizer", "payload.Tokenizer"]}),
    ):  # fmt: skip
        folder = tmp_path / where
        shutil.copytree(tiny, folder)
        (folder / "payload.py").write_text(f"open({str(marker)!r}, 'w').close()")
        settings = json.loads((folder / file).read_text()) | {key: value}
        settings.pop("tokenizer_class", None)
        (folder / file).write_text(json.dumps(settings))

        with suppress(InputError):  # a tokenizer of a known kind is loaded without that code
            load_model(str(folder))

        assert not marker.exists()
    with pytest.raises(InputError, match="requires importing and running a custom module"):
        load_model(str(tmp_path / "model"))


@pytest.fixture(scope="module")
def stepped(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the second layer."""
    from mlx_entk_cli.main import cli

    folder = tmp_path_factory.mktemp("stepped")
    rows = folder / "contexts.jsonl"
    for arguments in (
        ["contexts", "--model", tiny, "--texts", tiny / "held-out.txt", "--count", "240",
         "--window", "12", "--out", rows],
        ["--model", tiny, "--contexts", rows, "--modes", "4", "--no-initial", "--out",
         folder / "run"],
    ):  # fmt: skip
        cli(["lm", *map(str, arguments)], standalone_mode=False)
    return folder / "run"


QUICK = ("--windows", "60", "--price-windows", "4", "--doses", "0.3,0.01,1")


def test_steps_along_the_modes_of_a_run(mlx_entk: Command, tiny: Path, stepped: Path) -> None:
    shutil.copytree(stepped, "run")
    steps = partial(
        mlx_entk, "lm", "steps", "run", "--model", tiny, "--texts", tiny / "held-out.txt", *QUICK
    )

    code, output, errors = steps()

    assert code == 0, errors
    assert "at a rise of perplexity by 5%" in output
    assert "random directions in" in output
    taken = json.loads(Path("run/steps.json").read_text())
    assert taken["settings"]["doses"] == [0.01, 0.3, 1]
    labels = [row["label"] for row in taken["labels"]]
    kinds = [direction["kind"] for direction in taken["directions"]]
    modes = {row["mode"] for row in taken["labels"]} | {0}
    assert kinds.count("random") == 20
    assert kinds.count("mode") == kinds.count("input") >= len(modes)
    for direction in taken["directions"]:
        assert set(direction["slopes"]) == set(direction["senses"]) == set(labels)
        for sign, step in direction["at_price"].items():
            assert step["price"] == pytest.approx(0.05, rel=0.11)
            assert (step["dose"] > 0) == (sign == "+")
            beyond = [s for s in direction["steps"] if s["price"] >= 0.05]
            assert any(s["dose"] / step["dose"] >= 0.99 for s in beyond)
        smallest = min(direction["steps"], key=lambda step: abs(step["dose"]))
        for label in labels:  # for small steps as predicted
            predicted = smallest["dose"] * direction["slopes"][label]
            assert smallest["changes"][label]["log_mass"] == pytest.approx(
                predicted, abs=0.1 * abs(predicted) + 1e-3
            )
    for row in taken["labels"]:
        assert row["windows"] + row["others"] == taken["measured_on"] == 60
        assert 0 < row["mass"] < 1
        assert len(row["examples"]) == 3
        before = row["examples"][0]["before"]
        assert [p for _, p in before] == sorted((p for _, p in before), reverse=True)
    for name in ("lm-steps-dose", "lm-steps-matrix"):
        assert Path(f"run/figures/{name}.png").stat().st_size > 0
    report = Path("run/report.html").read_text()
    assert f"{labels[0]}: next words before and after a step" in report
    assert not Path("run/steps").exists()
    written = Path("run/steps.json").stat().st_mtime_ns
    assert steps()[1] == output
    assert Path("run/steps.json").stat().st_mtime_ns == written  # nothing was left to do


def test_killed_steps_go_on(tiny: Path, stepped: Path, tmp_path: Path) -> None:
    shutil.copytree(stepped, tmp_path / "run")
    run, model = Run.load(tmp_path / "run"), load_model(str(tiny))
    texts = [(tiny / "held-out.txt").read_text()]
    settings = study.StepSettings(windows=60, price_windows=4)
    take = partial(study.steps_of_run, run, study.STUDY.results_of(run), model, texts, settings)

    def kill(stage: str, done: int, total: int, note: str = "") -> None:
        if (stage, done) == ("steps", 9):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(progress=kill)
    kept = sorted((tmp_path / "run" / "steps").iterdir())
    assert [path.stem for path in kept] == [*(f"{i:03d}" for i in range(9)), "doses"]
    kept[3].write_text("{")
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    seen: dict[Path, int] = {}

    def look(stage: str, done: int, total: int, note: str = "") -> None:
        if (stage, done) == ("steps", 9):
            seen.update({path: path.stat().st_mtime_ns for path in kept})

    resumed = take(progress=look)

    assert {path for path in kept if seen[path] != stamps[path]} == {kept[3]}  # the damaged one
    assert len(resumed.settings.doses) == 9
    assert study.steps_of(run) == resumed
    (tmp_path / "run" / "steps.json").unlink()
    assert to_json(take()) == to_json(resumed)


def test_steps_that_cannot_be_taken_are_one_line(
    mlx_entk: Command, tiny: Path, stepped: Path
) -> None:
    shutil.copytree(stepped, "run")
    assert "use `mlx-entk lm steps run`" in mlx_entk("intervene", "run")[2]
    shutil.copytree(stepped, "old")
    shutil.rmtree("old/vectors")
    shutil.copytree(tiny, "other")
    weights = cast(dict[str, mx.array], mx.load("other/model.safetensors"))
    mx.save_safetensors("other/model.safetensors", {k: 2 * v for k, v in weights.items()})
    Path("short.txt").write_text("The number of words is small.")
    text = str(tiny / "held-out.txt")
    given = {"RUN": "run", "--model": str(tiny), "--texts": text}
    cases: dict[str, dict[str, str]] = {
        "old does not keep its modes, as runs of earlier versions did not": {"RUN": "old"},
        "run was made of another model": {"--model": "other"},
        "the run has no layer 0: it has 1": {"--layer": "0"},
        "the run scores no upos=ZZZ: it has upos=": {"--labels": "upos=ZZZ"},
        "--doses a: write numbers": {"--doses": "a"},
        "doses must be positive": {"--doses": "0.1,-1"},
        "a middle 90% needs at least 20": {"--random": "3"},
        "price is 0: it must be above 0": {"--price": "0"},
        "must be at least 4": {"--windows": "1"},
        "share nothing with those of the run": {"--texts": "short.txt"},
    }
    for message, changes in cases.items():
        options = given | changes
        run = options.pop("RUN")
        parts = [part for pair in options.items() for part in pair]

        code, output, errors = mlx_entk("lm", "steps", run, *parts)

        assert (code, output) == (2, ""), errors
        lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1
        assert message in lines[0]
    assert not Path("run/steps.json").exists()
    vectors = np.load("run/vectors/layer-1.npz")["vectors"]
    np.savez("run/vectors/layer-1.npz", vectors=np.roll(vectors, 7, axis=0))
    code, _, errors = mlx_entk("lm", "steps", "run", "--model", tiny, "--texts", text, *QUICK)
    assert (code, "is not the one that the run's scores are of" in errors) == (2, True), errors
