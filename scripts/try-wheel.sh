#!/bin/sh
# Builds sdist and wheel, installs the wheel into a new environment, and runs a study outside the
# checkout with what is installed there. Usage: try-wheel.sh BIN, the folder of a python with build.
set -eu
bin=$(cd "$1" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$bin/python" -m build --outdir "$folder/dist" . >"$folder/build.log" 2>&1 \
    || { tail -30 "$folder/build.log"; exit 1; }
"$bin/python" -m venv "$folder/bare"
"$folder/bare/bin/pip" install --quiet "$folder"/dist/*.whl

cd "$folder"
PATH="$folder/bare/bin:$PATH"
mlx-entk modular mlp --p 5 --width 16 --epochs 40 --out run --quiet
mlx-entk show run --json >shown.json
python - <<'PYTHON'
import json
from pathlib import Path

import mlx_entk
import mlx_entk_cli

here = Path.cwd()
for package in (mlx_entk, mlx_entk_cli):
    assert Path(package.__file__).is_relative_to(here / "bare"), package.__file__
assert (Path(mlx_entk.__file__).parent / "py.typed").exists()
assert (here / "run" / "report.html").stat().st_size > 100_000
assert json.loads((here / "shown.json").read_text())["found"]
PYTHON
echo "The wheel works outside the checkout: $(ls "$folder/dist" | tr '\n' ' ')"
