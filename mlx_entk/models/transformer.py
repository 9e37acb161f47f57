"""A one-layer transformer that learns modular addition."""

import mlx.core as mx
import mlx.nn as nn


class ModularTransformer(nn.Module):
    """One attention layer and one ReLU layer from tokens n, m, "=" to p logits at the last one.

    The network of Nanda et al., "Progress measures for grokking via mechanistic
    interpretability" (2023): no biases, no layer norm, learned positions, and normal weights
    whose variance is one over the residual width (one over p for the unembedding). Only the last
    position is read out and there is only one layer, so only that position's query is computed;
    the causal mask hides nothing from it.

    Parameters
    ----------
    p
        The number of classes; the tokens are 0…p−1, and p for "=".
    d_model
        Width of the residual stream, a multiple of ``heads``.
    heads
        The number of attention heads.
    d_mlp
        The number of hidden units of the ReLU layer.
    seed
        Seed of the weights.
    """

    def __init__(self, p: int, d_model: int = 64, heads: int = 4, d_mlp: int = 256, seed: int = 0):
        super().__init__()
        self.heads = heads
        keys = iter(mx.random.split(mx.random.key(seed), 9))

        def normal(shape: tuple[int, ...], variance: float) -> mx.array:
            return mx.random.normal(shape, scale=variance**0.5, key=next(keys))

        self.embedding = normal((p + 1, d_model), 1 / d_model)
        self.position = normal((3, d_model), 1 / d_model)
        self.W_Q = normal((d_model, d_model), 1 / d_model)
        self.W_K = normal((d_model, d_model), 1 / d_model)
        self.W_V = normal((d_model, d_model), 1 / d_model)
        self.W_O = normal((d_model, d_model), 1 / d_model)
        self.W_in = normal((d_mlp, d_model), 1 / d_model)
        self.W_out = normal((d_model, d_mlp), 1 / d_model)
        self.unembedding = normal((p, d_model), 1 / p)

    def __call__(self, tokens: mx.array) -> mx.array:
        """Logits of shape (N, p) for tokens of shape (N, 3)."""
        x = self.embedding[tokens] + self.position
        last = x[:, -1]
        last = last + self._attention(last, x) @ self.W_O.T
        last = last + mx.maximum(last @ self.W_in.T, 0) @ self.W_out.T
        return last @ self.unembedding.T

    def _attention(self, last: mx.array, x: mx.array) -> mx.array:
        """What the last position gathers from all positions, shape (N, d_model)."""

        def by_head(projected: mx.array) -> mx.array:
            return projected.reshape(*projected.shape[:-1], self.heads, -1)

        query, key, value = (
            by_head(source @ weight.T)
            for source, weight in ((last, self.W_Q), (x, self.W_K), (x, self.W_V))
        )
        scores = mx.sum(query[:, None] * key, axis=-1) / key.shape[-1] ** 0.5
        weights = mx.softmax(scores, axis=1)
        return mx.sum(weights[..., None] * value, axis=1).reshape(last.shape)
