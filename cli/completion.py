"""``mlx-entk completion``: the shell completes commands, options and run folders."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "mlx-entk"
# Where click looks for a request of the shell; named after the program.
_VARIABLE = "_MLX_ENTK_COMPLETE"


@click.command(short_help="Make the shell complete commands, options and run folders.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print what makes SHELL complete commands, options and run folders.

    \b
    bash:  mlx-entk completion bash >> ~/.bashrc
    zsh:   mlx-entk completion zsh >> ~/.zshrc
    fish:  mlx-entk completion fish > ~/.config/fish/completions/mlx-entk.fish
    """
    of_shell = get_completion_class(shell)
    assert of_shell is not None  # click brings these three
    # Not .source(): click first asks the shell for its version there, which needs it installed.
    made = of_shell(context.find_root().command, {}, _PROGRAM, _VARIABLE)
    click.echo(made.source_template % made.source_vars())
