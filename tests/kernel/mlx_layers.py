"""The layers of ``mlx.nn``, each between a dense layer in front and one behind."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from numpy.typing import NDArray

from tests.kernel.cases import C, Case, N, Shape, words

Call = Callable[..., mx.array]

TOKENS = 5


@dataclass(frozen=True, eq=False)
class LayerCase(Case):
    """A small model with a layer of ``mlx.nn`` inside.

    What it covers are the functions that it calls; its layers are known from the model.

    Attributes
    ----------
    build
        Makes the model, in inference mode, with parameters that are nowhere zero or one.
    inputs
        N rows.
    """

    build: Callable[[], nn.Module]
    inputs: NDArray[Any]


CASES: list[LayerCase] = []


class Between(nn.Module):
    """A dense layer, the layer, and a dense readout of all that it gives."""

    def __init__(self, make: Callable[[], nn.Module], call: Call, row: Shape) -> None:
        super().__init__()
        self.front = nn.Linear(row[-1], row[-1])
        self.layer = make()
        self._call = call
        self.eval()
        size = int(np.prod(self.inside(mx.zeros((1, *row))).shape))
        self.readout = nn.Linear(size, C)

    def inside(self, x: mx.array) -> mx.array:
        outputs: mx.array = self._call(self.layer, mx.sin(self.front(x)))
        return outputs

    def __call__(self, x: mx.array) -> mx.array:
        return self.readout(self.inside(x).reshape(x.shape[0], -1))


class OfTokens(nn.Module):
    """An embedding of two tokens, a dense layer, and a readout, by the embedding where tied."""

    def __init__(self, make: Callable[[], nn.Module], width: int, tied: bool) -> None:
        super().__init__()
        self.embedding = make()
        self.dense = nn.Linear(width, width)
        self.readout = None if tied else nn.Linear(2 * width, C)

    def __call__(self, x: mx.array) -> mx.array:
        hidden = mx.sin(self.dense(self.embedding(x)))
        if self.readout is None:
            logits: mx.array = self.embedding.as_linear(hidden.sum(axis=1))
            return logits[:, :C]
        return self.readout(hidden.reshape(x.shape[0], -1))


def plain(layer: Any, h: mx.array) -> mx.array:
    """A layer of one argument."""
    outputs: mx.array = layer(h)
    return outputs


def case(
    name: str,
    make: Callable[[], nn.Module],
    row: Shape = (4,),
    call: Call = plain,
    covers: str = "",
) -> None:
    """Register a layer on rows of a shape, channels last."""
    seed = zlib.crc32(name.encode())
    inputs = np.random.default_rng(seed).standard_normal((N, *row)).astype(np.float32)
    build = partial(_built, partial(Between, make, call, row), seed)
    CASES.append(LayerCase(name, tuple(covers.split()), build, inputs))


def case_of_tokens(
    name: str, make: Callable[[], nn.Module], width: int = 4, tied: bool = False
) -> None:
    """Register an embedding."""
    seed = zlib.crc32(name.encode())
    inputs = np.random.default_rng(seed).integers(0, TOKENS, (N, 2))
    build = partial(_built, partial(OfTokens, make, width, tied), seed)
    CASES.append(LayerCase(name, (), build, inputs))


def _built(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    mx.random.seed(seed)
    model = make()
    model.eval()
    moved = tree_map(
        lambda value: value + 0.3 * mx.random.normal(value.shape), model.trainable_parameters()
    )
    model.update(moved)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm) and "running_mean" in module:
            shape = module.running_mean.shape
            module.running_mean = 0.3 * mx.random.normal(shape)
            module.running_var = mx.random.uniform(0.5, 1.5, shape)
    return model


def of_function(function: Callable[..., Any]) -> Call:
    """A function in the place of a layer."""
    return lambda _, h: function(h)


def add_dense() -> None:
    case("Linear", lambda: nn.Linear(4, 3))
    case("Linear:no bias", lambda: nn.Linear(4, 3, bias=False), (2, 4))
    case("Identity", nn.Identity)
    case("Bilinear", lambda: nn.Bilinear(4, 4, 3), call=lambda f, h: f(h, h * h))
    case("Bilinear:no bias", lambda: nn.Bilinear(4, 4, 3, False), (2, 4), lambda f, h: f(h, h + 1))
    case("Sequential", lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)))
    case_of_tokens("Embedding", lambda: nn.Embedding(TOKENS, 4))
    case_of_tokens("Embedding:tied", lambda: nn.Embedding(TOKENS, 4), tied=True)


def add_quantized() -> None:
    def widened(layer: Any, h: mx.array) -> mx.array:
        """A frozen layer wants groups of 64."""
        outputs: mx.array = layer(mx.concatenate([h, h[..., ::-1]] * 8, axis=-1))
        return outputs

    def linear(bits: int = 8, **options: Any) -> Callable[[], nn.Module]:
        return lambda: nn.QuantizedLinear(64, 8, group_size=64, bits=bits, **options)

    def embedding() -> nn.Module:
        return nn.QuantizedEmbedding(TOKENS, 64, group_size=64, bits=8)

    case("QuantizedLinear", linear(), (4,), widened)
    case("QuantizedLinear:no bias", linear(4, bias=False), (2, 4), widened)
    case_of_tokens("QuantizedEmbedding", embedding, 64)
    case_of_tokens("QuantizedEmbedding:tied", embedding, 64, tied=True)


def add_convolutions() -> None:
    for d in (1, 2, 3):
        conv, transposed = getattr(nn, f"Conv{d}d"), getattr(nn, f"ConvTranspose{d}d")
        image = (4, *[3] * (d - 1), 2)
        ways: dict[str, dict[str, Any]] = {
            "plain": {},
            "no bias": {"bias": False},
            "stride": {"stride": 2},
            "padding": {"padding": 1},
            "dilation": {"dilation": 2, "padding": 1},
        }
        for label, options in ways.items():
            case(f"Conv{d}d:{label}", partial(conv, 2, 2, 2, **options), image)
            case(f"ConvTranspose{d}d:{label}", partial(transposed, 2, 2, 2, **options), image)
        padded = partial(transposed, 2, 2, 2, stride=2, output_padding=1)
        case(f"ConvTranspose{d}d:output padding", padded, image)
        if d < 3:  # MLX has no groups in three dimensions
            wide = (*image[:-1], 4)
            case(f"Conv{d}d:groups", partial(conv, 4, 2, 2, groups=2), wide)
            case(f"Conv{d}d:depthwise", partial(conv, 4, 4, 2, groups=4, padding=1), wide)
    case("Conv1d:rows left over", lambda: nn.Conv1d(2, 3, 4, stride=4), (9, 2))
    case("Conv2d:1x1 stride 2", lambda: nn.Conv2d(2, 3, 1, stride=2), (4, 4, 2))


def add_norms() -> None:
    case("LayerNorm", lambda: nn.LayerNorm(4), (2, 4))
    case("LayerNorm:no bias", lambda: nn.LayerNorm(4, bias=False))
    case("LayerNorm:not affine", lambda: nn.LayerNorm(4, affine=False))
    case("RMSNorm", lambda: nn.RMSNorm(4), (2, 4))
    case("BatchNorm", lambda: nn.BatchNorm(4))
    case("BatchNorm:of images", lambda: nn.BatchNorm(2), (3, 3, 2))
    case("BatchNorm:not affine", lambda: nn.BatchNorm(4, affine=False), (2, 4))
    case("GroupNorm", lambda: nn.GroupNorm(2, 4), (3, 4))
    case("GroupNorm:as in PyTorch", lambda: nn.GroupNorm(2, 4, pytorch_compatible=True), (3, 4))
    case("InstanceNorm", lambda: nn.InstanceNorm(2, affine=True), (3, 3, 2))
    case("InstanceNorm:not affine", lambda: nn.InstanceNorm(4), (3, 4))


def add_pooling() -> None:
    for d in (1, 2, 3):
        image = (4, *[3] * (d - 1), 2)
        for kind in ("Max", "Avg"):
            pool = getattr(nn, f"{kind}Pool{d}d")
            case(f"{kind}Pool{d}d", partial(pool, 2), image)
            case(f"{kind}Pool{d}d:overlapping", partial(pool, 3, stride=1, padding=1), image)
    for mode in ("nearest", "linear", "cubic"):
        case(f"Upsample:{mode}", partial(nn.Upsample, (2, 1.5), mode), (2, 4, 2))
        aligned = partial(nn.Upsample, 2, mode, align_corners=True)
        case(f"Upsample:{mode} aligned", aligned, (3, 2))
    smoothed = partial(nn.Upsample, 0.5, "linear", antialias=True)
    case("Upsample:antialias", smoothed, (4, 4, 2))


def add_recurrent() -> None:
    def last(layer: Any, h: mx.array) -> mx.array:
        outputs: mx.array = layer(h)[0][..., -1, :]
        return outputs

    def carried(layer: Any, h: mx.array) -> mx.array:
        """With the state that a first half left."""
        outputs: mx.array = layer(h, hidden=mx.sin(h[:, 0, :3]))
        return outputs

    case("RNN", lambda: nn.RNN(4, 3), (3, 4))
    case("RNN:no bias", lambda: nn.RNN(4, 3, bias=False), (3, 4), carried)
    case("GRU", lambda: nn.GRU(4, 3), (3, 4))
    case("GRU:no bias", lambda: nn.GRU(4, 3, bias=False), (3, 4), carried)
    case("LSTM", lambda: nn.LSTM(4, 3), (3, 4), last)
    case("LSTM:no bias", lambda: nn.LSTM(4, 3, bias=False), (3, 4), last)


def add_attention() -> None:
    mask = nn.MultiHeadAttention.create_additive_causal_mask(3)

    def itself(layer: Any, h: mx.array) -> mx.array:
        outputs: mx.array = layer(h, h, h)
        return outputs

    def causal(layer: Any, h: mx.array) -> mx.array:
        outputs: mx.array = layer(h, h, h, mask)
        return outputs

    def across(layer: Any, h: mx.array) -> mx.array:
        outputs: mx.array = layer(h, h[:, 1:], h[:, 1:] * 2)
        return outputs

    def encode(layer: Any, h: mx.array) -> mx.array:
        outputs: mx.array = layer(h, mask)
        return outputs

    def decode(layer: Any, h: mx.array) -> mx.array:
        outputs: mx.array = layer(h, mx.cos(h[:, 1:]), mask, None)
        return outputs

    def translate(layer: Any, h: mx.array) -> mx.array:
        outputs: mx.array = layer(mx.cos(h[:, 1:]), h, None, mask, None)
        return outputs

    def scores(layer: Any, h: mx.array) -> mx.array:
        """Scores of two heads of width two."""
        heads = mx.unflatten(h, -1, (2, 2)).swapaxes(1, 2)
        return mx.softmax(layer(heads @ heads.swapaxes(2, 3)), axis=-1) @ heads

    sequence = (3, 4)
    case("MultiHeadAttention", lambda: nn.MultiHeadAttention(4, 2), sequence, itself)
    case("MultiHeadAttention:causal", lambda: nn.MultiHeadAttention(4, 2), sequence, causal)
    widths = partial(nn.MultiHeadAttention, 4, 2, value_dims=6, value_output_dims=3, bias=True)
    case("MultiHeadAttention:across", widths, sequence, across)
    for label, options in (("", {}), (":norm last", {"norm_first": False})):
        encoder = partial(nn.TransformerEncoder, 1, 4, 2, mlp_dims=5, **options)
        case(f"TransformerEncoder{label}", encoder, sequence, encode)
        decoder = partial(nn.TransformerDecoder, 1, 4, 2, mlp_dims=5, **options)
        case(f"TransformerDecoder{label}", decoder, sequence, decode)
    checkpointed = partial(nn.TransformerEncoder, 1, 4, 2, mlp_dims=5, checkpoint=True)
    case("TransformerEncoder:checkpoint", checkpointed, sequence, encode)
    transformer = partial(nn.Transformer, 4, 2, 1, 1, mlp_dims=5)
    case("Transformer", transformer, sequence, translate)
    case("ALiBi", nn.ALiBi, sequence, scores)
    for label, traditional in (("", False), (":traditional", True)):
        case(f"RoPE{label}", partial(nn.RoPE, 4, traditional=traditional, base=10), sequence)
    encoding = partial(nn.SinusoidalPositionalEncoding, 4)
    case("SinusoidalPositionalEncoding", encoding, call=lambda f, h: f(h.sum(axis=-1)))


def add_activations() -> None:
    for kind in (
        nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.HardShrink, nn.HardTanh, nn.Hardswish, nn.LeakyReLU,
        nn.LogSigmoid, nn.LogSoftmax, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU2, nn.ReLU6, nn.SELU,
        nn.SiLU, nn.Sigmoid, nn.Softmax, nn.Softmin, nn.Softplus, nn.Softshrink, nn.Softsign,
        nn.Tanh,
    ):  # fmt: skip
        case(kind.__name__, kind)
    case("PReLU:of channels", lambda: nn.PReLU(4), (2, 4))
    case("GELU:approximate", lambda: nn.GELU(approx="precise"))
    case("GELU:fast", lambda: nn.GELU(approx="fast"))
    case("Step", nn.Step, call=lambda f, h: f(h) * h)
    for name in words("""
        celu elu gelu gelu_approx gelu_fast_approx glu hard_shrink hard_tanh hardswish leaky_relu
        log_sigmoid log_softmax mish relu relu2 relu6 selu sigmoid silu softmax softmin softplus
        softshrink softsign tanh
    """):
        case(name, nn.Identity, call=of_function(getattr(nn, name)), covers=name)
    case("step", nn.Identity, call=lambda _, h: nn.step(h) * h, covers="step")
    case("prelu", nn.Identity, call=lambda _, h: nn.prelu(h, mx.array([0.2])), covers="prelu")


def add_dropout() -> None:
    """In inference these do nothing."""
    case("Dropout", lambda: nn.Dropout(0.5))
    case("Dropout2d", lambda: nn.Dropout2d(0.5), (2, 2, 4))
    case("Dropout3d", lambda: nn.Dropout3d(0.5), (2, 2, 1, 4))


def add_losses() -> None:
    """Models may end in a loss; these are of two vectors and each input's own."""
    for name in words("""
        binary_cross_entropy hinge_loss huber_loss kl_div_loss l1_loss log_cosh_loss mse_loss
        smooth_l1_loss
    """):
        loss = partial(getattr(nn.losses, name), reduction="none")
        case(
            f"losses.{name}",
            nn.Identity,
            call=lambda _, h, f=loss: f(h, 0.3 * mx.cos(h)),
            covers=f"losses.{name}",
        )
    classes = mx.array([1, 3])
    more: dict[str, Call] = {
        "cross_entropy": lambda f, h: f(h, mx.broadcast_to(classes, h.shape[:2])),
        "nll_loss": lambda f, h: f(h, mx.broadcast_to(classes, h.shape[:2])),
        "cosine_similarity_loss": lambda f, h: f(h, mx.cos(h)),
        "gaussian_nll_loss": lambda f, h: f(h, mx.cos(h), mx.exp(h)),
        "margin_ranking_loss": lambda f, h: f(h, mx.cos(h), mx.ones_like(h)),
        "triplet_loss": lambda f, h: f(h, mx.cos(h), mx.sin(2 * h)),
    }
    for name, call in more.items():
        loss = partial(getattr(nn.losses, name), reduction="none")
        case(
            f"losses.{name}",
            nn.Identity,
            (2, 4),
            lambda _, h, f=loss, c=call: c(f, h),
            f"losses.{name}",
        )


