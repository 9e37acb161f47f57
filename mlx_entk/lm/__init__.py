"""Language models of mlx-lm: kernels of the last hidden state, layer by layer."""

from mlx_entk.lm.model import LanguageModel, load_model, prepared

__all__ = ["LanguageModel", "load_model", "prepared"]
