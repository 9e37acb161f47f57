"""One rank of a group: what ``tests/test_distributed.py`` starts several of.

``python -m tests.rank FOLDER TILES`` computes kernels and modes, and saves what it got. With
TILES not 0 the last rank dies after so many tiles of a kernel in files.
"""

import os
import sys
from pathlib import Path

import mlx_entk  # isort: skip  # before mlx, for its BLAS
import mlx.core as mx
import numpy as np

from mlx_entk import distributed
from mlx_entk.eigensolvers import RecordedOperator
from mlx_entk.kernel.store import FileStore
from mlx_entk.kernel.tiling import Tile
from tests.models import MLP, Transformer

LIMIT = 80_000
UNEVEN = 15_000


def main(folder: Path, fatal: int) -> None:
    group = distributed.ranks()
    number, size = (group.rank(), group.size()) if group else (0, 1)
    model, x = MLP([3, 32, 4]), mx.random.normal((60, 3), key=mx.random.key(0))
    if fatal:
        _die_after(fatal, number == size - 1)
    in_files = mlx_entk.layerwise_entk(
        model, x, reduction="trace", memory_limit=LIMIT, out=folder / "kernels",
        group=group,
    )  # fmt: skip
    tokens = mx.random.randint(0, 5, (13, 3), key=mx.random.key(1))
    in_memory = mlx_entk.entk(Transformer(), tokens, memory_limit=LIMIT * 50, group=group)
    operator = mlx_entk.entk_operator(model, x, reduction="full", batch=7, group=group)
    recorded = RecordedOperator(operator, folder / f"products-{number}", group=group)
    modes = mlx_entk.top_modes(recorded, 5)
    again = mlx_entk.top_modes(
        RecordedOperator(operator, folder / f"products-{number}", group=group), 5
    )
    assert operator.products == recorded.products
    # As where one machine has more memory than another: the batches must be the same.
    uneven = mlx_entk.entk_operator(
        model, x, reduction="full", memory_limit=UNEVEN * (1 + number), group=group
    )
    np.savez(
        folder / f"rank-{number}.npz", allow_pickle=False, memory=in_memory,
        values=modes.spectrum.values, vectors=modes.spectrum.vectors,
        uneven=uneven @ np.arange(240.0), again=again.spectrum.vectors, **in_files,
    )  # fmt: skip


def _die_after(tiles: int, dies: bool) -> None:
    note, done = FileStore.note, []

    def counted(self: FileStore, tile: Tile) -> None:
        note(self, tile)
        done.append(1)
        if dies and len(done) == tiles:
            os._exit(9)

    FileStore.note = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except mlx_entk.MlxEntkError as error:
        sys.exit(f"Error: {error}")
