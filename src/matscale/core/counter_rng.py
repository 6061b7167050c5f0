"""Random numbers as pure functions of integer keys (counter-based): shuffled orders and random rotations.

There is no random state. Entry 7,000,000 of an order, or the rotation of structure 12 in epoch 3, is computed without
the entries before it, and without an array of all entries.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4
_SMALLEST = 6
"""Least number of bits of the integers that the Feistel network of `Permutation` permutes.

A smaller network cannot give every permutation of a few integers. A larger network can; its results outside the range
are permuted again.
"""
_BLOCK = 1 << 15
"""Number of positions that are permuted at a time, so that arrays fit into the cache of the processor."""


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble each 64-bit word, reversibly, by the finaliser of SplitMix64 (doi:10.1145/2660193.2660195)."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=256)
def keyed(*words: int) -> NDArray[np.uint64]:
    """Hash integers to one 64-bit word, as an array of shape [1]. The order of the integers matters."""
    key = np.zeros(1, np.uint64)
    for word in words:
        key = mixed(key ^ mixed(np.array([word % 2**64], np.uint64)))
    key.flags.writeable = False  # kept, since every batch of an epoch asks for the same
    return key


class Permutation:
    """Random permutation of 0 ... n − 1. Its entries are computed when needed, and not stored.

    The integers `words` determine the permutation. A Feistel network permutes the integers below the next power of two;
    results outside the range are permuted again until they are inside (cycle walking: Black and Rogaway,
    doi:10.1007/3-540-45760-7_9). This takes about 0.1 µs per entry.
    """

    def __init__(self, n: int, *words: int) -> None:
        bits = max(_SMALLEST, (n - 1).bit_length())
        self.n = n
        self._low, self._high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        self._keys = [keyed(*words, round_) for round_ in range(2 * _ROUNDS)]

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Entries of the permutation at `positions`, which are from 0 to n − 1."""
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
    """Draw random numbers in [0, 1): n for each of `indices`, [len(indices), n].

    Each is a pure function of `words`, the index and the column.

    >>> uniforms(np.arange(3), 2, 0).round(3).tolist()
    [[0.06, 0.541], [0.191, 0.422], [0.673, 0.169]]
    """
    each = mixed(indices.astype(np.uint64) ^ keyed(*words))
    columns = mixed(np.arange(n, dtype=np.uint64))
    return (mixed(each[:, None] ^ columns) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def rotations(indices: NDArray[np.int64], *words: int) -> NDArray[np.float64]:
    """Draw a rotation matrix for each of `indices`: [len(indices), 3, 3], uniform over all rotations (Haar).

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
"""Matrix [3, 9]: for a vector v, v @ _CROSS has the elements, row by row, of the matrix of the product v × x."""
