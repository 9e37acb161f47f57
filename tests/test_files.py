"""Files that cannot be written or are not what they should be; tests/faults has the real disks."""

import os
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError, _files
from mlx_entk._files import (
    append_line,
    digest_of_file,
    file_names,
    inside,
    map_array,
    parse_json,
    read_arrays,
    read_json,
    read_tensors,
    read_text,
    require_own,
    reserve,
    write_arrays,
    write_json,
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


# What a stranger's file may hold


HOSTILE_NAMES = [
    "../evil", "/tmp/evil", "a/b", "..", ".", "", ".hidden", "a\x00b", "\x1b[31mred", "a" * 3000,
    "\ud800", "W", "w", "layers.0.weight", "層", "CON", "a:b", "a\\b", "~a", "-a", " ", "a\n",
]  # fmt: skip


def test_names_become_different_files_that_stay_in_their_folder(tmp_path: Path) -> None:
    files = file_names(HOSTILE_NAMES)

    assert files["layers.0.weight"] == "layers.0.weight"
    assert len({name.casefold() for name in files.values()}) == len(HOSTILE_NAMES)
    for name in files.values():
        (inside(tmp_path, f"{name}.npy")).write_text("")
    assert len(list(tmp_path.iterdir())) == len(HOSTILE_NAMES)


def test_a_name_that_looks_like_the_slug_of_another_has_a_file_of_its_own() -> None:
    slug = file_names(["a/b"])["a/b"]

    assert file_names(["a/b", slug])[slug] != slug


def test_links_that_leave_a_folder_are_refused(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (folder / "own").symlink_to(folder)
    inside(folder, "own", "file")
    (folder / "out").symlink_to(other)
    (folder / "circle").symlink_to(folder / "circle")

    for parts in (("out", "file"), ("..", "other"), (str(other),), ("circle",), ("a\x00b",)):
        with pytest.raises(InputError):
            inside(folder, *parts)


def test_only_temporary_files_of_this_package_are_removed(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.json").write_text("")
    mine = [".results.123.tmp.json", "kernels/.kernel.9.tmp.npy", ".page.1.tmp"]
    others = [".notes.tmp", "notes.12.tmp", ".vimrc.tmp.swp", "inner/.config.1.tmp.json"]
    for name in (*mine, *others):
        (tmp_path / name).write_text("")

    require_own(tmp_path)

    assert not [name for name in mine if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in others)


def test_what_is_not_a_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for read in (read_json, read_text, read_arrays, map_array, read_tensors, digest_of_file):
        with pytest.raises(InputError, match="is not a regular file"):
            read(pipe)
        with pytest.raises(InputError, match="is a folder"):
            read(tmp_path)
    with pytest.raises(InputError, match="is not a regular file"):
        require_own(tmp_path)


def test_a_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED)
    with archive, archive.open("x.npy", "w") as member:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**22,)}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(2**24))
    (tmp_path / "long.json").write_text('{"a": [' + "1," * 2**22 + "1]}")
    write_tensors(tmp_path / "large.safetensors", {"x": mx.zeros((2**22,))}, {})
    monkeypatch.setattr(_files, "default_limit", lambda: 2**23)

    for read, name in (
        (read_arrays, "bomb.npz"), (read_json, "long.json"), (read_tensors, "large.safetensors"),
    ):  # fmt: skip
        with pytest.raises(InputError, match="more than half of what is available"):
            read(tmp_path / name)


def test_an_array_that_claims_more_than_there_is_of_it_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive, archive.open("x.npy", "w") as m:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
        np.lib.format.write_array_header_1_0(m, header)

    with pytest.raises(InputError, match=r"x\.npy has \d+ bytes, not 4398046511104"):
        read_arrays(tmp_path / "claims.npz")


@pytest.mark.parametrize("text", ["NaN", "1e999", "-Infinity", "[" * 100_000])
def test_json_that_is_no_plain_data_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"holds|nested"):
        parse_json(f'{{"a": {text}')


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a name in it is not Unicode"):
        write_json(tmp_path / "a.json", {"\ud800": 1})
    with pytest.raises(ValueError, match="surrogates not allowed"):
        parse_json(r'{"a": "\ud83d"}')

    assert not list(tmp_path.iterdir())
    assert parse_json(r'{"a": "\ud83e\uddea"}') == {"a": "🧪"}
