"""The ``mlx-entk`` command."""

import signal
import sys

# Before anything imports mlx: it gives MLX a fast BLAS on Linux.
import mlx_entk  # isort: skip
import click

from .doctor import doctor
from .export import export, verify
from .kernel import kernel
from .lm import lm
from .modular import modular
from .regress import regress_command
from .runs import runs, show
from .sweep import sweep
from .tms import tms


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mlx_entk.__version__, prog_name="mlx-entk")
def cli() -> None:
    """Find the features inside trained networks by eigenanalysis of their empirical NTK.

    An experiment writes a run folder: configuration, checkpoints, results, figures and a
    report. The same command continues a run that was broken off.
    """


cli.add_command(modular)
cli.add_command(tms)
cli.add_command(kernel)
cli.add_command(lm)
cli.add_command(regress_command)
cli.add_command(sweep)
cli.add_command(export)
cli.add_command(verify)
cli.add_command(runs)
cli.add_command(show)
cli.add_command(doctor)


class _Terminated(BaseException):
    """Somebody has ended the process, such as mlx.launch where another rank died."""


def _terminate(*_: object) -> None:
    raise _Terminated


def main() -> None:
    """Run the command line; every error is one line and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except mlx_entk.MlxEntkError as error:
        _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted: the same command goes on from the last checkpoint", 130)
    except _Terminated:
        _fail("terminated: the same command goes on from the last checkpoint", 143)


def _fail(message: str, exit_code: int) -> None:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(exit_code)
