"""Products with kernels of layers of a model of Gemma-3-270M's shape, as they are and as they were.

``python -m benchmarks.language_model`` measures a product by linearised passes, and one by MLX's
transforms of the layers above, which is what a product was before, on the same windows in the same
run; stores ``results/language_model.json`` and puts a table into the docs.
"""

import json
import time

import mlx_entk  # noqa: F401  # isort: skip
import mlx.core as mx
import numpy as np
from mlx_lm.models.gemma3_text import Model, ModelArgs

from benchmarks.pages import HERE, insert
from mlx_entk._files import Json
from mlx_entk._memory import format_bytes
from mlx_entk._provenance import provenance
from mlx_entk.kernel import EntkOperator, entk_operator
from mlx_entk.kernel.forward import find_push
from mlx_entk.kernel.passes import PlainPasses
from mlx_entk.lm.model import SELECTION, LanguageModel, hidden_before, layer_function, prepared
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.jacobian import Probe
from mlx_entk.tracing.rules import examine

WINDOWS, LENGTH, LIMIT = (32, 128), 64, 4_000_000_000
# Without a large vocabulary, which no product meets.
ARGUMENTS = ModelArgs(
    model_type="gemma3_text",
    hidden_size=640,
    num_hidden_layers=18,
    intermediate_size=2048,
    num_attention_heads=4,
    head_dim=256,
    num_key_value_heads=1,
    vocab_size=8192,
    query_pre_attn_scalar=256,
    sliding_window=512,
    sliding_window_pattern=6,
)
LAYERS = (17, 16, 12)
# Windows of one pass before, and of a forward pass.
_BATCH = 32


def make_model() -> LanguageModel:
    """The model, with weights drawn anew but always the same."""
    mx.random.seed(0)
    return prepared(Model(ARGUMENTS))


def make_tokens(windows: int) -> mx.array:
    """Random tokens, shape (windows, LENGTH)."""
    return mx.random.randint(0, ARGUMENTS.vocab_size, (windows, LENGTH), key=mx.random.key(1))


def main() -> None:
    """Measure, and write down."""
    model = make_model()
    rows = []
    for windows in WINDOWS:
        tokens = make_tokens(windows)
        mx.eval(model.hidden(tokens[:_BATCH]))
        start = time.perf_counter()
        for begin in range(0, windows, _BATCH):
            mx.eval(model.hidden(tokens[begin : begin + _BATCH]))
        forward = time.perf_counter() - start
        for layer in LAYERS:
            hidden = hidden_before(model, tokens, layer, _BATCH)
            function = layer_function(model, layer, SELECTION, None)
            start = time.perf_counter()
            now = entk_operator(function, hidden, memory_limit=LIMIT)
            v = np.random.default_rng(0).standard_normal(now.shape[0])
            product = now @ v
            first = time.perf_counter() - start
            seconds = _seconds(now, v)
            mx.clear_cache()
            before = _before(function, hidden)
            expected = before @ v  # compiles
            rows.append(
                {
                    "windows": windows,
                    "layer": layer,
                    "forward": forward,
                    "first": first,
                    "seconds": seconds,
                    "before": _seconds(before, v),
                    "kept": sum(batch.size for batch in now._batches),
                    "difference": float(np.abs(product - expected).max() / np.abs(expected).max()),
                }
            )
            print(rows[-1], flush=True)
    result = {
        "length": LENGTH, "limit": LIMIT, "rows": rows, "provenance": provenance(),
    }  # fmt: skip
    (HERE / "results" / "language_model.json").write_text(json.dumps(result, indent=1) + "\n")
    insert(HERE.parent / "docs" / "performance.md", "language model", _table(result))


def _before(function: ParametricFunction, hidden: mx.array) -> EntkOperator:
    """Products by MLX's transforms of the layers above, which run anew each time."""
    C = hidden.shape[-1]
    examined = examine(function, (hidden,), C)
    push = find_push(examined, Probe.of(examined.function, (hidden,), C))
    return EntkOperator(PlainPasses(push), (hidden,), C, "full", _BATCH, 0, None)


def _seconds(operator: EntkOperator, vector: np.ndarray) -> float:
    """Of a product, after one that was not timed."""
    start = time.perf_counter()
    operator @ vector
    return time.perf_counter() - start


def _table(result: Json) -> str:
    lines = [
        "| windows | layer of 0 to 17 | before | now | ratio | forward passes of the whole model | "
        "kept | first product |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['windows']} | {row['layer']} | {row['before']:.3g} s | {row['seconds']:.2g} s | "
        f"{row['before'] / row['seconds']:.3g} | {row['seconds'] / row['forward']:.2g} | "
        f"{format_bytes(row['kept'])} | {row['first']:.0f} s |"
        for row in result["rows"]
    ]
    worst = max(row["difference"] for row in result["rows"])
    return "\n".join(
        [
            *lines,
            "",
            f"The products differ by {worst:.0e} of the largest entry or less. On "
            f"{result['provenance']['device']}.",
        ]
    )


if __name__ == "__main__":
    main()
