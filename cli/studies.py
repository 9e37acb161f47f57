"""The commands of studies, built from what each study says of its command and its settings."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from mlx_entk._records import to_json
from mlx_entk.errors import InputError
from mlx_entk.studies import STUDIES, Study
from mlx_entk.studies.base import Command as StudyCommand
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.settings import Setting, settings_of

from .base import Command, Group, dry_run_option, refuse_before_subcommand, refuse_options
from .display import default_folder, run_and_show, show_estimate, state_of_folder


@dataclass(frozen=True)
class _Offer:
    """A study that has a command, and that command."""

    study: Study[Any, Any]
    command: StudyCommand

    @property
    def settings(self) -> list[Setting]:
        """The settings that are options of the command."""
        names = self.command.settings
        return [s for s in settings_of(self.study.config) if names is None or s.name in names]


def add_commands(root: click.Group) -> None:
    """Add the command of every study that has one, below the group that it names."""
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
    """The command of a study and of its variants, each of which is chosen by a flag."""
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
            refuse_before_subcommand(context, [*given, "out", "dry_run"])
            return None
        chosen = [
            (variant, flag)
            for variant, flag in zip(variants, flags, strict=True)
            if given.pop(str(flag.name))
        ]
        if not chosen:
            return _run(offer.study, given, out, dry_run)
        (variant, flag), *more = chosen
        if more:
            raise InputError(f"{flag.opts[0]} and {more[0][1].opts[0]}: give only one of them")
        names = [setting.name for setting in variant.settings]
        others = [name for name in given if name not in names]
        refuse_options(context, others, f"is set by {flag.opts[0]}: leave it out")
        return _run(variant.study, {name: given[name] for name in names}, out, dry_run)

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
    """Run a study in a folder, by default one named after its settings, and show its results.

    With ``dry_run``, show what that would take instead, and return the estimate: a sweep asks for
    it.
    """
    config = study.config(**given)
    path = out or default_folder(study.name, to_json(config))
    if dry_run:
        if study.estimate is None:
            raise InputError(f"--dry-run: a {study.name} run cannot be estimated")
        state = state_of_folder(study, config, path)
        return show_estimate(path, state, study.estimate(config))
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
        help="Run folder to write; by default one below runs/ named after the settings.",
    )


def _options_of(decorate: Callable[[Any], Any]) -> list[click.Parameter]:
    """The options that a click decorator adds."""

    def empty() -> None: ...

    return list(reversed(getattr(decorate(empty), "__click_params__", [])))
