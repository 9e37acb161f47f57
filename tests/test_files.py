"""Files that cannot be written or are not what they should be; tests/faults has the real disks."""

import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk._files import (
    append_line,
    map_array,
    read_arrays,
    read_tensors,
    reserve,
    write_arrays,
    write_tensors,
)

Usage = namedtuple("Usage", "total used free")


def test_tensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"w": mx.arange(3)}, {"epoch": "7"})

    arrays, metadata = read_tensors(tmp_path / "a.safetensors")

    np.testing.assert_array_equal(np.array(arrays["w"]), [0, 1, 2])
    assert metadata["epoch"] == "7"


def test_what_mlx_cannot_write_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, *_: object) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("[write] Unable to write 12 bytes to file.")

    monkeypatch.setattr(mx, "save_safetensors", full)

    with pytest.raises(InputError, match=r"cannot write .*a\.safetensors: \[write\] Unable"):
        write_tensors(tmp_path / "a.safetensors", {"w": mx.arange(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_room_is_taken_before_a_file_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k.npy"
    path.touch()
    reserve(path, 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 5, 5))

    with pytest.raises(InputError, match="which takes 10 kB: No space left on device"):
        reserve(path, 10_000)


def test_a_line_that_cannot_be_added_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        append_line(tmp_path / "missing" / "metrics.jsonl", "{}")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text"])
def test_what_is_no_array_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    (tmp_path / "a.npz").write_bytes(content)

    with pytest.raises(InputError, match=r"a\.npy is not an \.npy of an array"):
        map_array(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"a\.npz is not an \.npz of arrays"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(InputError, match="cannot read"):
        map_array(tmp_path / "missing.npy")


def test_other_files_in_an_archive_and_pickles_are_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "good.npz", {"x": np.ones(2)})
    assert list(read_arrays(tmp_path / "good.npz")) == ["x"]
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("x.txt", "text")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object))

    with pytest.raises(InputError, match=r"is not an \.npz of arrays: x\.txt is not an array"):
        read_arrays(tmp_path / "other.npz")
    with pytest.raises(
        InputError, match=r"is not an \.npz of arrays: Object arrays cannot be loaded"
    ):
        read_arrays(tmp_path / "pickle.npz")
