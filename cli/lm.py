"""``mlx-entk lm``: modes of the layers of a language model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from mlx_entk._files import digest, digest_of_texts, read_json, write_json
from mlx_entk._memory import parse_bytes
from mlx_entk._parameters import flatten_tree
from mlx_entk._records import to_json
from mlx_entk.distributed import Group as Ranks
from mlx_entk.distributed import first_says, is_first, ranks
from mlx_entk.errors import InputError
from mlx_entk.lm import contexts as windows
from mlx_entk.lm.generation import Bos, beginning, encoder, greedy
from mlx_entk.lm.model import SELECTION, LanguageModel, load_model
from mlx_entk.lm.tagging import spacy_tagger, tag
from mlx_entk.lm.texts import read_texts
from mlx_entk.runs import Run
from mlx_entk.studies.base import study_of
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.kernel.sources import load_function
from mlx_entk.studies.language_model import (
    STUDY,
    LMConfig,
    StepSettings,
    estimate,
    prepare,
    step_summary,
    step_tables,
    steps_of_run,
    window_ends,
    window_tables,
)
from mlx_entk.studies.reporting import write_report

from .base import (
    Group,
    RunFolder,
    dry_run_option,
    memory_limit_option,
    refuse_before_subcommand,
)
from .display import progress, run_and_show, show, show_estimate, state_of_folder
from .inputs import parse_numbers

C = TypeVar("C", bound=Callable[..., Any])
_FOLDER = click.Path(file_okay=False, path_type=Path)
# Modes that `mlx-entk lm show` prints by default.
_SHOWN = 10


# Before the name of a pipeline of spaCy, as a tagger.
_SPACY = "spacy:"

texts_option = click.option(
    "--texts",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="A text file, or a folder of .txt, .md and .txt.gz files; may be given more than once. A "
    "line <|endoftext|> separates documents inside a file.",
)
tagger_option = click.option(
    "--tagger",
    metavar="NAME",
    help="spacy:PIPELINE, for an installed pipeline of spaCy; or MODULE:FUNCTION, which returns "
    "the words of a text as (start, end, labels) and is imported, first from the working folder, "
    "and run. By default a small set of rules for English.",
)
bos_option = click.option(
    "--bos",
    type=click.Choice(get_args(Bos)),
    default="auto",
    show_default=True,
    help="Whether the token that begins a text stands before each window; auto: if the tokenizer "
    "adds one.",
)


def study_options(command: C) -> C:
    """Add the options of a study of layers to a command."""
    for option in reversed(_STUDY_OPTIONS):
        command = option(command)
    return command


_STUDY_OPTIONS = (
    click.option(
        "--layers",
        help="Layers, such as 12-17 or 0,5, or all; by default the last one, and of `paper` the "
        "last but one.",
    ),
    click.option(
        "--select",
        "selection",
        multiple=True,
        default=SELECTION,
        show_default=True,
        help="Weights inside a layer, as a dotted name; may be given more than once, for the "
        "kernel of all of them.",
    ),
    click.option(
        "--modes",
        default=LMConfig.modes,
        show_default=True,
        help="Number of leading modes to find in each layer.",
    ),
    click.option(
        "--tolerance",
        default=LMConfig.tolerance,
        show_default=True,
        help="Residual ‖Kv − λv‖/λ at which the solver stops.",
    ),
    click.option(
        "--products",
        type=int,
        help="The most products that the solver takes for a layer; what has not converged by then "
        "is shown with its residual. By default as many as it takes.",
    ),
    bos_option,
    click.option(
        "--initial/--no-initial",
        default=LMConfig.initial,
        show_default=True,
        help="Compare with the same model drawn anew, which takes as long again.",
    ),
    click.option(
        "--splits",
        default=LMConfig.splits,
        show_default=True,
        help="How many times to split the windows in halves.",
    ),
    click.option(
        "--sae",
        multiple=True,
        metavar="LAYER=FILE",
        help="A sparse autoencoder of a layer's output to compare with, as a safetensors file; "
        "may be given more than once.",
    ),
    click.option(
        "--seed",
        default=LMConfig.seed,
        show_default=True,
        help="Seed of the splits, the random directions, the initialisation and the solver.",
    ),
)


dequantise_option = click.option(
    "--dequantise",
    is_flag=True,
    help="Turn a model's quantised weights into single precision.",
)


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
@click.option("--model", help="Folder or hub id of a model that mlx-lm can load, or a .gguf file.")
@dequantise_option
@click.option(
    "--contexts",
    type=click.Path(path_type=Path),
    help="File of windows that `mlx-entk lm contexts` wrote.",
)
@study_options
@memory_limit_option
@click.option("--out", type=_FOLDER, help="Run folder to write.")
@dry_run_option
@click.pass_context
def lm(
    context: click.Context,
    /,
    model: str | None,
    dequantise: bool,
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
            [
                *settings,
                "model",
                "dequantise",
                "contexts",
                "layers",
                "memory_limit",
                "out",
                "dry_run",
            ],
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
    loaded = load_model(model, dequantise)
    numbers = _parse_layers(layers, loaded) if layers else (len(loaded.layers) - 1,)
    config = prepare(LMConfig(model=model, layers=numbers, **settings), loaded, rows)
    if dry_run:
        state = state_of_folder(STUDY, config, out)
        stages = estimate(config, model=loaded, contexts=rows, memory_limit=limit)
        return show_estimate(out, state, stages)
    run_and_show(STUDY, config, out, group, model=loaded, contexts=rows, memory_limit=limit)
    return None


def _parse_layers(text: str, model: LanguageModel) -> tuple[int, ...]:
    if text == "all":
        return tuple(range(len(model.layers)))
    try:
        return tuple(parse_numbers(text))
    except ValueError as error:
        raise InputError(f"--layers {text}: write 12-17, 0,5 or all") from error


@lm.command(
    "contexts",
    short_help="Cut text into windows, the contexts of `mlx-entk lm`.",
    examples=[
        "mlx-entk lm contexts --model DIR --texts docs/ --count 1024 --window 64 \\\n"
        "    --out contexts.jsonl",
        "mlx-entk lm contexts --model DIR --texts stories.txt.gz --tagger spacy:en_core_web_sm \\\n"
        "    --balance upos=128 --agree --one-a-document --bos no --out contexts.jsonl",
    ],
)
@click.option(
    "--model",
    required=True,
    help="Model whose tokenizer to use, and whose next word --agree takes.",
)
@dequantise_option
@texts_option
@click.option("--count", default=1024, show_default=True, help="Number of windows.")
@click.option("--window", default=64, show_default=True, help="Tokens in each window.")
@tagger_option
@click.option(
    "--balance",
    metavar="LABEL=COUNT",
    help="As many windows of each value of a label, such as upos=128, in place of --count: of the "
    "--values most frequent ones, without punctuation.",
)
@click.option(
    "--values", default=8, show_default=True, help="Number of values that --balance takes."
)
@click.option(
    "--agree",
    is_flag=True,
    help="Label the model's own next word, and keep only windows after which it is of the same "
    "class as the text's.",
)
@click.option(
    "--one-a-document", is_flag=True, help="Draw no more than one window from each document."
)
@bos_option
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of windows.")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write, with one window as JSON on each line.",
)
def contexts_command(
    model: str,
    dequantise: bool,
    texts: tuple[Path, ...],
    count: int,
    window: int,
    tagger: str | None,
    balance: str | None,
    values: int,
    agree: bool,
    one_a_document: bool,
    bos: Bos,
    seed: int,
    out: Path,
) -> None:
    """Cut text into windows that end before a word with known labels, and write them to a file."""
    if min(count, window, values) < 1:
        raise InputError("--count, --window and --values must be at least 1")
    quotas = _parse_quotas(balance, values) if balance else None
    function = _tagger(tagger)
    loaded = load_model(model, dequantise)
    with progress() as update:
        rows = windows.build_contexts(
            read_texts(texts), encoder(loaded), function, count=quotas or count, window=window,
            one_a_document=one_a_document, seed=seed, progress=update,
            continued=greedy(loaded, beginning(loaded, bos)) if agree else None,
        )  # fmt: skip
    windows.write_contexts(out, rows)
    show([], contexts=out)


@lm.command(
    "paper",
    short_help="Repeat the published protocol on a model and texts of your own.",
    examples=[
        "mlx-entk lm paper --model gemma-3-270m.gguf --texts stories.txt.gz \\\n"
        "    --tagger spacy:en_core_web_sm --bos no --out runs/paper"
    ],
)
@click.option(
    "--model",
    required=True,
    help="Folder or hub id of a model that mlx-lm can load, or a .gguf file.",
)
@dequantise_option
@texts_option
@tagger_option
@click.option("--window", default=64, show_default=True, help="Tokens in each window.")
@click.option(
    "--each", default=128, show_default=True, help="Windows of each of the --values word classes."
)
@click.option("--values", default=8, show_default=True, help="Number of word classes.")
@study_options
@memory_limit_option
@click.option("--out", required=True, type=_FOLDER, help="Run folder to write.")
def paper_command(
    model: str,
    dequantise: bool,
    texts: tuple[Path, ...],
    tagger: str | None,
    window: int,
    each: int,
    values: int,
    layers: str | None,
    memory_limit: str | None,
    out: Path,
    products: int | None,
    **settings: Any,
) -> None:
    """Repeat the protocol of Lin, arXiv 2510.00468v4: windows, modes, labels and controls.

    Draws one window from each document, as many of each word class, where the class of the
    model's own next word is that of the text's, and studies the last layer but one, unless
    --layers names others, with two products for each mode, unless --products says otherwise. The
    windows are kept beside the run folder, in OUT-contexts.jsonl: the same command goes on from
    there.
    """
    if min(window, each, values) < 1:
        raise InputError("--window, --each and --values must be at least 1")
    group = ranks()
    limit = parse_bytes(memory_limit) if memory_limit else None
    loaded = load_model(model, dequantise)
    kept = out.with_name(f"{out.name}-contexts.jsonl")
    rows = _kept_windows(
        loaded, read_texts(texts), tagger, windows.Quotas("upos", each, values), window,
        settings["bos"], settings["seed"], kept, group,
    )  # fmt: skip
    last_but_one = max(0, len(loaded.layers) - 2)
    numbers = _parse_layers(layers, loaded) if layers else (last_but_one,)
    config = prepare(
        LMConfig(
            model=model, layers=numbers, products=products or 2 * settings["modes"], **settings
        ),
        loaded,
        rows,
    )
    run_and_show(STUDY, config, out, group, model=loaded, contexts=rows, memory_limit=limit)


def _kept_windows(
    model: LanguageModel,
    texts: list[str],
    tagger: str | None,
    quotas: windows.Quotas,
    window: int,
    bos: Bos,
    seed: int,
    kept: Path,
    group: Ranks | None,
) -> list[windows.Context]:
    """The windows of the published protocol: those of a file, or drawn and kept there.

    Beside the file stands what they were drawn from, so that no other request takes them over.
    """
    ahead = beginning(model, bos)
    request = {
        "texts": digest_of_texts(texts),
        "weights": digest(flatten_tree(model.module.parameters()))[:16],
        "tagger": tagger or "rules",
        "label": quotas.label,
        "each": quotas.each,
        "values": quotas.values,
        "window": window,
        "ahead": list(ahead),
        "seed": seed,
    }
    origin = kept.with_suffix(".json")
    if is_first(group) and not kept.exists():
        with progress() as update:
            rows = windows.build_contexts(
                texts, encoder(model), _tagger(tagger), count=quotas, window=window,
                one_a_document=True, continued=greedy(model, ahead), seed=seed, progress=update,
            )  # fmt: skip
        write_json(origin, request)
        windows.write_contexts(kept, rows)
    first_says(True, group)  # the others wait for the file
    before = read_json(origin) if origin.exists() else {}
    other = [name for name, value in request.items() if before.get(name) != value]
    if other:
        raise InputError(
            f"the windows in {kept} were drawn with other {', '.join(other)}: remove the file, or "
            "choose another --out"
        )
    return windows.read_contexts(kept)


def _tagger(name: str | None) -> windows.Tagger:
    """The tagger that a user names; the one by rules if none."""
    if name is None:
        return tag
    if name.startswith(_SPACY):
        return spacy_tagger(name.removeprefix(_SPACY))
    function: windows.Tagger = load_function("--tagger", name, "MODULE:FUNCTION")
    return function


def _parse_quotas(text: str, values: int) -> windows.Quotas:
    label, _, each = text.partition("=")
    if not label or not each.isdigit() or int(each) < 1:
        raise InputError(f"--balance {text}: write LABEL=COUNT, such as upos=128")
    return windows.Quotas(label, int(each), values)


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
    run = _finished(path)
    results = STUDY.results_of(run)
    layers = [row.layer for row in results.layers]
    chosen = layers[0] if layer is None else layer
    if chosen not in layers:
        raise InputError(f"the run has no layer {chosen}: it has {', '.join(map(str, layers))}")
    last = results.config.modes - 1
    if only is not None and not 0 <= only <= last:
        raise InputError(f"the run has modes 0 to {last}, not {only}")
    modes = range(min(_SHOWN, last + 1)) if only is None else [only]
    ends = window_ends(results, run, chosen, modes, count)
    show(window_tables(ends), {"modes": to_json(ends)})


def _finished(path: Path) -> Run:
    """The run of `mlx-entk lm` in a folder."""
    run = Run.load(path)
    if study_of(run) is not STUDY:
        raise InputError(f"{path} is a {run.study} run, not a run of `mlx-entk lm`")
    return run


@lm.command(
    "steps",
    short_help="Step a layer's weight along modes, and measure what the model expects next.",
    examples=[
        "mlx-entk lm steps runs/lm --model DIR --texts other.txt --labels upos=VERB,upos=NOUN"
    ],
)
@click.argument("path", metavar="RUN", type=RunFolder())
@click.option("--model", required=True, help="The model that the run was made of.")
@dequantise_option
@click.option(
    "--texts",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Text to measure the price on, as for `mlx-entk lm contexts`. Of the text that the run's "
    "windows are from, only what is in none of them is used.",
)
@click.option("--layer", type=int, help="Layer; by default the best one of the run.")
@click.option(
    "--labels",
    metavar="LABEL,…",
    help="Labels along whose modes to step, such as upos=VERB; by default the five that modes tell "
    "best.",
)
@click.option(
    "--doses",
    metavar="DOSE,…",
    help="Sizes of the steps as shares of the weight's norm, such as 0.01,0.1; each is taken with "
    "both signs. By default nine, from where modes cost 1% in perplexity to where a random "
    "direction doubles it.",
)
@click.option(
    "--price",
    default=StepSettings.price,
    show_default=True,
    help="Rise of the perplexity, as a share, at which directions are compared.",
)
@click.option(
    "--random",
    default=StepSettings.random,
    show_default=True,
    help="Number of random directions to compare with.",
)
@click.option(
    "--windows",
    default=StepSettings.windows,
    show_default=True,
    help="The most windows of each half that are used.",
)
@click.option(
    "--price-windows",
    default=StepSettings.price_windows,
    show_default=True,
    help="Windows of other text that the price is measured on.",
)
@click.option(
    "--seed",
    default=StepSettings.seed,
    show_default=True,
    help="Seed of the random directions, and of the choice of text.",
)
@memory_limit_option
def steps_command(
    path: Path,
    model: str,
    dequantise: bool,
    texts: tuple[Path, ...],
    labels: str | None,
    doses: str | None,
    memory_limit: str | None,
    **settings: Any,
) -> None:
    """Step a weight along the modes of a finished RUN, and measure what the model expects next.

    For each label takes the mode that tells it best on one half of the windows, and adds the
    mode's direction to the weight of the layer, or subtracts it, at several doses. Measures on the
    other half how probable the label's words become, and on other text what that costs in
    perplexity, alongside random directions, other modes, and the principal direction of the
    weight's input that is closest to the mode. Writes steps.json, figures/ and report.html into the
    run folder. The model is the same again afterwards. Run the same command again to continue after
    an interruption.
    """
    run = _finished(path)
    results = STUDY.results_of(run)
    asked = StepSettings(
        labels=tuple(filter(None, (part.strip() for part in (labels or "").split(",")))),
        doses=_parse_doses(doses) if doses else (),
        **settings,
    )
    limit = parse_bytes(memory_limit) if memory_limit else None
    loaded = load_model(model, dequantise)
    with run.session():
        with progress() as update:
            taken = steps_of_run(
                run, results, loaded, read_texts(texts), asked, update, limit
            )  # fmt: skip
        report = write_report(run)
    show(step_tables(taken), {"steps": to_json(taken)}, found=step_summary(taken), report=report)


def _parse_doses(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--doses {text}: write numbers, such as 0.01,0.1") from error
