"""What every command has: options for its output and its device, and examples in its help."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from mlx_entk._text import visible
from mlx_entk.errors import InputError

# The settings of the output are kept under this name in the metadata that nested contexts share.
_META = "mlx_entk"


def wants_json() -> bool:
    """Whether the command should print JSON."""
    return _wants("json")


def is_quiet() -> bool:
    """Whether the command should print nothing but errors."""
    return _wants("quiet")


def device_options() -> list[str]:
    """The option --device as it was given, for a process that does part of the work."""
    device = click.get_current_context().meta.get(f"{_META}.device")
    return ["--device", device] if device else []


dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Estimate the time and memory that this would take here, and stop.",
)


memory_limit_option = click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Memory to use at most, such as 4GB; by default half of what is free.",
)


code_option = click.option(
    "--model",
    metavar="MODULE:FACTORY",
    help="For a run of `mlx-entk kernel --model` that keeps no graph of its model: the function "
    "that makes it, which is imported, first from the working folder, and run.",
)


def _wants(setting: str) -> bool:
    return bool(click.get_current_context().meta.get(f"{_META}.{setting}"))


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta[f"{_META}.{parameter.name}"] = True


def _set_device(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    context.meta[f"{_META}.device"] = value
    if value == "gpu" and not mx.is_available(mx.Device(mx.gpu)):
        raise InputError(
            "--device gpu: MLX finds no GPU on this machine; leave the option out to use the CPU"
        )
    mx.set_default_device(mx.Device(mx.gpu if value == "gpu" else mx.cpu))


def _common_options() -> list[click.Parameter]:
    def option(*names: str, text: str, **settings: Any) -> click.Option:
        # Eager, so that the device is set before other options load anything.
        return click.Option(
            names, help=text, expose_value=False, is_eager=True, show_default=False, **settings
        )

    return [
        option(
            "--device",
            type=click.Choice(["cpu", "gpu"]),
            callback=_set_device,
            text="Device that MLX computes on; by default the GPU if the machine has one.",
        ),
        option(
            "--json",
            is_flag=True,
            callback=_remember,
            text="Print one JSON document instead of tables.",
        ),
        option(
            "-q",
            "--quiet",
            is_flag=True,
            callback=_remember,
            text="Print nothing but errors, and JSON if --json is given.",
        ),
    ]


class _WithExamples(click.Command):
    """Adds the common options, and prints examples as you would type them."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **options: Any):
        super().__init__(*args, **options)
        self.examples = examples
        if not isinstance(self, click.Group) or self.invoke_without_command:
            self.params = [*self.params, *_common_options()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each example on a line of its own."""
        if self.examples:
            with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
                for example in self.examples:
                    formatter.write("".join(f"  {line}\n" for line in example.splitlines()))


class Command(_WithExamples):
    """A command with the common options and ``examples``."""


class Group(_WithExamples, click.Group):
    """A group of instances of ``Command``, which may be a command itself."""

    command_class = Command


class RunFolder(click.Path):
    """A run folder; the shell completes the names of existing ones."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Run folders below what is typed, by default below runs/."""
        typed = Path(incomplete or "runs")
        parent = typed if typed.is_dir() else typed.parent
        folders = [path.parent for path in sorted(parent.glob("*/config.json"))]
        if (parent / "config.json").exists():
            folders.append(parent)
        names = map(str, folders)
        # The shell puts them on the command line as they are: no name that it would read otherwise.
        return [
            CompletionItem(name)
            for name in names
            if name.startswith(incomplete) and visible(name) == name == shlex.quote(name)
        ]


def refuse_options(context: click.Context, names: Sequence[str], why: str) -> None:
    """Raise InputError for an option that was given but would have no effect."""
    options = {p.name: p.opts[0] for p in context.command.params}
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(f"{options[name]} {why}")


def refuse_before_subcommand(context: click.Context, names: Sequence[str]) -> None:
    """Raise InputError for an option of a group that was given in front of its command."""
    refuse_options(context, names, f"has no effect before {context.invoked_subcommand}")
