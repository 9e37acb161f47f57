"""Top 80 modes of the 25,000² flattened kernel of the wide toy model, by the small side of J.

``python -m benchmarks.flattened`` writes ``results/flattened.json`` and the sentence of
docs/performance.md.
"""

import json
import time

from mlx_entk._provenance import provenance  # isort: skip  (BLAS before MLX)
from benchmarks.contestants import peak_bytes
from benchmarks.pages import HERE, insert
from mlx_entk import jacobian_modes
from mlx_entk.models import ToyModel
from mlx_entk.studies.toy_models.study import rescaled_jacobian
from mlx_entk.studies.toy_models.training import TMSConfig, dataset


def main() -> None:
    """Measure, store, print, and put the sentence into the docs."""
    config = TMSConfig(m=40)
    x = dataset(config).x
    start = time.perf_counter()
    jacobian = rescaled_jacobian(ToyModel(config.n, config.m), x, config.importances)
    spectrum, _ = jacobian_modes(jacobian, 80)
    result = {
        "rows": jacobian.shape[0],
        "parameters": jacobian.shape[1],
        "modes": int(spectrum.values.size),
        "seconds": time.perf_counter() - start,
        "peak_bytes": peak_bytes(),
        "provenance": provenance(),
    }
    (HERE / "results" / "flattened.json").write_text(json.dumps(result, indent=1) + "\n")
    insert(
        HERE.parent / "docs" / "performance.md",
        "flattened",
        f"The {result['modes']} leading modes of the flattened kernel of the wide toy model, "
        f"{result['rows']:,} rows and {result['parameters']:,} parameters, take "
        f"{result['seconds']:.1f} s and {result['peak_bytes'] / 1e9:.1f} GB, Jacobian included.",
    )
    print(json.dumps({key: result[key] for key in ("modes", "seconds", "peak_bytes")}))


if __name__ == "__main__":
    main()
