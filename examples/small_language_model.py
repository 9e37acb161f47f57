r"""A small language model, trained here on English that every Python installation has.

The text is the documentation inside Python's standard library: its docstrings and the help topics
of pydoc, about two megabytes. A byte-pair tokenizer and a Llama of a few layers are
trained on it and written as a folder that mlx-lm loads, with the text that was held out.

    python -m examples.small_language_model small-lm
    mlx-entk lm contexts --model small-lm --texts small-lm/held-out.txt --out contexts.jsonl
    mlx-entk lm --model small-lm --contexts contexts.jsonl --layers 0-3 --out runs/lm

Needs the extra lm: pip install 'mlx-entk[lm]'.
"""

import argparse
import ast
import inspect
import json
import sysconfig
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import mlx_entk  # noqa: F401  # isort: skip  # before mlx: gives MLX a fast BLAS on Linux
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|end|>"


@dataclass(frozen=True)
class Settings:
    """Sizes of the model and of its training."""

    vocabulary: int = 1024
    width: int = 128
    layers: int = 4
    heads: int = 4
    window: int = 64
    batch: int = 16
    steps: int = 1500
    learning_rate: float = 3e-3
    seed: int = 0


def gather() -> list[str]:
    """Docstrings of the standard library and pydoc's topics, none twice, in order of name."""
    texts = [topics[name] for name in sorted(topics)]
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 60:
                    texts.append(inspect.cleandoc(text))
    return list(dict.fromkeys(texts))


def train_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """Byte-pair encoding of the bytes of words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_model(settings: Settings) -> Model:
    """The model as it is before training."""
    mx.random.seed(settings.seed)
    return Model(arguments(settings))


def arguments(settings: Settings) -> ModelArgs:
    """What mlx-lm makes a Llama from."""
    return ModelArgs(
        model_type="llama",
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        intermediate_size=4 * settings.width,
        num_attention_heads=settings.heads,
        rms_norm_eps=1e-5,
        vocab_size=settings.vocabulary,
        tie_word_embeddings=True,
    )


def train(model: Model, stream: np.ndarray, settings: Settings) -> float:
    """Fit next tokens; returns the mean loss of the last hundred steps, in nats."""
    schedule = optim.cosine_decay(settings.learning_rate, settings.steps)
    optimizer = optim.AdamW(learning_rate=schedule, weight_decay=0.1)

    def loss(model: Model, rows: mx.array) -> mx.array:
        each: mx.array = nn.losses.cross_entropy(model(rows[:, :-1]), rows[:, 1:])
        return mx.mean(each)

    loss_and_gradient = nn.value_and_grad(model, loss)
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(rows: mx.array) -> mx.array:
        value: mx.array
        value, gradient = loss_and_gradient(model, rows)
        gradient, _ = optim.clip_grad_norm(gradient, 1.0)
        optimizer.update(model, gradient)
        return value

    generator = np.random.default_rng(settings.seed)
    losses = []
    for number in range(settings.steps):
        starts = generator.integers(0, stream.size - settings.window - 1, settings.batch)
        rows = stream[starts[:, None] + np.arange(settings.window + 1)]
        value = step(mx.array(rows))
        mx.eval(value, state)
        losses.append(float(value))
        if (number + 1) % 100 == 0:
            print(f"step {number + 1}: loss {np.mean(losses[-100:]):.3f}", flush=True)
    return float(np.mean(losses[-100:]))


def save(model: Model, tokenizer: Tokenizer, settings: Settings, folder: Path) -> None:
    """Write what mlx-lm loads."""
    given = {
        name: value for name, value in asdict(arguments(settings)).items() if value is not None
    }
    config = given | {
        "max_position_embeddings": settings.window,
        "eos_token_id": tokenizer.token_to_id(END),
    }
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}) + "\n"
    )


def main(folder: Path, settings: Settings) -> None:
    """Gather text, train tokenizer and model, and write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = gather()
    np.random.default_rng(settings.seed).shuffle(texts)
    cut = len(texts) * 4 // 5
    kept, held_out = texts[:cut], texts[cut:]
    tokenizer = train_tokenizer(kept, settings.vocabulary)
    end = tokenizer.token_to_id(END)
    encoded = [np.array([*encoding.ids, end]) for encoding in tokenizer.encode_batch(kept)]
    stream = np.concatenate(encoded).astype(np.int32)
    print(f"{sum(map(len, texts)) / 1e6:.1f} MB of text, {stream.size:,} tokens to train on")
    model = make_model(settings)
    loss = train(model, stream, settings)
    save(model, tokenizer, settings, folder)
    (folder / "held-out.txt").write_text("\n\n".join(held_out) + "\n", encoding="utf-8")
    print(f"loss {loss:.3f} nats a token; model and held-out text are in {folder}/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small language model.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("small-lm"))
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    main(given.pop("folder"), Settings(**given))
