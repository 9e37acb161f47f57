"""``mlx-entk completion``: make the shell complete commands, options and run folders."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "mlx-entk"
# The variable in which click looks for a request from the shell; named after the program.
_VARIABLE = "_MLX_ENTK_COMPLETE"
# Click keeps the lines of a paragraph apart if it begins with \b.
_HELP = """Print a script that makes bash, zsh or fish complete commands, options and run folders.

Add the script to what your shell reads when it starts, once:

\b
bash:  mlx-entk completion bash >> ~/.bashrc
zsh:   mlx-entk completion zsh >> ~/.zshrc
fish:  mlx-entk completion fish > ~/.config/fish/completions/mlx-entk.fish
"""


@click.command(
    help=_HELP, short_help="Print a script that makes the shell complete mlx-entk commands."
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    of_shell = get_completion_class(shell)
    assert of_shell is not None  # click knows these three
    # Not .source(): it first asks the shell for its version, so the shell has to be installed.
    script = of_shell(context.find_root().command, {}, _PROGRAM, _VARIABLE)
    click.echo(script.source_template % script.source_vars())
