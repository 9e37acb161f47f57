"""Features in a folder: written once, tile by tile, and mapped when they are read.

``features.npy`` has the features, ``anchors.safetensors`` two inputs with theirs, and
``sketch.json`` says of what they are, which inputs are done, and the checksum of each tile. The
same call goes on after an interruption. A folder may have been damaged, or made by someone else:
what does not fit the record is refused, nothing in it is executed, and links that leave it are not
followed.
"""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._files import (
    digest,
    inside,
    map_array,
    read_json,
    read_tensors,
    reserve,
    write_json,
    write_tensors,
)
from mlx_entk._linalg import FloatArray
from mlx_entk._records import from_json, to_json
from mlx_entk.errors import InputError
from mlx_entk.sketch.error import SketchError

_RECORD, _FEATURES, _ANCHORS = "sketch.json", "features.npy", "anchors.safetensors"


@dataclass(frozen=True)
class Tile:
    """Inputs up to ``stop`` that follow those of the tile before, and their CRC-32."""

    stop: int
    checksum: int


@dataclass(frozen=True)
class Record:
    """What is in a folder.

    Attributes
    ----------
    columns, seed, reduction
        Of the sketch.
    identity
        What the features depend on, apart from inputs.
    inputs
        Digest of the inputs.
    names
        By which the model takes its inputs, if it does.
    shape
        Of all features.
    anchors
        Digest of the anchors.
    tiles
        What is done.
    error
        Once everything is.
    """

    columns: int
    seed: int
    reduction: str | tuple[int, int]
    identity: dict[str, Any]
    inputs: str
    names: list[str] | None
    shape: list[int]
    anchors: str
    tiles: list[Tile]
    error: SketchError | None = None

    def same_as(self, other: "Record") -> bool:
        """Whether both are of the same features, done or not."""
        return replace(self, tiles=[], error=None) == replace(other, tiles=[], error=None)


class FeatureStore:
    """Features as a file.

    Parameters
    ----------
    folder
        With a record of its own, or of nothing yet.
    record
        What is there or will be.
    """

    def __init__(self, folder: Path, record: Record):
        self.folder, self.record = folder, record

    @classmethod
    def begin(cls, folder: Path, record: Record, anchors: dict[str, mx.array]) -> "FeatureStore":
        """Features to be made, or to go on with if the folder has some of them.

        Raises
        ------
        InputError
            If it holds anything else.
        """
        path = inside(folder, _RECORD)
        if path.exists():
            store = cls.read(folder)
            if not store.record.same_as(record):
                raise InputError(f"{folder} holds another sketch: choose another folder")
        else:
            if inside(folder, _FEATURES).exists():
                raise InputError(f"{folder / _FEATURES} exists: choose another folder")
            store = cls(folder, record)
            write_tensors(inside(folder, _ANCHORS), anchors, {})
            store._save()
        if not store.record.tiles:
            features = inside(folder, _FEATURES)
            np.lib.format.open_memmap(
                features, mode="w+", dtype=np.float32, shape=tuple(record.shape)
            )
            reserve(features, features.stat().st_size)
        return store

    @classmethod
    def read(cls, folder: Path) -> "FeatureStore":
        """Features that are there.

        Raises
        ------
        InputError
            If they are missing or damaged.
        """
        path = inside(folder, _RECORD)
        store = cls(folder, from_json(Record, read_json(path), f"{path}"))
        record = store.record
        if min(record.shape, default=0) < 1 or record.shape[-1] != record.columns:
            raise InputError(f"{path} is damaged: its features have shape {record.shape}")
        begin = 0
        for tile in record.tiles:
            if not begin < tile.stop <= record.shape[0]:
                raise InputError(f"{path} is damaged: its tiles are no ranges of inputs")
            if _checksum(store.features[begin : tile.stop]) != tile.checksum:
                raise InputError(
                    f"{folder / _FEATURES} is damaged: inputs {begin} to {tile.stop - 1} have "
                    "other features than were written"
                )
            begin = tile.stop
        return store

    @property
    def features(self) -> FloatArray:
        """All of them, mapped read-only."""
        path = inside(self.folder, _FEATURES)
        array, shape = map_array(path), tuple(self.record.shape)
        if array.shape != shape or array.dtype != np.float32:
            raise InputError(
                f"{path} is damaged: it holds {array.dtype} of shape {array.shape}, not float32 of "
                f"shape {shape}"
            )
        return array

    @property
    def done(self) -> int:
        """How many inputs have their features."""
        return self.record.tiles[-1].stop if self.record.tiles else 0

    def anchors(self) -> dict[str, mx.array]:
        """Two inputs, and what their features are.

        Raises
        ------
        InputError
            If they are missing or damaged.
        """
        path = inside(self.folder, _ANCHORS)
        arrays, _ = read_tensors(path)
        if digest(arrays) != self.record.anchors:
            raise InputError(f"{path} is damaged: it is not what mlx-entk wrote there")
        return arrays

    def put(self, rows: slice, features: FloatArray) -> None:
        """Write the features of the next inputs."""
        mapped = np.lib.format.open_memmap(inside(self.folder, _FEATURES), mode="r+")
        mapped[rows] = features
        mapped.flush()
        tile = Tile(rows.stop, _checksum(features))
        self.record = replace(self.record, tiles=[*self.record.tiles, tile])
        self._save()

    def finish(self, error: SketchError) -> None:
        """Write down the error, which says that everything is done."""
        self.record = replace(self.record, error=error)
        self._save()

    def _save(self) -> None:
        write_json(inside(self.folder, _RECORD), to_json(self.record))


def _checksum(features: FloatArray) -> int:
    return zlib.crc32(np.ascontiguousarray(features).data)
