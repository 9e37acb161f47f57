"""Names are shown, never parsed: every hostile name goes through every command."""

import json
import os
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlx_entk._text import visible
from tests.conftest import Command
from tests.faults.names import INVISIBLE, NAMES

N, WIDTH = 24, 3
CONTROLS = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n"}
REVERSING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def hostile_model(names: list[str]) -> onnx.ModelProto:
    """tanh(x W_1) + tanh(x W_2) + …, each W under one of the names."""
    draw = np.random.default_rng(0)
    weights, nodes, terms = [], [], []
    for i, name in enumerate(name for name in names if name not in ("", "x")):
        # Small, so that the model is nearly linear and its kernels have a cliff.
        weight = (0.03 * draw.standard_normal((WIDTH, 2))).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, name))
        nodes.append(helper.make_node("MatMul", ["x", name], [f"h{i}"], name))
        nodes.append(helper.make_node("Tanh", [f"h{i}"], [f"t{i}"]))
        terms.append(f"t{i}")
    nodes.append(helper.make_node("Sum", terms, ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "hostile", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def require_harmless(text: str) -> None:
    assert not set(text) & (CONTROLS | REVERSING)
    assert "Traceback" not in text
    text.encode()  # no half of a surrogate pair


class Reader(HTMLParser):
    """Collects elements, and checks that none came from a name."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        assert ("src", "x") not in attrs


def check_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    require_harmless(text.replace("\t", ""))
    reader = Reader()
    reader.feed(text)
    assert {"figure", "table", "svg"} <= reader.elements
    assert "b" not in reader.elements
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "{{ 7 * 7 }}" in text


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    onnx.save(hostile_model(NAMES), folder / "every.onnx")
    onnx.save(hostile_model(NAMES[::9]), folder / "m.onnx")
    draw = np.random.default_rng(1)
    np.savez(folder / "x.npz", x=draw.standard_normal((N, WIDTH)))
    np.savez(folder / "y.npz", y=draw.standard_normal((N, 2)))
    features = {name: draw.standard_normal((N, 2)) for name in NAMES}
    with zipfile.ZipFile(folder / "features.npz", "w") as archive:  # savez takes not every name
        for name, columns in features.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, columns)
    return folder


@pytest.mark.parametrize("model", ["m.onnx", pytest.param("every.onnx", marks=pytest.mark.slow)])
def test_every_hostile_name_goes_through_every_command(
    mlx_entk: Command, files: Path, tmp_path: Path, model: str
) -> None:
    """Every name is that of a feature; of parameters are some, and all in the slow test."""
    out = "\x1b[31m[/] $\\frac$ <b>&\n\u202e"
    kernel = ("kernel", "--onnx", files / model, "--inputs", files / "x.npz",
              "--features", files / "features.npz", "--by-layer", "--explain")  # fmt: skip

    for command in (
        (*kernel, "--out", f"./{out}"), ("show", out), ("show", out, "--json"), ("runs", "."),
        ("runs", ".", "--json"), ("compare", out, out, "--out", "compare.html"),
        ("regress", out, "--targets", files / "y.npz"),
        ("intervene", out, "--features", files / "features.npz", "--targets", files / "y.npz"),
        ("verify", out, "--against", "onnxruntime"), ("export", out),
        ("export", out, "--what", "jacobian"),
    ):  # fmt: skip
        code, output, errors = mlx_entk(*command)

        assert code == 0, (command, errors)
        require_harmless(output)
        require_harmless(errors)
        if "--json" in command:
            json.loads(output)

    check_page(tmp_path / out / "report.html")
    check_page(tmp_path / "compare.html")
    assert not [path for path in tmp_path.parent.rglob("evil*") if path.is_file()]
    assert not Path("/tmp/evil.npy").exists()
    results = json.loads((tmp_path / out / "results.json").read_text())
    assert {row["family"] for row in results["alignment"]} >= {*INVISIBLE, "$\\frac$", "n"}


@pytest.mark.parametrize("name", [*NAMES, "\udcff"])
def test_names_on_the_command_line_are_repeated_harmlessly(
    mlx_entk: Command, files: Path, name: str
) -> None:
    """Refused or not, what is said about them is one harmless line."""
    x = ("--inputs", files / "x.npz", "--out", "run")
    for command in (
        ("kernel", "--onnx", files / "m.onnx", "--output", name or "-", *x),
        ("kernel", "--onnx", files / "m.onnx", "--parameters", f"no-{name}-such", *x),
        ("kernel", "--model", f"{name}:{name}", *x), ("kernel", "--onnx", name, *x),
        ("show", f"no-{name}"), ("runs", f"no-{name}"), ("compare", name, name),
        ("report", f"no-{name}"), ("sweep", "--seeds", name, "modular", "mlp"),
        ("modular", "mlp", "--p", name), (name or "?",),
    ):  # fmt: skip
        code, output, errors = mlx_entk(*command)

        assert code == 2, command
        assert output == "" or output.startswith("Usage")
        require_harmless(errors)
        assert len([line for line in errors.splitlines() if line.startswith("Error: ")]) == 1


def test_a_terminal_that_knows_ascii_alone_and_a_folder_that_is_not_utf8(
    mlx_entk: Command, files: Path, tmp_path: Path
) -> None:
    common = ("kernel", "--onnx", files / "m.onnx", "--inputs", files / "x.npz", "--top", "3")
    assert mlx_entk(*common, "--out", "実験", "-q")[0] == 0
    odd = os.fsdecode(b"\xff\xfe")
    code, _, errors = mlx_entk(*common, "--out", odd)
    assert (code, errors.count("\n")) == (2, 1)
    assert "has a name that is not UTF-8" in errors
    Path("実験").rename(odd)
    program = Path(sys.executable).with_name("mlx-entk")
    for command in (("show", odd), ("show", odd, "--json"), ("runs", "."), ("report", odd)):
        done = subprocess.run(
            [program, *command], env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True, check=False, cwd=tmp_path,
        )  # fmt: skip

        assert done.returncode == 0, done.stderr
        done.stdout.decode("ascii")


@pytest.mark.parametrize("name", [*NAMES, "\ud800", "a\x00b"])
def test_visible_text_is_one_line_that_every_encoding_of_unicode_takes(name: str) -> None:
    shown = visible(name)

    assert not set(shown) & (CONTROLS | REVERSING | {"\n", "\u2028"})
    shown.encode()
    assert visible(shown) == shown
    assert (shown == name) == (name not in INVISIBLE and name not in ("\ud800", "a\x00b"))
    assert len(visible(name, 20)) <= 60
