"""Options that every command has, help and completion, interruptions, and estimates."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from mlx_entk._text import ASCII_ERRORS, in_ascii
from mlx_entk.runs import Run
from mlx_entk.studies import toy_models
from mlx_entk.studies.toy_models.training import TMSConfig, train_toy
from mlx_entk_cli.base import Group
from mlx_entk_cli.main import cli
from tests.conftest import Command, Finished

SMALL = ("modular", "mlp", "--p", "5", "--width", "16", "--epochs", "40")
TOY = ("tms", "--n", "4", "--m", "2", "--rows", "8", "--steps", "20")
PROGRAM = str(Path(sys.executable).with_name("mlx-entk"))


def commands(
    group: click.Group = cli, *path: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    for name, command in group.commands.items():
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


EVERY = dict(commands())


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_explains_itself(mlx_entk: Command, words: tuple[str, ...]) -> None:
    code, output, _ = mlx_entk(*words, "--help")

    assert code == 0
    described = [p for p in EVERY[words].params if isinstance(p, click.Option) and not p.help]
    assert described == []
    if words not in (("completion",), ("doctor",)):
        assert re.search(r"Examples?:\n(  .+\n)+", output)
        assert all(option in output for option in ("--json", "--quiet", "--device"))


def test_examples_in_the_help_are_commands_that_exist() -> None:
    groups = [command for command in cli.commands.values() if isinstance(command, Group)]
    for command in [*EVERY.values(), *groups]:
        for example in getattr(command, "examples", ()):
            words = example.replace("\\\n", " ").split()
            assert words[0] == "mlx-entk"
            found: click.Command = cli
            for word in words[1:]:
                if not isinstance(found, click.Group) or word.startswith("-"):
                    break
                found = found.commands[word]
            if found.name != "sweep":
                options = {name for parameter in found.params for name in parameter.opts}
                assert {word for word in words if word.startswith("--")} <= options


def test_json_is_data(mlx_entk: Command) -> None:
    code, output, _ = mlx_entk(*SMALL, "--out", "run", "--json")

    document = json.loads(output)
    assert code == 0
    assert document["report"] == "run/report.html"
    assert document["results"] == Run.load(Path("run")).results
    row = document["results"]["alignment"][0]
    assert isinstance(row["overlap"], float)
    assert row["modes"] == [1, 8]
    for command, key in ((("show", "run"), "results"), (("runs", "."), "runs"),
                         (("doctor",), "findings"), (("compare", "run", "run"), "comparison"),
                         (("regress", "run"), "regression"),
                         (("intervene", "run"), "intervention"), (("export", "run"), "graph"),
                         (("verify", "run", "--against", "onnxruntime"), "verification"),
                         ((*SMALL, "--dry-run"), "stages")):  # fmt: skip
        code, output, _ = mlx_entk(*command, "--json")
        assert code == 0 or command == ("doctor",)  # which finds a busy machine slow
        assert json.loads(output)[key]
    assert not Path("compare.html").exists()  # nobody said --out
    (listed,) = json.loads(mlx_entk("runs", ".", "--json")[1])["runs"]
    assert listed["config"]["p"] == 5
    assert isinstance(listed["headline"]["test accuracy"], float)


def test_a_wide_table_comes_in_parts_and_loses_nothing(
    mlx_entk: Command, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished("run", *SMALL)
    wide = numbers_in(mlx_entk("show", "run")[1])
    for width in (40, 60, 80):
        monkeypatch.setattr("mlx_entk_cli.display.console", Console(width=width))
        output = mlx_entk("show", "run")[1]
        assert "…" not in output
        assert max(map(len, output.splitlines()[:-1])) <= width
        assert numbers_in(output) >= wide
        assert ("continued" in output) == (width < 80)


def numbers_in(output: str) -> set[str]:
    return set(re.findall(r"\d+\.\d\d\b", output))


def test_a_terminal_of_ascii_spells_what_it_lacks(
    mlx_entk: Command, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished("run", *SMALL)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=ASCII_ERRORS)
    monkeypatch.setattr("mlx_entk_cli.display.console", Console(width=80, file=stream))
    assert mlx_entk("show", "run")[0] == 0
    stream.flush()
    shown = stream.buffer.getvalue().decode("ascii")
    assert "Overlap ||Q^TF||^2 of groups" in shown
    assert "1-8" in shown
    assert "\\u" not in shown
    assert in_ascii("実験 λ ≥ 1") == "\\u5b9f\\u9a13 lambda >= 1"


def test_quiet_prints_nothing(mlx_entk: Command) -> None:
    assert mlx_entk(*TOY, "--out", "run", "--quiet") == (0, "", "")
    assert mlx_entk("show", "run", "-q") == (0, "", "")
    assert mlx_entk("export", "run", "-q") == (0, "", "")


def test_a_dry_run_writes_nothing_and_says_where_it_would(
    mlx_entk: Command, tmp_path: Path
) -> None:
    for command in (
        (*SMALL, "--dry-run"),
        (*TOY, "--dry-run"),
        ("tms", "--paper", "--steps", "40", "--rows", "10", "--dry-run"),
        ("tms", "double-descent", "--rows", "4", "--steps", "40", "--dry-run"),
        ("modular", "transformer", "--p", "5", "--d-model", "8", "--epochs", "80", "--dry-run"),
        ("sweep", "--seeds", "0-2", "--dry-run", *TOY),
    ):
        code, output, errors = mlx_entk(*command)
        assert code == 0, errors
        assert "total" in output
        assert "would be created" in output
        assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_what_is_there(mlx_entk: Command, finished: Finished) -> None:
    finished("run", *SMALL)
    assert (
        "is finished: nothing would be computed" in mlx_entk(*SMALL, "--out", "run", "--dry-run")[1]
    )
    Path("run/results.json").unlink()
    assert "continued from the checkpoint at 40" in mlx_entk(*SMALL, "--out", "run", "--dry-run")[1]


def test_runs_of_two_studies_are_not_compared(mlx_entk: Command, finished: Finished) -> None:
    finished("a", *SMALL)
    finished("b", *TOY)

    for command, message in ((("compare", "a", "b"), "compare runs of one study"),
                             (("compare", "a"), "name at least two runs")):  # fmt: skip
        code, output, errors = mlx_entk(*command)
        assert (code, output) == (2, "")
        assert message in errors
    assert not Path("compare.html").exists()


def test_ctrl_c_leaves_a_run_that_goes_on_and_says_how(tmp_path: Path) -> None:
    arguments = [
        "modular",
        "mlp",
        "--p",
        "11",
        "--width",
        "64",
        "--epochs",
        "3000",
        "--out",
        "a run",
    ]
    process = subprocess.Popen(
        [PROGRAM, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    while not list(tmp_path.glob("a run/checkpoints/000010*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert output == ""
    last = errors.strip().splitlines()[-1]
    assert last == (
        "Error: interrupted: a run keeps what is done. To continue, run: mlx-entk modular mlp "
        "--p 11 --width 64 --epochs 3000 --out 'a run'"
    )
    assert not (tmp_path / "a run" / "results.json").exists()
    assert not [path for path in (tmp_path / "a run").rglob("*") if ".tmp" in path.name]


def test_ctrl_c_in_a_run_inside_a_run_names_the_outer_one(
    mlx_entk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: TMSConfig, *rest: Any) -> Any:
        if config.shuffled:
            raise KeyboardInterrupt
        return train_toy(config, *rest)

    monkeypatch.setattr(toy_models.study, "train_toy", interrupted)

    code, _, errors = mlx_entk(*TOY, "--out", "run")

    assert code == 130
    assert "Error: interrupted: run keeps what is done. To continue, run: mlx-entk tms" in errors


def test_output_without_a_terminal_has_no_colours(tmp_path: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "", "TERM": "xterm-256color"}
    for command in (["doctor"], ["modular", "mlp", "--help"], ["show", "nowhere"]):
        done = subprocess.run(
            [PROGRAM, *command], cwd=tmp_path, capture_output=True, check=False, env=environment
        )
        assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mod"], "modular"),
        (["modular", ""], "transformer"),
        (["modular", "mlp", "--wei"], "--weight-decay"),
        (["show", "runs/de"], "runs/demo"),
        (["show", ""], "runs/demo"),
        (["tms", "--device", ""], "gpu"),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(tmp_path: Path, shell: str, words: list[str], expected: str) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "config.json").write_text("{}")
    environment = {
        **os.environ,
        "_MLX_ENTK_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(["mlx-entk", *words]),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }

    done = subprocess.run(
        [PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )

    assert expected in re.split(r"[,\s]+", done.stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(mlx_entk: Command, shell: str) -> None:
    code, output, _ = mlx_entk("completion", shell)

    assert code == 0
    assert "_MLX_ENTK_COMPLETE" in output
