"""The transformer, its settings, and how it is trained."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_entk.data import ModularAddition, modular_addition
from mlx_entk.errors import InputError
from mlx_entk.models import ModularTransformer
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.modular.pairs import ModularConfig, train_on_pairs
from mlx_entk.studies.settings import setting
from mlx_entk.training import reached

# Test accuracy that counts as grokked.
GROKKED = 0.99
EVALUATE_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModularConfig):
    """Settings of the study; the defaults are those of the paper.

    Raises
    ------
    InputError
        For a value for which the study has no meaning.
    """

    train_fraction: float = 0.5
    epochs: int = 4000
    seed: int = 2
    learning_rate: float = 3e-4
    weight_decay: float = 1.0
    d_model: int = setting("Width of the residual stream.", 64)
    heads: int = setting("Attention heads.", 4)
    d_mlp: int = setting("Hidden units of the ReLU layer.", 256)
    batch_size: int = setting("Training pairs in each step.", 64)
    hold: int = setting(
        f"Epochs for which the test accuracy has to stay at {GROKKED:.0%} before training stops; "
        "0 trains to the last epoch.",
        200,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("d_model", "heads", "d_mlp", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.d_model % self.heads:
            raise InputError(
                f"d_model is {self.d_model}, which {self.heads} heads cannot share equally"
            )
        if self.hold < 0:
            raise InputError(f"hold is {self.hold}: it must be 0 or more")

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        return 20


def dataset(config: TransformerConfig) -> ModularAddition:
    """All p² pairs, and which of them are trained on."""
    return modular_addition(config.p, config.train_fraction, config.seed)


def make_model(config: TransformerConfig) -> ModularTransformer:
    """The network before training."""
    return ModularTransformer(config.p, config.d_model, config.heads, config.d_mlp, config.seed)


def train_transformer(
    model: ModularTransformer,
    data: ModularAddition,
    config: TransformerConfig,
    run: Run,
    progress: Progress = silent,
) -> int:
    """Train in place by ``stop_rule``, from the run's last checkpoint if there is one."""
    rule = {"stop": reached("test accuracy", GROKKED, config.hold)} if config.hold else {}
    return train_on_pairs(
        model,
        mx.array(data.tokens),
        data,
        config,
        cross_entropy,
        run,
        batch_size=config.batch_size,
        evaluate_every=EVALUATE_EVERY,
        progress=progress,
        **rule,
    )


def cross_entropy(logits: mx.array, labels: mx.array) -> mx.array:
    """The loss of logits (N, p) for labels (N,)."""
    return nn.losses.cross_entropy(logits, labels, reduction="mean")


def stop_rule(config: TransformerConfig) -> str:
    """When training ends, in words."""
    if not config.hold:
        return f"after {config.epochs} epochs"
    return (
        f"once the test accuracy has been {GROKKED:.0%} or more for {config.hold} epochs, "
        f"at the latest after {config.epochs}; evaluated every {EVALUATE_EVERY}"
    )
