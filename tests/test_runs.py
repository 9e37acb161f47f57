import fcntl
import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk._files import read_json, write_json
from mlx_entk.runs import Run, run_folders

CONFIG = {"seed": 1, "p": 5}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "study", CONFIG)


def test_the_same_configuration_opens_the_same_folder(run: Run) -> None:
    assert Run.create(run.path, "study", CONFIG).config == CONFIG
    assert Run.load(run.path).study == "study"


@pytest.mark.parametrize(
    ("study", "config", "message"),
    [
        ("study", {"seed": 2, "p": 5}, r"another configuration \(seed 1 there, 2 here\)"),
        ("study", {"seed": 1}, r"p 5 there, None here"),
        ("other", CONFIG, "belongs to a study run"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    run: Run, study: str, config: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Run.create(run.path, study, config)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(InputError, match=r"is not a run folder \(it holds thesis.tex\)"):
        Run.create(tmp_path, "study", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(InputError, match="cannot write to"):
        Run.create(tmp_path / "file" / "run", "study", CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "does not hold a JSON object"),
        ("{}", "has no digest, so it was altered"),
        ('{"a": 1, "sha256": ""}', "is not what mlx-entk wrote there"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_damaged_configuration_is_said(run: Run, text: str, message: str) -> None:
    (run.path / "config.json").write_text(text)

    with pytest.raises(InputError, match=message):
        Run.load(run.path)


def test_folders_that_are_no_runs_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        Run.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"has no config\.json"):
        Run.load(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_rest(run: Run) -> None:
    write_json(run.path / "value.json", {"a": 1})

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(run.path / "value.json", {"a": float("nan")})

    assert read_json(run.path / "value.json") == {"a": 1}
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "value.json"]


def test_an_altered_number_is_noticed(run: Run) -> None:
    path = run.path / "value.json"
    write_json(path, {"accuracy": 0.75, "3": ["ö", None]})
    assert read_json(path) == {"accuracy": 0.75, "3": ["ö", None]}

    path.write_text(path.read_text().replace("0.75", "0.95"))

    with pytest.raises(InputError, match="is not what mlx-entk wrote there"):
        read_json(path)


def test_a_folder_of_another_version_says_so(run: Run) -> None:
    write_json(run.path / "config.json", {"format": 0, "study": "study", "config": CONFIG})

    with pytest.raises(InputError, match="made by another version of mlx-entk"):
        Run.load(run.path)


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_names_that_no_file_can_have_are_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not a folder: "):
        Run.load(tmp_path / name)


def test_long_and_unicode_paths_work(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["d" * 50] * 10, "Läufe 実験 🧪 'q' $x")
    run = Run.create(path, "study", CONFIG)
    with run.session():
        run.save_checkpoint(0, {"w": mx.ones(3)})
        run.save_results({"a": 1}, {"x": np.ones(3)})

    assert Run.load(path).results == {"a": 1}
    assert Run.load(path).load_checkpoint(0)["w"].shape == (3,)


def test_checkpoints_come_back_as_they_were(run: Run) -> None:
    arrays = {"w": mx.random.normal((3, 2)), "step": mx.array(7, mx.uint64)}
    run.save_checkpoint(10, arrays)
    run.save_checkpoint(0, arrays)

    loaded = run.load_checkpoint(10)

    assert run.checkpoints == [0, 10]
    assert loaded["step"].dtype == mx.uint64
    np.testing.assert_array_equal(np.array(loaded["w"]), np.array(arrays["w"]))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "missing"])
def test_damaged_checkpoints_are_recognised(run: Run, damage: str) -> None:
    run.save_checkpoint(10, {"w": mx.ones((30, 20))})
    path = run.path / "checkpoints" / "000010.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[-5] ^= 1
        left = {"truncate": content[:-50], "flip": content, "empty": bytearray()}
        path.write_bytes(left[damage])

    with pytest.raises(InputError, match=r"000010.safetensors is damaged: delete it"):
        run.load_checkpoint(10)


def test_metrics_survive_a_line_cut_off_and_can_be_cut_back(run: Run) -> None:
    for epoch in range(4):
        run.append_metrics({"epoch": epoch, "loss": 0.5})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')

    assert [row["epoch"] for row in run.metrics] == [0, 1, 2, 3]
    assert run.metrics[2] == {"epoch": 2, "loss": 0.5}
    run.cut_metrics(2)
    run.append_metrics({"epoch": 3, "loss": 0.25})
    assert [row["loss"] for row in run.metrics] == [0.5, 0.5, 0.5, 0.25]


def test_an_altered_row_of_metrics_is_noticed(run: Run) -> None:
    for epoch in range(3):
        run.append_metrics({"epoch": epoch, "loss": 0.5})
    text = (run.path / "metrics.jsonl").read_text()

    (run.path / "metrics.jsonl").write_text(text.replace("0.5", "0.6", 1))

    with pytest.raises(InputError, match=r"metrics.jsonl is damaged at line 1"):
        _ = run.metrics


def test_a_session_keeps_others_out_and_clears_what_a_killed_one_left(run: Run) -> None:
    left_over = run.path / "checkpoints" / ".000010.99.tmp.safetensors"
    left_over.parent.mkdir()
    left_over.touch()

    with run.session():
        assert not left_over.exists()
        match = rf"another process \({os.getpid()}\) is writing"
        with pytest.raises(InputError, match=match), run.session():
            pass

    with (run.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_provenance_tells_what_each_session_ran_with(run: Run) -> None:
    with run.session():
        pass
    with run.session():
        pass

    record = json.loads((run.path / "provenance.json").read_text())

    assert record["seed"] == 1
    assert len(record["sessions"]) == 2
    assert record["sessions"][0]["versions"]["mlx"]
    assert record["sessions"][0]["device"].split(":")[0] in ("cpu", "gpu")
    assert record["sessions"][1]["wall_seconds"] >= 0


def test_results_need_both_their_files(run: Run) -> None:
    with pytest.raises(InputError, match="is unfinished"):
        _ = run.results
    run.save_results({"a": 1}, {"values": np.arange(3.0)})

    assert Run.load(run.path).results == {"a": 1}
    np.testing.assert_array_equal(run.arrays["values"], [0, 1, 2])

    (run.path / "spectra.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"spectra.npz is damaged"):
        _ = run.arrays


def test_runs_are_listed_by_path(tmp_path: Path) -> None:
    for name in ("b", "a/deep"):
        Run.create(tmp_path / name, "study", CONFIG)

    assert [path.name for path in run_folders(tmp_path)] == ["deep", "b"]


# A folder from somebody else


def test_links_that_leave_the_folder_are_refused_and_nothing_is_written_through_them(
    run: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("mine")
    for name, target in {
        ".lock": other / "file", "figures": other, "onnx": other, "checkpoints": other,
        "kernels": other, "metrics.jsonl": other / "file", "new": other / "new",
    }.items():  # fmt: skip
        (run.path / name).symlink_to(target)

        with pytest.raises(InputError, match=f"{name} leads out of"), run.session():
            pass

        (run.path / name).unlink()
    assert [(path.name, path.read_text()) for path in other.iterdir()] == [("file", "mine")]


def test_nothing_is_read_through_a_link_that_leaves_the_folder(run: Run, tmp_path: Path) -> None:
    write_json(tmp_path / "secret.json", {"a": 1})
    for name in ("results.json", "regression.json", "verification.json", "provenance.json"):
        (run.path / name).symlink_to(tmp_path / "secret.json")

    for attribute in ("results", "regression", "verification", "sessions"):
        with pytest.raises(InputError, match="leads out of"):
            getattr(run, attribute)


def test_a_link_inside_the_folder_and_a_folder_that_is_a_link_are_fine(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(run.path)
    (run.path / "kernels").mkdir()
    (run.path / "same").symlink_to(run.path / "kernels")

    linked = Run.load(tmp_path / "link")
    with linked.session():
        assert linked.file("same", "kernel.npy").parent.is_dir()


@pytest.mark.parametrize(
    "stored",
    [
        {"format": 1},
        {"format": 1, "study": 3, "config": {}},
        {"format": 1, "study": "study", "config": []},
    ],
)
def test_a_configuration_that_is_none_is_refused(run: Run, stored: dict[str, object]) -> None:
    write_json(run.path / "config.json", stored)

    with pytest.raises(InputError, match="it has no study or no settings"):
        Run.load(run.path)


def test_provenance_of_another_form_is_refused(run: Run) -> None:
    for stored in ({}, {"sessions": 1}, {"sessions": [{"command": "a"}]}):
        write_json(run.path / "provenance.json", stored)

        with pytest.raises(InputError, match=r"provenance\.json is damaged"):
            _ = run.sessions


def test_other_files_among_the_checkpoints_are_not_taken_for_one(run: Run) -> None:
    run.save_checkpoint(20, {"w": mx.zeros(2)})
    for name in ("0x.safetensors", "1e5.safetensors", "²³.safetensors", "1" * 200 + ".safetensors"):
        (run.path / "checkpoints" / name).touch()

    assert run.checkpoints == [20]


@pytest.mark.parametrize("row", [{"loss": 1.0}, {"epoch": 1.5}, {"epoch": 1, "loss": "low"}])
def test_a_row_of_metrics_that_is_none_is_refused(run: Run, row: dict[str, object]) -> None:
    run.append_metrics(row)

    with pytest.raises(InputError, match="is damaged at line 1"):
        _ = run.metrics


def test_a_number_that_a_row_of_metrics_lacks_is_said(run: Run) -> None:
    run.append_metrics({"epoch": 1, "loss": 1.0})

    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged: a row has no accuracy"):
        _ = run.metrics[0]["accuracy"]
