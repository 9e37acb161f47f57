"""The ``mlx-entk`` command."""

import io
import os
import re
import shlex
import signal
import sys
import warnings
from typing import Any, NoReturn

# Before anything imports mlx: on Linux this gives MLX a fast BLAS.
import mlx_entk  # isort: skip
import click

from mlx_entk._text import ASCII_ERRORS, visible
from mlx_entk.errors import UnnamedCodeError
from mlx_entk.progress import Progress

from .base import is_quiet
from .completion import completion
from .doctor import doctor
from .export import export, verify
from .intervene import intervene_command
from .kernel import kernel
from .lm import lm
from .regress import regress_command
from .runs import browse, compare_command, report, runs, show_command, watch
from .studies import add_commands
from .sweep import sweep_command

_show_as_python_does = warnings.showwarning


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mlx_entk.__version__, prog_name="mlx-entk")
def cli() -> None:
    """Find the features inside trained networks by eigenanalysis of their empirical NTK.

    An experiment writes a run folder with its configuration, checkpoints, results, figures and a
    report. If it is interrupted, run the same command again to continue.

    To begin, run `mlx-entk modular mlp`, which takes half a minute on two cores.
    """


def run_arguments(arguments: list[str], tell: Progress | None = None) -> Any:
    """Run a command in this process, and return what it returns.

    Parameters
    ----------
    arguments
        What a user would type after ``mlx-entk``.
    tell
        Called with the command's progress, which then does not go to the terminal.
    """
    return cli.main(list(arguments), standalone_mode=False, obj=tell)


add_commands(cli)
cli.add_command(kernel)
cli.add_command(lm)
cli.add_command(regress_command)
cli.add_command(intervene_command)
cli.add_command(sweep_command(run_arguments))
cli.add_command(export)
cli.add_command(verify)
cli.add_command(report)
cli.add_command(browse)
cli.add_command(watch)
cli.add_command(compare_command)
cli.add_command(runs)
cli.add_command(show_command)
cli.add_command(doctor)
cli.add_command(completion)


class _Terminated(BaseException):
    """Something asks the process to end, such as mlx.launch after another rank has died."""


def _terminate(*_: object) -> None:
    raise _Terminated


def main() -> None:
    """Run the command line; every error becomes one line and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding lacks, it spells
        sys.stdout.reconfigure(errors=ASCII_ERRORS)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors=ASCII_ERRORS)
    warnings.showwarning = _note
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except UnnamedCodeError as error:
        # The run may come from anyone: only what looks like a name is repeated.
        code = error.code if re.fullmatch(r"[\w.]+:\w+", error.code) else "MODULE:FACTORY"
        again = shlex.join(["mlx-entk", *sys.argv[1:], "--model", code])
        _fail(f"{error}. If you trust it, run: {again}", error.exit_code)
    except mlx_entk.MlxEntkError as error:
        _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt, _Terminated) as error:
        _stop(error)
    except MemoryError:
        _fail("out of memory: try a smaller --memory-limit, or fewer inputs", 1)
    except BrokenPipeError:
        # What reads the output, such as `head`, has ended: leave nothing to write at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        _fail(f"{file}{error.strerror or error}", 1)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _note(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
    """Show a warning of this package as one line, and others as Python does."""
    ours = (mlx_entk.ConversionWarning, mlx_entk.RowsLeftOutWarning, mlx_entk.SlowPathWarning)
    if not issubclass(category, ours):
        _show_as_python_does(message, category, *rest, **options)
    elif not is_quiet():
        click.echo(f"Note: {visible(str(message))}", file=sys.stderr)


def _stop(error: BaseException) -> NoReturn:
    """Say how to continue after Ctrl-C or a request to end."""
    cause = error.__cause__ or error  # click wraps Ctrl-C
    what, code = ("terminated", 143) if isinstance(cause, _Terminated) else ("interrupted", 130)
    folders = getattr(cause, "__notes__", [])  # the last is the outermost, which the command made
    if not folders:
        _fail(f"{what}: no file was left half-written", code)
    command = shlex.join(["mlx-entk", *sys.argv[1:]])
    _fail(f"{what}: {folders[-1]} keeps what is done. To continue, run: {command}", code)


def _fail(message: str, exit_code: int) -> NoReturn:
    # Named, since click would take another stream than that of ASCII_ERRORS.
    click.echo(f"Error: {visible(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
