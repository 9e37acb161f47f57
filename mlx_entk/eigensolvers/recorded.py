"""An operator that keeps its products on disk, so that an interrupted solver can resume."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse.linalg import LinearOperator

from mlx_entk._files import Arrays, read_arrays, write_arrays
from mlx_entk._linalg import Float64Array, FloatArray
from mlx_entk.distributed import Group, from_first, is_first
from mlx_entk.errors import InputError


class RecordedOperator(LinearOperator):  # type: ignore[misc]
    """An operator that keeps its products in files, so that a solver can be restarted.

    Solvers are deterministic: after a restart they ask for the same products, which are read back
    up to the first missing one. A stored product is used only for the vector it was computed from.

    Parameters
    ----------
    operator
        Computes the products. They are stored in single precision.
    folder
        Where to store them, as ``NUMBER.npz``.
    told
        Called after each product with the number of products so far.
    group
        Ranks of ``mx.distributed`` that compute the products together; the first one stores them.
    aside
        Called after each product that was computed: arrays to store along with it.

    Attributes
    ----------
    products
        Number of products so far, read or computed.
    beside
        What was stored along with the last product; on ranks beyond the first, nothing.
    """

    def __init__(
        self,
        operator: LinearOperator,
        folder: Path,
        told: Callable[[int], None] = lambda _: None,
        group: Group | None = None,
        aside: Callable[[], Arrays] = dict,
    ):
        self._operator, self._folder, self._told = operator, folder, told
        self._group, self._aside = group, aside
        self.products = 0
        self.beside: Arrays = {}
        super().__init__(np.dtype(np.float64), operator.shape)

    def _matvec(self, vector: Float64Array) -> Float64Array:
        self.products += 1
        vector = np.ascontiguousarray(vector.reshape(-1), dtype=np.float64)
        key = hashlib.sha256(vector.tobytes()).hexdigest()
        path = self._folder / f"{self.products:06d}.npz"
        stored = self._stored(path, key) if is_first(self._group) else None
        product = from_first(stored, self.shape[:1], self._group)
        if product is None:
            product = np.asarray(self._operator @ vector, dtype=np.float32)
            if is_first(self._group):
                self.beside = dict(self._aside())
                write_arrays(path, {"key": np.array(key), "product": product} | self.beside)
        self._told(self.products)
        return product.astype(np.float64)

    def _stored(self, path: Path, key: str) -> FloatArray | None:
        if not path.exists():
            return None
        try:
            arrays = read_arrays(path)
        except InputError:  # a damaged file costs only one product, which is computed again
            return None
        if str(arrays.get("key")) != key or arrays["product"].shape != (self.shape[0],):
            return None
        product: FloatArray = arrays.pop("product")
        del arrays["key"]
        self.beside = arrays
        return product

    def _adjoint(self) -> "RecordedOperator":
        return self
