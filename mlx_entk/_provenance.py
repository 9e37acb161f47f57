"""The provenance of a result: the versions, device and code that it was made with."""

import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlx.core as mx

from mlx_entk import _blas
from mlx_entk import _linalg as linalg
from mlx_entk._text import visible

PACKAGES = ("mlx-entk", "mlx", "numpy", "scipy", "matplotlib", "onnx", "onnxruntime")


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device() -> str:
    """MLX's default device and the chip behind it, for people to read."""
    info = mx.device_info(mx.default_device())
    name = info.get("device_name") or platform.processor() or platform.machine()
    return f"{mx.default_device().type.name}: {name}"


def git_revision() -> str | None:
    """Revision of the checkout that this package runs from, "-dirty" if edited, or None."""
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here.parent), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie inside another project's checkout, as an ignored file.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    revision = git("rev-parse", "HEAD")
    return f"{revision}-dirty" if git("status", "--porcelain", "-uno") else revision


@dataclass(frozen=True)
class Session:
    """What a process was that computed something.

    Attributes
    ----------
    started
        When it began, as ISO 8601 in UTC.
    command
        Its command line, as a shell takes it; what cannot be seen is escaped.
    git_revision
        Revision of the checkout that the package runs from; None if it is installed.
    device
        MLX's default device and its chip.
    blas
        The BLAS that was given to MLX; None if there is none.
    matmul
        What multiplies float32 matrices on the host.
    platform, python
        The system, and the version of Python.
    versions
        Versions of packages; None for one that is not installed.
    wall_seconds
        How long it took; None until it has ended.
    """

    started: str
    command: str
    git_revision: str | None
    device: str
    blas: str | None
    matmul: str
    platform: str
    python: str
    versions: dict[str, str | None]
    wall_seconds: float | None = None


def provenance() -> dict[str, object]:
    """Describe this process in a file that keeps no sessions: a benchmark, an exported graph."""
    return {key: value for key, value in asdict(this_session()).items() if key != "wall_seconds"}


def this_session() -> Session:
    """Describe this process, which has not ended."""
    return Session(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=visible(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        git_revision=git_revision(),
        device=device(),
        blas=_blas.LIBRARY,
        matmul=linalg.matmul_backend(),
        platform=platform.platform(),
        python=platform.python_version(),
        versions={package: installed_version(package) for package in PACKAGES},
    )