def add_distributed() -> None:
    """Layers of a group of this one process."""
    case("AllToShardedLinear", lambda: nn.AllToShardedLinear(4, 3))
    case("ShardedToAllLinear", lambda: nn.ShardedToAllLinear(4, 3))
    case("FullyShardedModule", lambda: nn.FullyShardedModule(nn.Linear(4, 3)))
    for kind in (nn.QuantizedAllToShardedLinear, nn.QuantizedShardedToAllLinear):
        case(
            kind.__name__,
            partial(kind, 64, 8, bits=8),
            call=lambda f, h: f(mx.concatenate([h, h[..., ::-1]] * 8, axis=-1)),
        )


for add in (
    add_dense, add_quantized, add_convolutions, add_norms, add_pooling, add_recurrent,
    add_attention, add_activations, add_dropout, add_losses, add_distributed,
):  # fmt: skip
    add()

# What is no layer or function of a model, by the reason.
LEFT_OUT = {
    "has no forward pass": "Module",
    "not on a CPU": "QQLinear",
    "of modules": "average_gradients fully_shard quantize value_and_grad",
}


def public_names() -> Iterator[str]:
    """Names of all layers and functions of ``mlx.nn`` and its losses."""
    for prefix, space in (("", nn), ("losses.", nn.losses)):
        for name in dir(space):
            member = getattr(space, name)
            known = isinstance(member, type) and issubclass(member, nn.Module)
            function = callable(member) and not isinstance(member, type)
            ours = str(getattr(member, "__module__", "")).startswith("mlx.") or prefix == ""
            if not name.startswith("_") and (known or (function and ours)):
                yield prefix + name
