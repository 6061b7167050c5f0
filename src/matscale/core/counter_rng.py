"""Counter-based random numbers: a shuffled order and random rotations as pure functions of their keys.

There is no random state. Entry 7,000,000 of an order, or the rotation of structure 12 in epoch 3, is computed on
demand, without the entries before it and without an array of all of them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4
_SMALLEST = 6
"""Least number of bits of a Feistel network.

Smaller networks reach only some of the permutations of a few integers; cycle walking in a larger one reaches all.
"""
_BLOCK = 1 << 15
"""Number of positions permuted at once, so that temporaries stay in the processor's cache."""


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble each 64-bit word reversibly (the finaliser of SplitMix64, doi:10.1145/2660193.2660195)."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=256)
def keyed(*words: int) -> NDArray[np.uint64]:
    """Hash several integers to one 64-bit word, an array of shape [1]; their order matters."""
    key = np.zeros(1, np.uint64)
    for word in words:
        key = mixed(key ^ mixed(np.array([word % 2**64], np.uint64)))
    key.flags.writeable = False  # kept, since every batch of an epoch asks for the same
    return key


class Permutation:
    """Random permutation of 0 ... n − 1, determined by `words` and computed without being stored.

    A Feistel network permutes the integers of the next power of two; results outside the range are permuted again until
    they are inside (cycle walking: Black and Rogaway, doi:10.1007/3-540-45760-7_9). Takes about 0.1 µs per entry.
    """

    def __init__(self, n: int, *words: int) -> None:
        bits = max(_SMALLEST, (n - 1).bit_length())
        self.n = n
        self._low, self._high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        self._keys = [keyed(*words, round_) for round_ in range(2 * _ROUNDS)]

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Entries at `positions`, each in 0 ... n − 1."""
        entries = np.empty(len(positions), np.int64)
        for start in range(0, len(positions), _BLOCK):
            part = slice(start, start + _BLOCK)
            entries[part] = self._walk(positions[part].astype(np.uint64))
        return entries

    def _walk(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        x = self._network(x)
        outside = np.flatnonzero(x >= self.n)
        while outside.size:
            x[outside] = self._network(x[outside])
            outside = outside[x[outside] >= self.n]
        return x

    def _network(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mask = (np.uint64(1) << self._low) - np.uint64(1)
        low, high = x & mask, x >> self._low
        for even, odd in zip(self._keys[::2], self._keys[1::2]):
            low ^= _round(high, even) >> (np.uint64(64) - self._low)
            high ^= _round(low, odd) >> (np.uint64(64) - self._high)
        return (high << self._low) | low


def _round(x: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x + key) * np.uint64(0xBF58476D1CE4E5B9)
    return (x ^ (x >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)


def uniforms(indices: NDArray[np.int64], n: int, *words: int) -> NDArray[np.float64]:
    """Draw [len(indices), n] numbers in [0, 1), each a pure function of (words, index, column).

    >>> uniforms(np.arange(3), 2, 0).round(3).tolist()
    [[0.06, 0.541], [0.191, 0.422], [0.673, 0.169]]
    """
    each = mixed(indices.astype(np.uint64) ^ keyed(*words))
    columns = mixed(np.arange(n, dtype=np.uint64))
    return (mixed(each[:, None] ^ columns) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def rotations(indices: NDArray[np.int64], *words: int) -> NDArray[np.float64]:
    """Draw rotation matrices [len(indices), 3, 3], Haar-uniform, one per index.

    They come from uniform unit quaternions: K. Shoemake, "Uniform random rotations", Graphics Gems III (1992).

    >>> turn = rotations(np.arange(1), 0)[0]
    >>> bool(np.allclose(turn @ turn.T, np.eye(3)))
    True
    """
    u, angle, other = uniforms(indices, 3, *words).T
    angle, other = 2 * np.pi * angle, 2 * np.pi * other
    a, b = np.sqrt(1 - u), np.sqrt(u)
    vector = np.stack([a * np.sin(angle), a * np.cos(angle), b * np.sin(other)], axis=1)
    scalar = (b * np.cos(other))[:, None, None]
    across = (vector @ _CROSS).reshape(-1, 3, 3)
    outer = vector[:, :, None] * vector[:, None, :]
    turn: NDArray[np.float64] = (2 * scalar**2 - 1) * np.eye(3) + 2 * outer + 2 * scalar * across
    return turn


_CROSS = np.array([[0, 0, 0, 0, 0, -1, 0, 1, 0], [0, 0, 1, 0, 0, 0, -1, 0, 0], [0, -1, 0, 1, 0, 0, 0, 0, 0]], float)
"""[3, 9]: v @ _CROSS is the matrix of x -> v × x, row by row."""
