"""Random numbers that are counted: each follows from a seed and a name, not from a state.

Philox (Salmon, Moraes, Dror and Shaw, 2011) turns a key and a counter into bits. The key is a
digest of the seed and of what the numbers are for, so the same numbers come out in any order, in
tiles of any size and in another process. Only raw bits are taken from NumPy: their streams do not
change from version to version.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


class Draws:
    """Signs, orders and places by name.

    Parameters
    ----------
    seed
        Different seeds give independent numbers.
    """

    def __init__(self, seed: int):
        self._seed = seed

    def signs(self, size: int, *name: object) -> NDArray[np.float32]:
        """−1 and 1, shape (size,)."""
        words = self._bits(-(-size // 64), *name)
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=size)
        signs: NDArray[np.float32] = 1 - 2 * bits.astype(np.float32)
        return signs

    def order(self, size: int, *name: object) -> NDArray[np.int64]:
        """0…size−1 in random order."""
        return np.argsort(self._bits(size, *name), kind="stable")

    def places(self, size: int, below: int, *name: object) -> NDArray[np.int64]:
        """Numbers from 0 to below − 1, shape (size,)."""
        return (self._bits(size, *name) % np.uint64(below)).astype(np.int64)

    def _bits(self, size: int, *name: object) -> NDArray[np.uint64]:
        digest = hashlib.blake2b(repr((self._seed, *name)).encode(), digest_size=16).digest()
        generator = np.random.Philox(key=np.frombuffer(digest, "<u8").astype(np.uint64))
        return np.asarray(generator.random_raw(size))
