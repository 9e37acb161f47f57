"""``mlx-entk lm``: modes of the layers of a language model."""

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

from .base import (
    Group,
    RunFolder,
    dry_run_option,
    memory_limit_option,
    refuse_before_subcommand,
)
from .display import progress, run_and_show, show, show_estimate, state_of_folder
from .inputs import parse_numbers

_FOLDER = click.Path(file_okay=False, path_type=Path)
# Modes that `mlx-entk lm show` prints by default.
_SHOWN = 10


@click.group(
    cls=Group,
    short_help="Find what a language model's layers know of the next word.",
    invoke_without_command=True,
    examples=[
        "mlx-entk lm contexts --model DIR --texts notes.txt --out contexts.jsonl",
        "mlx-entk lm --model DIR --contexts contexts.jsonl --layers 12-17 --out runs/lm",
        "mlx-entk lm show runs/lm --layer 16",
    ],
)
@click.option("--model", help="Folder or hub id of a model that mlx-lm can load.")
@click.option(
    "--contexts",
    type=click.Path(path_type=Path),
    help="File of windows that `mlx-entk lm contexts` wrote.",
)
@click.option("--layers", help="Layers, such as 12-17 or 0,5; by default the last one.")
@click.option(
    "--select",
    "selection",
    multiple=True,
    default=SELECTION,
    show_default=True,
    help="Weights inside a layer, as a dotted name; may be given more than once.",
)
@click.option(
    "--modes",
    default=LMConfig.modes,
    show_default=True,
    help="Number of leading modes to find in each layer.",
)
@click.option(
    "--tolerance",
    default=LMConfig.tolerance,
    show_default=True,
    help="Residual at which the solver stops, as a share of the largest eigenvalue.",
)
@click.option(
    "--seed",
    default=LMConfig.seed,
    show_default=True,
    help="Seed of the split into halves, the random directions, the initialisation and the solver.",
)
@memory_limit_option
@click.option("--out", type=_FOLDER, help="Run folder to write.")
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

    For each layer, finds the leading modes of S^½ J Jᵀ S^½. J is the Jacobian of the last hidden
    state by the layer's weights, and S = UᵀU of the unembedding U. Scores how well the modes tell
    labels of the next word apart, compared with principal directions, random directions, and the
    same model at random initialisation. Writes a run folder with results.json, spectra.npz,
    figures/ and report.html. Run the same command again to continue after an interruption. If
    mlx.launch starts the command, its ranks share the work.
    """
    if context.invoked_subcommand is not None:
        refuse_before_subcommand(
            context,
            [*settings, "model", "contexts", "layers", "memory_limit", "out", "dry_run"],
        )
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
        state = state_of_folder(STUDY, config, out)
        stages = estimate(config, model=loaded, contexts=rows, memory_limit=limit)
        return show_estimate(out, state, stages)
    run_and_show(STUDY, config, out, group, model=loaded, contexts=rows, memory_limit=limit)
    return None


def _parse_layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(parse_numbers(text))
    except ValueError as error:
        raise InputError(f"--layers {text}: write 12-17 or 0,5") from error


@lm.command(
    "contexts",
    short_help="Cut text into windows, the contexts of `mlx-entk lm`.",
    examples=[
        "mlx-entk lm contexts --model DIR --texts docs/ --count 1024 --window 64 \\\n"
        "    --out contexts.jsonl"
    ],
)
@click.option("--model", required=True, help="Model whose tokenizer to use.")
@click.option(
    "--texts",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="A text file, or a folder of .txt and .md files; may be given more than once.",
)
@click.option("--count", default=1024, show_default=True, help="Number of windows.")
@click.option("--window", default=64, show_default=True, help="Tokens in each window.")
@click.option(
    "--tagger",
    metavar="MODULE:FUNCTION",
    help="A function that returns the words of a text as (start, end, labels); by default a small "
    "set of rules for English. It is imported, first from the working folder, and run.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of windows.")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write, with one window as JSON on each line.",
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
    """Cut text into windows that end before a word with known labels, and write them to a file."""
    if min(count, window) < 1:
        raise InputError("--count and --window must be at least 1")
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
        raise InputError(f"there is no .txt or .md file below {', '.join(map(str, paths))}")
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {file}: {error}") from error
    return texts


@lm.command(
    "show",
    short_help="Print the windows at the two ends of each mode.",
    examples=["mlx-entk lm show runs/lm --layer 16 --mode 3"],
)
@click.argument("path", metavar="RUN", type=RunFolder())
@click.option("--layer", type=int, help="Layer; by default the first one of the run.")
@click.option(
    "--mode", "only", type=int, help=f"Mode, counted from 0; by default the first {_SHOWN}."
)
@click.option(
    "--windows",
    "count",
    default=5,
    show_default=True,
    help="Number of windows at each end of a mode.",
)
def show_command(path: Path, layer: int | None, only: int | None, count: int) -> None:
    """Print the windows with the largest and smallest scores of each mode of a finished RUN."""
    run = Run.load(path)
    if study_of(run) is not STUDY:
        raise InputError(f"{path} is a {run.study} run, not a run of `mlx-entk lm`")
    results = STUDY.results_of(run)
    layers = [row.layer for row in results.layers]
    chosen = layers[0] if layer is None else layer
    if chosen not in layers:
        raise InputError(f"the run has no layer {chosen}: it has {', '.join(map(str, layers))}")
    last = results.config.modes - 1
    if only is not None and not 0 <= only <= last:
        raise InputError(f"the run has modes 0 to {last}, not {only}")
    modes = range(min(_SHOWN, last + 1)) if only is None else [only]
    show(window_tables(results, run, chosen, modes, count))
