"""Fourier transforms, linear algebra and fused operations."""

from functools import partial

import mlx.core as mx

from tests.kernel.cases import Shape
from tests.kernel.mlx_functions.registry import POSITIVE, Function, case


def add_fourier() -> None:
    for name in ("fft", "ifft", "rfft"):
        function = getattr(mx.fft, name)
        case(f"fft.{name}", function, (4,))
        case(f"fft.{name}:longer", partial(function, n=5, axis=1), (4, 2))
        case(f"fft.{name}:shorter", partial(function, n=3, norm="ortho"), (5,))
        case(f"fft.{name}2", getattr(mx.fft, f"{name}2"), (2, 3))
        case(f"fft.{name}n", partial(getattr(mx.fft, f"{name}n"), axes=(1, 2)), (2, 3))
    for name in ("fft", "ifft", "irfft"):
        function = getattr(mx.fft, name)
        case(f"fft.{name}:complex", lambda a, b, f=function: f(a + 1j * b), (3,), (3,))
    filter_ = mx.array([1, 2j, 3 + 1j])
    case("fft.irfft", lambda a: mx.fft.irfft(mx.fft.rfft(a) * filter_), (4,))
    case("fft.irfft:odd", lambda a: mx.fft.irfft(mx.fft.rfft(a) * filter_, n=5), (5,), alone=True)
    case("fft.irfft2", lambda a: mx.fft.irfft2(mx.fft.rfft2(a) * filter_), (2, 4))
    there = partial(mx.fft.rfftn, axes=(1, 2))
    back = partial(mx.fft.irfftn, axes=(1, 2))
    case("fft.irfftn", lambda a: back(there(a) * filter_), (2, 4))
    case("fft.fftshift", partial(mx.fft.fftshift, axes=1), (5,))
    case("fft.ifftshift", partial(mx.fft.ifftshift, axes=1), (5,))
    case("fft.stft", partial(mx.fft.stft, n_fft=4), (8,), alone=True)
    window = partial(mx.fft.stft, n_fft=4, window=mx.hanning(4), pad_mode="constant")
    case("fft.stft:window", window, (8,))
    case("fft.istft", lambda a: mx.fft.istft(mx.fft.stft(a, n_fft=4) * (1 + 2j), n_fft=4), (8,))


def add_linear_algebra() -> None:
    """On the CPU: MLX has these there alone."""

    def positive_definite(a: mx.array) -> mx.array:
        return a @ mx.swapaxes(a, -1, -2) + mx.eye(a.shape[-1])

    def regular(a: mx.array) -> mx.array:
        return a + 3 * mx.eye(a.shape[-1])

    def lower(a: mx.array) -> mx.array:
        return mx.tril(regular(a))

    of: dict[str, tuple[Function, Shape]] = {
        "cholesky": (positive_definite, (2, 2)),
        "cholesky_inv": (lower, (2, 2)),
        "det": (regular, (2, 2)),
        "inv": (regular, (2, 2)),
        "tri_inv": (lower, (2, 2)),
        "pinv": (lambda a: a, (3, 2)),
        "svd": (lambda a: a, (3, 2)),
        "slogdet": (regular, (2, 2)),
        "qr": (regular, (2, 2)),
        "eigh": (positive_definite, (2, 2)),
        "eigvalsh": (positive_definite, (2, 2)),
        "eigvals": (positive_definite, (2, 2)),
        "eig": (positive_definite, (2, 2)),
    }
    for name, (prepare, shape) in of.items():
        function = partial(getattr(mx.linalg, name), stream=mx.cpu)
        case(f"linalg.{name}", lambda a, f=function, p=prepare: f(p(a)), shape)
    values = partial(mx.linalg.svd, compute_uv=False, stream=mx.cpu)
    case("linalg.svd:values", values, (3, 2))
    case("linalg.lu", lambda a: mx.linalg.lu(regular(a), stream=mx.cpu)[1:], (2, 2))
    case("linalg.lu_factor", lambda a: mx.linalg.lu_factor(regular(a), stream=mx.cpu)[0], (2, 2))
    for name, prepare in (("solve", regular), ("solve_triangular", lower)):
        function = partial(getattr(mx.linalg, name), stream=mx.cpu)
        case(f"linalg.{name}", lambda a, b, f=function, p=prepare: f(p(a), b), (2, 2), (2, 1))


def add_fused() -> None:
    eps = 0.1
    layer_norm = partial(mx.fast.layer_norm, eps=eps)
    case("fast.layer_norm", layer_norm, (2, 3), (3,), (3,), shared=[1, 2])
    case("fast.layer_norm:plain", partial(layer_norm, weight=None, bias=None), (2, 3))
    case("fast.rms_norm", partial(mx.fast.rms_norm, eps=eps), (2, 3), (3,), shared=[1])
    case("fast.rms_norm:plain", partial(mx.fast.rms_norm, weight=None, eps=eps), (2, 3))
    rope = partial(mx.fast.rope, dims=4, base=100.0, scale=0.5)
    case("fast.rope", partial(rope, traditional=False, offset=1), (1, 2, 4))
    case("fast.rope:traditional", partial(rope, traditional=True, offset=1), (1, 2, 4))
    case("fast.rope:offset", partial(rope, traditional=False, offset=mx.array(2)), (2, 4))

    def by_frequencies(a: mx.array, freqs: mx.array) -> mx.array:
        return mx.fast.rope(
            a, 4, traditional=False, base=None, scale=0.5, offset=1, freqs=freqs
        )  # fmt: skip

    case("fast.rope:frequencies", by_frequencies, (2, 4), (2,), shared=[1], values=POSITIVE)

    attend = partial(mx.fast.scaled_dot_product_attention, scale=0.7)
    name = "fast.scaled_dot_product_attention"
    mask = mx.array([[True, False, True], [True, True, False]])
    case(name, attend, (1, 2, 2), (1, 3, 2), (1, 3, 2))
    case(f"{name}:causal", partial(attend, mask="causal"), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    case(f"{name}:grouped", attend, (4, 2, 2), (2, 3, 2), (2, 3, 2))
    case(f"{name}:boolean mask", partial(attend, mask=mask), (1, 2, 2), (1, 3, 2), (1, 3, 2))

    def with_mask(q: mx.array, mask: mx.array) -> mx.array:
        return attend(q, q, q, mask=mask)

    case(f"{name}:mask", with_mask, (1, 3, 2), (1, 3, 3))
    case(f"{name}:shared mask", with_mask, (1, 3, 2), (3, 3), shared=[1])
    case(f"{name}:sinks", lambda q, s: attend(q, q, q, sinks=s), (2, 3, 2), (2,), shared=[1])

    def loss(a: mx.array) -> mx.array:
        return mx.fast.cross_entropy(a, mx.broadcast_to(mx.array([1, 2]), a.shape[:2]))

    case("fast.cross_entropy", loss, (2, 3))
    delta = mx.fast.gated_delta_update
    shapes = ((2, 1, 2), (2, 1, 2), (2, 1, 2), (2, 1), (2, 1))
    case("fast.gated_delta_update", delta, *shapes, values=POSITIVE)
    case(
        "fast.gated_delta_update:state",
        lambda q, s: delta(q, q, q, q[..., 0], q[..., 1], s),
        (2, 1, 2),
        (1, 2, 2),
        values=POSITIVE,
    )


def add() -> None:
    """Register all of them."""
    add_fourier()
    add_linear_algebra()
    add_fused()
