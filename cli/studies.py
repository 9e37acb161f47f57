"""The commands of studies, made from what each study says of its command and its settings."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource

from mlx_entk._records import to_json
from mlx_entk.errors import InputError
from mlx_entk.studies import STUDIES, Study
from mlx_entk.studies.base import Command as StudyCommand
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.settings import Setting, settings_of

from .base import Command, Group, dry_run_option
from .display import default_folder, run_and_show, show_estimate


@dataclass(frozen=True)
class _Offer:
    """A study with its command."""

    study: Study[Any, Any]
    command: StudyCommand

    @property
    def settings(self) -> list[Setting]:
        """The settings that are options of the command."""
        names = self.command.settings
        return [s for s in settings_of(self.study.config) if names is None or s.name in names]


def add_commands(root: click.Group) -> None:
    """Add the command of every study that has one, below the groups that they name."""
    offers = [_Offer(study, study.command) for study in STUDIES.values() if study.command]
    plain = [offer for offer in offers if not offer.command.flag]
    above = {offer.command.group.name for offer in plain if offer.command.group is not None}
    # Those without a group first: a command may be the group of others.
    for offer in sorted(plain, key=lambda offer: offer.command.group is not None):
        name, group = offer.command.name, offer.command.group
        variants = [o for o in offers if o.command.flag and o.command.name == name]
        command = _command(offer, variants, is_group=name in above)
        if group is None:
            root.add_command(command)
            continue
        if group.name not in root.commands:
            root.add_command(Group(group.name, help=group.help, short_help=group.help))
        parent = root.commands[group.name]
        assert isinstance(parent, click.Group)
        parent.add_command(command)


def _command(offer: _Offer, variants: Sequence[_Offer], is_group: bool) -> click.Command:
    """The command of a study, and of its variants, each of which is a flag."""
    described = offer.command
    flags = [
        click.Option([variant.command.flag], is_flag=True, help=variant.command.short_help)
        for variant in variants
    ]
    options: list[click.Parameter] = [*map(_option, offer.settings), *flags, _out_option()]
    if offer.study.estimate is not None:
        options += _options_of(dry_run_option)

    def run(out: Path | None, dry_run: bool = False, **given: Any) -> list[Stage] | None:
        context = click.get_current_context()
        if context.invoked_subcommand is not None:
            _refuse(
                context, [*given, "out", "dry_run"], f"belongs after {context.invoked_subcommand}"
            )
            return None
        study = offer.study
        for variant, flag in zip(variants, flags, strict=True):
            if given.pop(str(flag.name)):
                study = variant.study
                names = [setting.name for setting in variant.settings]
                others = [name for name in given if name not in names]
                _refuse(context, others, f"is set by {flag.opts[0]}: leave it out")
                given = {name: given[name] for name in names}
        return _run(study, given, out, dry_run)

    details: dict[str, Any] = {
        "name": described.name,
        "callback": run,
        "params": options,
        "help": described.help,
        "short_help": described.short_help,
        "examples": described.examples,
        "context_settings": {"show_default": True},
    }
    return Group(invoke_without_command=True, **details) if is_group else Command(**details)


def _run(
    study: Study[Any, Any], given: dict[str, Any], out: Path | None, dry_run: bool
) -> list[Stage] | None:
    """Run a study in its folder, by default one named after the settings, and show its results.

    With ``dry_run`` say instead what that would take; the estimate is returned to the command
    that asked for it.
    """
    config = study.config(**given)
    path = out or default_folder(study.name, to_json(config))
    if dry_run:
        assert study.estimate is not None  # else there is no such option
        return show_estimate(path, study.estimate(config))
    run_and_show(study, config, path)
    return None


def _option(setting: Setting) -> click.Option:
    details: dict[str, Any] = {"help": setting.help}
    kind = setting.kind
    if get_origin(kind) is tuple:
        kind, details["multiple"] = get_args(kind)[0], True
    if get_origin(kind) is Literal:
        kind = click.Choice(get_args(kind))
    if kind is bool:
        details["is_flag"] = True
    else:
        details["type"] = kind
    if setting.default is MISSING:
        details["required"] = True
    else:
        details["default"] = setting.default
    return click.Option([f"--{setting.option}", setting.name], **details)


def _out_option() -> click.Option:
    return click.Option(
        ["--out"],
        type=click.Path(file_okay=False, path_type=Path),
        help="Run folder; by default one below runs/ named after the settings.",
    )


def _options_of(decorate: Callable[[Any], Any]) -> list[click.Parameter]:
    """The options that a decorator of click adds."""

    def empty() -> None: ...

    return list(reversed(getattr(decorate(empty), "__click_params__", [])))


def _refuse(context: click.Context, names: Sequence[str], why: str) -> None:
    """Raise InputError for an option that was given and would not count."""
    options = {p.name: p.opts[0] for p in context.command.params}
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(f"{options[name]} {why}")
