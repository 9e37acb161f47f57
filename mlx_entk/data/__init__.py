"""Inputs of the studies."""

from mlx_entk.data.modular import EMBEDDINGS, Embedding, ModularAddition, modular_addition

__all__ = ["EMBEDDINGS", "Embedding", "ModularAddition", "modular_addition"]
