"""Imported before every test module, so that MLX finds the fast BLAS whatever they import."""

import mlx_entk  # noqa: F401
