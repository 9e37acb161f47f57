"""One product with a layer's kernel of a 20M-parameter language model on 1,024 windows.

``python -m benchmarks.language_model`` measures time, as a multiple of one forward pass of the
whole model, and peak memory, stores ``results/language_model.json`` and puts a table into the docs.
"""

import json
import time

import mlx_entk  # noqa: F401  # isort: skip
import mlx.core as mx
import numpy as np
from mlx_lm.models.llama import Model, ModelArgs

from benchmarks.pages import HERE, insert
from mlx_entk._files import Json
from mlx_entk._memory import format_bytes
from mlx_entk._parameters import flatten_tree
from mlx_entk._provenance import provenance
from mlx_entk.kernel import entk_operator
from mlx_entk.lm.model import SELECTION, LanguageModel, hidden_before, layer_function, prepared

WINDOWS, LENGTH, LIMIT = 1024, 64, 2_000_000_000
ARGUMENTS = ModelArgs(
    model_type="llama",
    hidden_size=384,
    num_hidden_layers=8,
    intermediate_size=1536,
    num_attention_heads=6,
    rms_norm_eps=1e-5,
    vocab_size=8192,
    tie_word_embeddings=True,
)
LAYERS = (0, 4, 7)
_FORWARD = 32


def make_model() -> LanguageModel:
    """The model, with weights drawn anew but always the same."""
    mx.random.seed(0)
    return prepared(Model(ARGUMENTS))


def main() -> None:
    """Measure, and write down."""
    model = make_model()
    parameters = sum(v.size for v in flatten_tree(model.module.parameters()).values())
    tokens = mx.random.randint(0, ARGUMENTS.vocab_size, (WINDOWS, LENGTH), key=mx.random.key(1))
    forward = mx.compile(model.hidden)
    mx.eval(forward(tokens[:_FORWARD]))
    start = time.perf_counter()
    for begin in range(0, WINDOWS, _FORWARD):
        mx.eval(forward(tokens[begin : begin + _FORWARD]))
    pass_seconds = time.perf_counter() - start
    rows = []
    for layer in LAYERS:
        hidden = hidden_before(model, tokens, layer, _FORWARD)
        function = layer_function(model, layer, SELECTION, None)
        operator = entk_operator(function, hidden, memory_limit=LIMIT)
        v = np.random.default_rng(0).standard_normal(operator.shape[0])
        mx.reset_peak_memory()
        start = time.perf_counter()
        operator @ v
        seconds = time.perf_counter() - start
        rows.append(
            {
                "layer": layer,
                "batch": operator.batch,
                "seconds": seconds,
                "forwards": seconds / pass_seconds,
                "peak": int(mx.get_peak_memory()),
            }
        )
        print(rows[-1], flush=True)
    result = {
        "parameters": parameters, "windows": WINDOWS, "length": LENGTH, "limit": LIMIT,
        "forward_seconds": pass_seconds, "rows": rows, "provenance": provenance(),
    }  # fmt: skip
    (HERE / "results" / "language_model.json").write_text(json.dumps(result, indent=1) + "\n")
    insert(HERE.parent / "docs" / "scale.md", "language model", _table(result))


def _table(result: Json) -> str:
    lines = [
        f"{result['parameters'] / 1e6:.1f} million parameters, {result['windows']} windows of "
        f"{result['length']} tokens, limit {format_bytes(result['limit'])} for a pass; one forward "
        f"pass of the whole model takes {result['forward_seconds']:.1f} s.",
        "",
        f"| layer of 0 to {ARGUMENTS.num_hidden_layers - 1} | batch | seconds a product | "
        "forward passes | peak memory |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['layer']} | {row['batch']} | {row['seconds']:.1f} | {row['forwards']:.1f} | "
        f"{format_bytes(row['peak'])} |"
        for row in result["rows"]
    ]
    return "\n".join([*lines, "", f"On {result['provenance']['device']}."])


if __name__ == "__main__":
    main()
