"""Parts that the plain and the periodic transformer share: configuration, layer and size ladder.

    x = x + softmax(Q Kᵀ / √D_h) V                           attention among the atoms of the structure
    x = x + W₂ GELU(W₁ x)                                    a LayerNorm before and dropout after each part

Linear layers run on the flat list of atoms; only attention uses the padded layout.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from matscale.plugin import (
    ArchitectureConfig,
    AtomicBatch,
    DatasetInfo,
    DirectHeads,
    Outputs,
    Padding,
    Positive,
    closest,
    graded,
    hand_attention,
    head_widths,
    is_attention_wanted,
)


class EncoderConfig(ArchitectureConfig):
    """Configuration of an encoder."""

    width: Positive = 128
    """Channels D of an atom; at least 4 for concatenated inputs."""
    n_heads: Positive = 2
    """Number of attention heads; must divide the width."""
    n_layers: Positive = 4
    """Number of encoder layers."""
    feedforward: Positive = 512
    """Hidden channels between the two linear layers of an encoder layer; four times the width is usual."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of channels and attention weights dropped in training."""
    head_width: Positive = 128
    """Channels of the last hidden layer of each output head."""
    head_layers: Literal[2, 3] = 2
    """Number of linear layers of each output head: 2 for D → head_width → out; 3 have a D → D layer in front."""

    def multiply_adds(self, n_square: int) -> int:
        """Multiply-adds of layers and heads for an atom, without attention; a layer has `n_square` matrices D × D."""
        layer = n_square * self.width**2 + 2 * self.width * self.feedforward
        heads = DirectHeads.multiply_adds(head_widths(self.width, self.head_width, self.head_layers))
        return self.n_layers * layer + heads

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.n_heads:
            raise ValueError(f"width = {self.width} must be a multiple of n_heads = {self.n_heads}")
        return self


class EncoderLayer(nn.Module):
    """Encoder layer: attention, then a feed-forward network; each acts on LayerNorm(x) and is added to x."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, self.n_heads, self.dropout = config.width, config.n_heads, config.dropout
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, config.feedforward),
            nn.GELU(approximate="tanh"),
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward, width),
        )

    def forward(self, x: Tensor, padding: Padding) -> Tensor:
        """Update features `x` [n_atoms, D]."""
        x = x + self._drop(self.out(self._attend(self.attention_norm(x), padding)))
        return x + self._drop(self.feedforward(self.feedforward_norm(x)))

    def _attend(self, x: Tensor, padding: Padding) -> Tensor:
        q, k, v = self._queries_keys_values(x, padding)
        mask = padding.mask[:, None, None, :]  # no atom attends to padding
        if is_attention_wanted():  # the kernel below does not give its weights
            hand_padded(attention_weights(q, k, mask), padding)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return padding.flat(mixed.transpose(1, 2).flatten(2))

    def _queries_keys_values(self, x: Tensor, padding: Padding) -> Tensor:
        """Queries, keys and values [3, n_structures, n_heads, max_atoms, D_h], from features `x` [n_atoms, D]."""
        heads = torch.unflatten(padding.dense(self.queries_keys_values(x)), -1, (3, self.n_heads, -1))
        return heads.permute(2, 0, 3, 1, 4)

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class EncoderModel(nn.Module, ABC):
    """Base class of both transformers, with layers and heads; subclasses add the inputs."""

    def add_layers(self, config: EncoderConfig, layer: Callable[[Any], EncoderLayer]) -> None:
        """Add layers, norm and heads. Call this after making the inputs, whose initial weights are drawn first."""
        self.layers = nn.ModuleList(layer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)
        self.heads = DirectHeads(head_widths(config.width, config.head_width, config.head_layers))

    def through_layers(self, x: Tensor, *inputs: object) -> Tensor:
        """Pass `x` [n_atoms, D] through all layers and the norm; each layer gets the same further `inputs`."""
        for layer in self.layers:
            x = layer(x, *inputs)
        normalised: Tensor = self.norm(x)
        return normalised

    @abstractmethod
    def embed(self, data: AtomicBatch) -> Tensor:
        """Features of atoms, [n_atoms, D]: the input of the heads."""

    def forward(self, data: AtomicBatch) -> Outputs:
        outputs: Outputs = self.heads(self.embed(data), data)
        return outputs

    def recomputable(self) -> list[nn.Module]:
        """Modules that activation checkpointing may run again (`matscale.core.model.activation_checkpointing`)."""
        return list(self.layers)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute softmax(q kᵀ / √D_h + bias) [n_structures, n_heads, max_atoms, max_atoms]."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores if bias is None else scores + bias).masked_fill(~mask, -torch.inf).softmax(-1)


def hand_padded(weights: Tensor, padding: Padding) -> None:
    """Hand out attention weights [n_structures, n_heads, max_atoms, max_atoms] of all pairs of atoms, no padding."""
    both = padding.mask[:, :, None] & padding.mask[:, None, :]
    structure, query, key = both.nonzero(as_tuple=True)
    counts = padding.mask.sum(1)
    first = (torch.cumsum(counts, 0) - counts)[structure]
    hand_attention(first + query, first + key, weights.transpose(0, 1)[:, both])


Encoder = TypeVar("Encoder", bound=EncoderConfig)
DIAL = "width (feed-forward 4 times as wide), 4 layers"


def encoder_ladder(n_params: int, config: type[Encoder], build: Callable[[Encoder, DatasetInfo], nn.Module]) -> Encoder:
    """Choose a model with about `n_params` parameters: four layers, and a head for every 64 channels.

    In small models the feed-forward width is adjusted.
    """

    def shape(width: int) -> Encoder:
        # `graded` widths of 128 and more are multiples of their power of two over 64, hence of the number of heads.
        n_heads = 1 << max(0, width.bit_length() - 7)
        return config(width=width, n_heads=n_heads, n_layers=4, feedforward=4 * width, head_width=min(width, 128))

    found: Encoder = closest(
        n_params,
        lambda dial: shape(graded(dial)),
        build,
        fine=lambda coarse, feedforward: coarse.model_copy(update={"feedforward": feedforward}),
    )
    return found


SHAPES: dict[str, dict[str, Any]] = {
    f"adit-{k:02}": {"width": width, "n_heads": heads, "n_layers": layers, "feedforward": 4 * width}
    for k, (width, heads, layers) in enumerate(
        [
            (16, 1, 2),
            (64, 1, 2),
            (64, 1, 3),
            (96, 1, 3),
            (128, 2, 4),
            (192, 3, 5),
            (192, 4, 6),
            (256, 4, 6),
            (320, 5, 7),
        ],
        1,
    )
}
"""Shapes of the nine encoders in the code of arXiv:2509.21811."""
