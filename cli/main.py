"""The ``mlx-entk`` command."""

import shlex
import signal
import sys
import warnings
from typing import Any, NoReturn

# Before anything imports mlx: it gives MLX a fast BLAS on Linux.
import mlx_entk  # isort: skip
import click

from mlx_entk.progress import Progress

from .base import is_quiet
from .completion import completion
from .doctor import doctor
from .export import export, verify
from .kernel import kernel
from .lm import lm
from .regress import regress_command
from .runs import compare_command, report, runs, show_command
from .studies import add_commands
from .sweep import sweep_command

_show_as_python_does = warnings.showwarning


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mlx_entk.__version__, prog_name="mlx-entk")
def cli() -> None:
    """Find the features inside trained networks by eigenanalysis of their empirical NTK.

    An experiment writes a run folder: configuration, checkpoints, results, figures and a
    report. The same command continues a run that was interrupted.

    Begin with `mlx-entk modular mlp`, half a minute on two cores.
    """


def run_arguments(arguments: list[str], tell: Progress | None = None) -> Any:
    """Run a command in this process, and give back what it returns.

    Parameters
    ----------
    arguments
        What a user would type after ``mlx-entk``.
    tell
        Told of the command's progress in place of the terminal.
    """
    return cli.main(list(arguments), standalone_mode=False, obj=tell)


add_commands(cli)
cli.add_command(kernel)
cli.add_command(lm)
cli.add_command(regress_command)
cli.add_command(sweep_command(run_arguments))
cli.add_command(export)
cli.add_command(verify)
cli.add_command(report)
cli.add_command(compare_command)
cli.add_command(runs)
cli.add_command(show_command)
cli.add_command(doctor)
cli.add_command(completion)


class _Terminated(BaseException):
    """Something has ended the process, such as mlx.launch after another rank died."""


def _terminate(*_: object) -> None:
    raise _Terminated


def main() -> None:
    """Run the command line; every error is one line and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    warnings.showwarning = _note
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except mlx_entk.MlxEntkError as error:
        _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt, _Terminated) as error:
        _stop(error)
    except MemoryError:
        _fail("out of memory: try a smaller --memory-limit, or fewer inputs", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _note(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
    """A warning of ours is a line for a person; others are as Python shows them."""
    if not issubclass(category, mlx_entk.SlowPathWarning):
        _show_as_python_does(message, category, *rest, **options)
    elif not is_quiet():
        click.echo(f"Note: {message}", err=True)


def _stop(error: BaseException) -> NoReturn:
    """Say how to go on after Ctrl-C or a request to end."""
    cause = error.__cause__ or error  # click wraps Ctrl-C
    what, code = ("terminated", 143) if isinstance(cause, _Terminated) else ("interrupted", 130)
    folders = getattr(cause, "__notes__", [])
    if not folders:
        _fail(f"{what}: nothing was left half-written", code)
    command = shlex.join(["mlx-entk", *sys.argv[1:]])
    _fail(f"{what}: {folders[0]} keeps what is done; go on with: {command}", code)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(exit_code)
