"""``mlx-entk lm``: language models."""

from pathlib import Path
from typing import Any

import click

from mlx_entk._memory import parse_bytes
from mlx_entk.distributed import ranks
from mlx_entk.errors import InputError
from mlx_entk.lm import contexts as windows
from mlx_entk.lm.model import SELECTION, load_model
from mlx_entk.lm.tagging import tag
from mlx_entk.runs import Run
from mlx_entk.studies.base import study_of
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.kernel.sources import load_function
from mlx_entk.studies.language_model import STUDY, LMConfig, estimate, prepare, window_tables

from .base import Group, RunFolder, dry_run_option
from .display import progress, run_and_show, show, show_estimate
from .inputs import parse_numbers

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(
    cls=Group,
    short_help="What a language model's layers know of the next word.",
    invoke_without_command=True,
    examples=[
        "mlx-entk lm contexts --model DIR --texts notes.txt --out contexts.jsonl",
        "mlx-entk lm --model DIR --contexts contexts.jsonl --layers 12-17 --out runs/lm",
        "mlx-entk lm show runs/lm --layer 16",
    ],
)
@click.option("--model", help="A folder or hub id that mlx-lm loads.")
@click.option("--contexts", type=click.Path(path_type=Path), help="Windows, one JSON a line.")
@click.option("--layers", help="Such as 12-17 or 0,5; by default the last.")
@click.option(
    "--select",
    "selection",
    multiple=True,
    default=SELECTION,
    show_default=True,
    help="Weights inside a layer; may be given more than once.",
)
@click.option("--modes", default=LMConfig.modes, show_default=True, help="Of each layer.")
@click.option(
    "--tolerance",
    default=LMConfig.tolerance,
    show_default=True,
    help="Residual, as a part of the largest eigenvalue, at which the solver stops.",
)
@click.option(
    "--seed",
    default=LMConfig.seed,
    show_default=True,
    help="Of halves, random directions, initialisation and solver.",
)
@click.option("--memory-limit", metavar="SIZE", help="Such as 4GB; default half of what is free.")
@click.option("--out", type=_FOLDER, help="Run folder.")
@dry_run_option
@click.pass_context
def lm(
    context: click.Context,
    /,
    model: str | None,
    contexts: Path | None,
    layers: str | None,
    memory_limit: str | None,
    out: Path | None,
    dry_run: bool,
    **settings: Any,
) -> list[Stage] | None:
    """Find what the layers of a language model know of the next word, by their kernels' modes.

    Finds for each layer the leading modes of S^½ J Jᵀ S^½, with J the Jacobian of the last hidden
    state by the layer's weights and S of the unembedding. Says how well they tell labels of the
    next word, compared with principal and random directions and with the same model at random
    initialisation. Run the same command again to continue after an interruption, from the last
    product. Started by mlx.launch, the ranks share the work.
    """
    if context.invoked_subcommand is not None:
        return None
    for name, value in {"--model": model, "--contexts": contexts, "--out": out}.items():
        if value is None:
            raise InputError(f"{name} is missing: `mlx-entk lm --help` shows an example")
    assert model is not None
    assert contexts is not None
    assert out is not None
    group = ranks()
    limit = parse_bytes(memory_limit) if memory_limit else None
    rows = windows.read_contexts(contexts)
    loaded = load_model(model)
    numbers = _parse_layers(layers) if layers else (len(loaded.layers) - 1,)
    config = prepare(LMConfig(model=model, layers=numbers, **settings), loaded, rows)
    if dry_run:
        stages = estimate(config, model=loaded, contexts=rows, memory_limit=limit)
        return show_estimate(out, stages)
    run_and_show(STUDY, config, out, group, model=loaded, contexts=rows, memory_limit=limit)
    return None


def _parse_layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(parse_numbers(text))
    except ValueError as error:
        raise InputError(f"--layers {text}: write 12-17 or 0,5") from error


@lm.command(
    "contexts",
    examples=[
        "mlx-entk lm contexts --model DIR --texts docs/ --count 1024 --window 64 \\\n"
        "    --out contexts.jsonl"
    ],
)
@click.option("--model", required=True, help="Whose tokenizer to use.")
@click.option(
    "--texts",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="A text file, or a folder of .txt and .md files; may be given more than once.",
)
@click.option("--count", default=1024, show_default=True, help="Windows.")
@click.option("--window", default=64, show_default=True, help="Tokens of each.")
@click.option(
    "--tagger",
    metavar="MODULE:FUNCTION",
    help="Gives the words of a text as (start, end, labels); by default a small rule set for "
    "English. Imports and runs that code.",
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of windows.")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file."
)
def contexts_command(
    model: str,
    texts: tuple[Path, ...],
    count: int,
    window: int,
    tagger: str | None,
    seed: int,
    out: Path,
) -> None:
    """Cut text into windows that end before a word whose class is known."""
    if min(count, window) < 1:
        raise InputError("--count and --window have to be at least 1")
    function = load_function("--tagger", tagger, "MODULE:FUNCTION") if tagger else tag
    tokenizer = load_model(model).tokenizer

    def encode(text: str) -> list[int]:
        tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return tokens

    with progress() as update:
        rows = windows.build_contexts(
            _read_texts(texts), encode, function, count=count, window=window, seed=seed,
            progress=update,
        )  # fmt: skip
    windows.write_contexts(out, rows)
    show([], contexts=out)


def _read_texts(paths: tuple[Path, ...]) -> list[str]:
    files: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md"))
        files += inside if path.is_dir() else [path]
    if not files:
        raise InputError(f"no .txt or .md file below {', '.join(map(str, paths))}")
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {file}: {error}") from error
    return texts


@lm.command("show", examples=["mlx-entk lm show runs/lm --layer 16 --mode 3"])
@click.argument("path", metavar="RUN", type=RunFolder())
@click.option("--layer", type=int, help="By default the first of the run.")
@click.option("--mode", "only", type=int, help="Number from 0; by default the first ten.")
@click.option("--windows", "count", default=5, show_default=True, help="At each end of a mode.")
def show_command(path: Path, layer: int | None, only: int | None, count: int) -> None:
    """Print the windows with the largest and smallest scores of each mode."""
    run = Run.load(path)
    if study_of(run) is not STUDY:
        raise InputError(f"{path} is a {run.study} run, not one of `mlx-entk lm`")
    results = STUDY.results_of(run)
    layers = [row.layer for row in results.layers]
    chosen = layers[0] if layer is None else layer
    if chosen not in layers:
        raise InputError(f"the run has no layer {chosen}: it has {', '.join(map(str, layers))}")
    last = results.config.modes - 1
    if only is not None and not 0 <= only <= last:
        raise InputError(f"the run has modes 0 to {last}, not {only}")
    modes = range(min(10, last + 1)) if only is None else [only]
    show(window_tables(results, run, chosen, modes, count))
