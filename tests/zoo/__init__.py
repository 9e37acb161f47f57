"""Tiny models of all that mlx-lm offers; mlx_entk comes before MLX, for its fast BLAS."""

import mlx_entk  # noqa: F401
