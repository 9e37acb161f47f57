"""How each MLX primitive is written in ONNX: one registry, ``BUILDERS``.

A builder gets the emitter and a ``Primitive``, and returns the name of its ONNX value, or a
list of names. To export another primitive, write its builder in the file of its family and add a
line to that file's table.
"""

from mlx_entk.onnx.builders.elementwise import ELEMENTWISE
from mlx_entk.onnx.builders.indexing import INDEXING
from mlx_entk.onnx.builders.linear import LINEAR
from mlx_entk.onnx.builders.primitive import Builder, Primitive
from mlx_entk.onnx.builders.reductions import REDUCTIONS
from mlx_entk.onnx.builders.shapes import SHAPES
from mlx_entk.onnx.builders.widening import widened

BUILDERS: dict[str, Builder] = {
    name: widened(name, build)
    for family in (ELEMENTWISE, REDUCTIONS, SHAPES, INDEXING, LINEAR)
    for name, build in family.items()
}

__all__ = ["BUILDERS", "Builder", "Primitive"]
