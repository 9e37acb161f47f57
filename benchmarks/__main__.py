"""``make bench``: measure, store ``results/kernels.json``, and put the tables into the docs.

``python -m benchmarks PYTHON [PROBLEM …]``; if problems are named, the others keep their stored
rows.
"""

import json
import sys
from pathlib import Path
from typing import Any

from mlx_entk._provenance import installed_version, provenance  # isort: skip  (BLAS before MLX)
from benchmarks import compare, growth
from benchmarks.pages import HERE, insert
from benchmarks.problems import PROBLEMS

DOCS = HERE.parent


def main(peer_python: str, *problems: str) -> None:
    """Run every benchmark; ``peer_python`` is that of scripts/neural-tangents.sh."""
    target = HERE / "results" / "kernels.json"
    stored = json.loads(target.read_text())["kernels"] if problems else []
    new = compare.compare(Path(peer_python), problems or PROBLEMS)
    by_name = {(row["problem"], row["reduction"]): row for row in [*stored, *new]}
    result: dict[str, Any] = {
        "kernels": list(by_name.values()),
        "growth": growth.growth(),
        "rates": growth.rates(),
        "torch": installed_version("torch"),
        "provenance": provenance(),
    }
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    made = result["provenance"]
    machine = (
        f"On {made['device']}, BLAS {made['blas']}, MLX {made['versions']['mlx']}, PyTorch "
        f"{result['torch']}; time of the second computation and peak memory of the process, "
        f"median of up to {compare.ROUNDS} rounds in turn; all kernels agree to "
        f"{compare.AGREEMENT:.0e} of the largest entry."
    )
    rates = growth.rates_table(result["rates"])
    kernels = compare.table(result["kernels"])
    insert(DOCS / "docs" / "performance.md", "kernels", f"{kernels}\n\n{machine}")
    insert(DOCS / "docs" / "performance.md", "growth", growth.table(result["growth"]))
    insert(DOCS / "docs" / "performance.md", "rates", rates)
    headline = compare.table(result["kernels"][: len(compare.REDUCTIONS)])
    insert(DOCS / "README.md", "kernels", f"{headline}\n\n{machine}")
    print(kernels, growth.table(result["growth"]), rates, sep="\n\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
