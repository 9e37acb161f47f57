"""What numbers in a file may be, and how a producer tells."""

from collections.abc import Callable
from typing import Literal, get_args

from mlx_entk.onnx.graph import Stored

Kind = Literal[
    "parameter", "statistic", "constant", "setting", "preprocessing", "changed", "unclear",
    "whole numbers", "unused",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
# A kind, and what tells, as half a sentence.
Verdict = tuple[Kind, str]
# What a producer's files tell of a stored tensor; None if nothing.
Evidence = Callable[[str, Stored], Verdict | None]
