"""Transforms of functions, random samples and a group of one rank."""

from functools import partial

import mlx.core as mx

from tests.kernel.mlx_functions.registry import case, each


def add_transforms() -> None:
    """Models that are differentiated, mapped or compiled inside, or bring their own rules."""

    @mx.custom_function
    def doubled(a: mx.array) -> mx.array:
        return mx.sin(a)

    @doubled.vjp
    def _(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return 2 * cotangent * mx.cos(primal)

    @mx.custom_function
    def straight_through(a: mx.array) -> mx.array:
        return mx.round(a)

    @straight_through.vjp
    def _(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return cotangent

    @mx.custom_function
    def with_rules(a: mx.array, b: mx.array) -> mx.array:
        return mx.sin(a) * b

    @with_rules.vjp
    def _(
        primals: list[mx.array], cotangent: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array]:
        a, b = primals
        return cotangent * mx.cos(a) * b, cotangent * mx.sin(a)

    @with_rules.jvp
    def _(primals: list[mx.array], tangents: list[mx.array | None]) -> mx.array:
        (a, b), (da, db) = primals, tangents
        along_a = mx.zeros_like(a) if da is None else da * mx.cos(a) * b
        return along_a if db is None else along_a + db * mx.sin(a)

    case("custom_function:doubled", doubled, (3,), decreed=True)
    case("custom_function:straight through", straight_through, (3,), decreed=True, alone=True)
    case("custom_function:both rules", with_rules, (3,), (3,))
    case("custom_function", mx.custom_function(lambda a, b: mx.sin(a) * b), (3,), (3,))
    case("stop_gradient", lambda a: mx.stop_gradient(a) * a + a, (3,), decreed=True, alone=True)
    inside = mx.checkpoint(lambda a, b: mx.sin(a @ b))
    case("checkpoint", inside, (2, 3), (3, 2), shared=[1])
    compiled = mx.compile(lambda a, b: mx.sin(a @ b) * 2 + 1)
    case("compile", compiled, (2, 3), (3, 2), shared=[1])
    shapeless = mx.compile(lambda a, b: mx.exp(mx.sin(a) * b), shapeless=True)
    case("compile:shapeless", shapeless, (3,), (3,))

    def row(a: mx.array, b: mx.array) -> mx.array:
        return mx.sin(a) * b.sum()

    def total(a: mx.array) -> mx.array:
        return mx.tanh(a).sum()

    case("vmap", mx.vmap(row), (3,), (2,))
    case(
        "vmap:shared",
        lambda a, b: mx.vmap(lambda row: mx.sin(row @ b))(a),
        (3,),
        (3, 2),
        shared=[1],
    )
    case("grad", mx.grad(total), (3,))
    case("value_and_grad", lambda a: mx.value_and_grad(total)(a)[1], (3,))
    case("vjp", lambda a, b: mx.vjp(mx.tanh, [a], [b])[1][0], (3,), (3,))
    case("jvp", lambda a, b: mx.jvp(mx.tanh, [a], [b])[1][0], (3,), (3,))


def add_samples() -> None:
    """Samples with a key, moved and scaled by the model."""
    key = mx.random.key(3)
    sample = mx.random
    normal = each(lambda a, b: sample.normal(a.shape, loc=a, scale=b, key=key))
    case("random.normal", normal, (3,), (3,))
    uniform = each(lambda a, b: sample.uniform(a - 2, b + 2, a.shape, key=key))
    case("random.uniform", uniform, (3,), (3,))
    truncated = each(lambda a, b: sample.truncated_normal(a - 2, b + 2, a.shape, key=key))
    case("random.truncated_normal", truncated, (3,), (3,))

    def correlated(a: mx.array, b: mx.array) -> mx.array:
        covariance = b @ b.T + mx.eye(2)
        return sample.multivariate_normal(a, covariance, key=key, stream=mx.cpu)

    case("random.multivariate_normal", each(correlated), (2,), (2, 2))
    case("random.permutation", each(partial(sample.permutation, key=key)), (4,))
    for name in ("gumbel", "laplace"):
        draw = partial(getattr(sample, name), (3,), key=key)
        case(f"random.{name}", each(lambda a, f=draw: f() * a), (3,))


def add_distributed() -> None:
    """Reductions over a group of this one process."""
    for name in ("all_sum", "all_max", "all_min", "all_gather", "sum_scatter"):
        case(f"distributed.{name}", getattr(mx.distributed, name), (3,))


def add() -> None:
    """Register all of them."""
    add_transforms()
    add_samples()
    add_distributed()
