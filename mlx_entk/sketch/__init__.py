"""The eNTK by random projections, with a store of the projected gradients."""

from mlx_entk.sketch.error import SketchError
from mlx_entk.sketch.result import EntkSketch, Nearest
from mlx_entk.sketch.sketch import entk_sketch, open_sketch

__all__ = ["EntkSketch", "Nearest", "SketchError", "entk_sketch", "open_sketch"]
