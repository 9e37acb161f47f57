"""Training steps of the modular-addition transformer, compared with a loop of PyTorch.

``python -m benchmarks.training`` runs both in turn, each in a process of its own, stores
``results/training.json`` and puts a table into the docs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pages import HERE, insert

ROUNDS = 3
EPOCHS = 600
# Both with all cores and with one, for matrices this small often prefer one.
THREADS = (1, os.cpu_count() or 1)


def steps_of_mlx_entk() -> float:
    """Steps a second of the study's own training, evaluation and checkpoints included."""
    import mlx_entk  # isort: skip  # noqa: F401
    from mlx_entk.runs import Run
    from mlx_entk.studies.modular_transformer.training import (
        TransformerConfig,
        dataset,
        make_model,
        train_transformer,
    )

    rates = []
    for epochs in (40, EPOCHS):  # the first compiles
        config = TransformerConfig(epochs=epochs, hold=0)
        data = dataset(config)
        with tempfile.TemporaryDirectory() as folder:
            run = Run.create(Path(folder) / "run", "benchmark", {})
            start = time.perf_counter()
            train_transformer(make_model(config), data, config, run)
            steps = epochs * -(-data.train.size // config.batch_size)
            rates.append(steps / (time.perf_counter() - start))
    return rates[-1]


def steps_of_torch() -> float:
    """Steps a second of a plain loop, fused AdamW, without evaluation."""
    import numpy as np
    import torch

    from mlx_entk._parameters import flatten_tree
    from mlx_entk.studies.modular_transformer.training import (
        TransformerConfig,
        dataset,
        make_model,
    )

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = TransformerConfig()
    data = dataset(config)
    tokens = torch.from_numpy(data.tokens[data.train]).long()
    labels = torch.from_numpy(data.labels[data.train])
    w = {
        name: torch.nn.Parameter(torch.from_numpy(np.array(value)))
        for name, value in flatten_tree(make_model(config).parameters()).items()
    }

    def network(batch: torch.Tensor) -> torch.Tensor:
        N, heads = len(batch), config.heads
        x = w["embedding"][batch] + w["position"]
        last = x[:, -1]
        query = (last @ w["W_Q"].T).view(N, 1, heads, -1)
        key, value = ((x @ w[name].T).view(N, 3, heads, -1) for name in ("W_K", "W_V"))
        scores = (query * key).sum(-1) / key.shape[-1] ** 0.5
        mixed = (torch.softmax(scores, dim=1)[..., None] * value).sum(1).reshape(N, -1)
        last = last + mixed @ w["W_O"].T
        last = last + torch.relu(last @ w["W_in"].T) @ w["W_out"].T
        return last @ w["unembedding"].T

    optimizer = torch.optim.AdamW(
        w.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    rate = 0.0
    for epochs in (40, EPOCHS):
        start, steps = time.perf_counter(), 0
        for _ in range(epochs):
            order = torch.randperm(len(tokens))
            x, y = tokens[order], labels[order]
            for at in range(0, len(x), config.batch_size):
                batch = slice(at, at + config.batch_size)
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
                optimizer.step()
                steps += 1
        rate = steps / (time.perf_counter() - start)
    return rate


CONTESTANTS = {"mlx-entk": steps_of_mlx_entk, "PyTorch": steps_of_torch}


def _measure(name: str, threads: int) -> float:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | {variable: str(threads) for variable in names}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", name],
        env=environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    """Run every contestant in turn, and write down the medians."""
    from mlx_entk._provenance import installed_version, provenance

    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for threads in dict.fromkeys(THREADS):
            for name in CONTESTANTS:
                rates.setdefault((name, threads), []).append(_measure(name, threads))
    medians = {key: statistics.median(of_key) for key, of_key in rates.items()}
    best = {name: max(medians[name, threads] for threads in THREADS) for name in CONTESTANTS}
    ratio = best["mlx-entk"] / best["PyTorch"]
    made = provenance()
    result = {
        "training": [
            {"contestant": name, "threads": threads, "steps_per_second": rate}
            for (name, threads), rate in medians.items()
        ],
        "ratio": ratio,
        "torch": installed_version("torch"),
        "provenance": made,
    }
    target = HERE / "results" / "training.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines = ["| | threads | steps a second |", "| --- | --- | --- |"]
    lines += [f"| {name} | {threads} | {rate:.0f} |" for (name, threads), rate in medians.items()]
    lines += [
        "",
        f"The best of each: {ratio:.2f} × PyTorch {result['torch']} with fused AdamW. Medians of "
        f"{ROUNDS} rounds in turn of {EPOCHS} epochs of 7 steps; that of mlx-entk includes its "
        "evaluations and checkpoints, that of PyTorch has none.",
    ]
    insert(HERE.parent / "docs" / "performance.md", "training", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(CONTESTANTS[sys.argv[1]]())
    else:
        main()
