"""Inputs of the studies."""

from mlx_entk.data.modular import EMBEDDINGS, Embedding, ModularAddition, modular_addition
from mlx_entk.data.sparse import sparse_features

__all__ = ["EMBEDDINGS", "Embedding", "ModularAddition", "modular_addition", "sparse_features"]
