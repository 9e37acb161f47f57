"""Ranks of ``mx.distributed`` that compute together, as ``mlx.launch`` starts them.

Every rank makes the same calls. A group of None stands for a single process.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import RunFailedError

Group = mx.distributed.Group
Item = TypeVar("Item")


def ranks() -> Group | None:
    """The group of ranks that this process belongs to, or None if it is alone."""
    group = mx.distributed.init()
    return group if group.size() > 1 else None


def is_first(group: Group | None) -> bool:
    """Whether this process is the one that writes files and prints."""
    return group is None or group.rank() == 0


def sum_over(arrays: list[mx.array], group: Group | None) -> list[mx.array]:
    """Each array summed over the ranks.

    Raises
    ------
    RunFailedError
        If a rank has ended or cannot be reached.
    """
    if group is None:
        return arrays
    # On the CPU, because the backends that use sockets work there alone.
    summed = [mx.distributed.all_sum(array, group=group, stream=mx.cpu) for array in arrays]
    try:
        mx.eval(summed)
    except RuntimeError as error:
        raise RunFailedError(
            f"a rank is gone ({error}): finished work is kept, run the same command to go on"
        ) from error
    return summed


def from_first(
    array: NDArray[Any] | None, shape: tuple[int, ...], group: Group | None
) -> NDArray[np.float32] | None:
    """Give every rank what the first one passes: an array in single precision, or None.

    What the other ranks pass is ignored.
    """
    if group is None:
        return None if array is None else np.asarray(array, dtype=np.float32)
    array = array if is_first(group) else None
    (there,) = sum_over([mx.array(float(array is not None))], group)
    if not there.item():
        return None
    mine = np.zeros(shape, np.float32) if array is None else np.asarray(array, dtype=np.float32)
    return np.array(sum_over([mx.array(mine)], group)[0])


def first_says(flag: bool, group: Group | None) -> bool:
    """Give every rank a decision of the first one."""
    return from_first(np.ones(1) if flag else None, (1,), group) is not None


def numbers_of_first(numbers: Sequence[int], group: Group | None) -> list[int]:
    """Give every rank integers of the first one; another rank may have more memory, say."""
    array = from_first(np.array(numbers), (len(numbers),), group)
    assert array is not None
    return [int(number) for number in array]


def barrier(group: Group | None) -> None:
    """Wait until every rank has come to this point."""
    sum_over([mx.zeros(1)], group)


def share(items: Sequence[Item], group: Group | None) -> list[Item]:
    """The part of a list that falls to this rank: every size-th item, from its own number on."""
    return list(items) if group is None else list(items[group.rank() :: group.size()])
