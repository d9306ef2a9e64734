"""Images of fixed size written as sequences of pixels, given their class."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnn_jax import decoding
from rnn_jax.models.conditional_decoder import ConditionalDecoder
from rnn_jax.typing import Carry, Key, Logits, Params


class Drawer(nn.Module):
    """P(image | class), pixel by pixel, row after row, each pixel one of a few levels.

        P(v_1..v_T | k) = Π_t softmax(decoder(v_0..v_{t-1}, c = E[k], p_t))[v_t],   v_0 = 0,   T = rows · columns

    p_t are the row and the column of pixel t, one-hot: a recurrent state counts badly.

    Attributes:
        classes: the number of classes.
        levels: V, the number of levels of a pixel.
        image_shape: (rows, columns).
        context, cell, hidden_size, num_layers, embedding_size, dropout, dtype: see `ConditionalDecoder`.
    """

    classes: int
    levels: int
    image_shape: tuple[int, int]
    context: str = "both"
    cell: str = "gru"
    hidden_size: int = 128
    num_layers: int = 1
    embedding_size: int = 16
    dropout: float = 0.0
    dtype: str = "float32"

    def setup(self) -> None:
        """Make the parts."""
        self.class_embedding = nn.Embed(
            self.classes, self.hidden_size, dtype=self.dtype, embedding_init=nn.initializers.normal(1.0)
        )
        self.decoder = ConditionalDecoder(
            self.levels,
            cell=self.cell,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            embedding_size=self.embedding_size,
            context=self.context,
            dropout=self.dropout,
            dtype=self.dtype,
        )

    @property
    def length(self) -> int:
        """T, the number of pixels."""
        rows, columns = self.image_shape
        return rows * columns

    def positions(self, first: Int[Array, ""] | int, count: int, batch_size: int) -> Float[Array, "T B E"]:
        """p_t of the pixels first..first + count - 1: [count, B, rows + columns]."""
        rows, columns = self.image_shape
        row, column = jnp.divmod(jnp.arange(count) + first, columns)
        place = jnp.concatenate([jax.nn.one_hot(row, rows), jax.nn.one_hot(column, columns)], axis=-1)
        return jnp.broadcast_to(place[:, None], (count, batch_size, rows + columns))

    def __call__(self, labels: Int[Array, "B"], pixels: Int[Array, "T B"], *, deterministic: bool = True) -> Logits:
        """Logits [T, B, V] of every pixel, given the class and the pixels before it.

        Args:
            labels: [B], the class of each image.
            pixels: [T, B], the levels of each image.
            deterministic: True switches dropout off.
        """
        before = jnp.concatenate([jnp.zeros_like(pixels[:1]), pixels[:-1]])
        extras = self.positions(0, *pixels.shape)
        _, logits = self.decoder(before, self.class_embedding(labels), extras=extras, deterministic=deterministic)
        return logits

    def begin(self, labels: Int[Array, "B"]) -> tuple[Array, tuple[Carry, ...]]:
        """The carry before the first pixel: (how many pixels there are, the decoder's)."""
        carry = self.decoder.begin(self.class_embedding(labels), self.positions(0, 0, len(labels)))
        return jnp.zeros((), jnp.int32), carry

    def decode(
        self, labels: Int[Array, "B"], carry: tuple[Array, tuple[Carry, ...]], pixels: Int[Array, "B"]
    ) -> tuple[tuple[Array, tuple[Carry, ...]], Float[Array, "B V"]]:
        """One step of `__call__`: read one pixel of each image, give the logits of the next."""
        number, inner = carry
        extras = self.positions(number, 1, len(labels))
        inner, logits = self.decoder(pixels[None], self.class_embedding(labels), inner, extras=extras)
        return (number + 1, inner), logits[0]


def draw(
    model: Drawer,
    variables: Params,
    labels: Int[Array | np.ndarray, "B"],
    key: Key,
    temperature: float | Float[Array, ""] = 1.0,
) -> Int[Array, "B rows columns"]:
    """Sample one image of each of these classes, each pixel from what the model thinks of it, then read back.

    Raises:
        ValueError: a temperature not above 0 (where its value is known).
    """
    decoding.check_sampling(temperature, None, None)
    return _draw(model, variables, labels, key, temperature)


@functools.partial(jax.jit, static_argnames="model")
def _draw(model: Drawer, variables: Params, labels: Array, key: Key, temperature: float | Array) -> Array:
    def step(carry: Carry, pixels: Array) -> tuple[Carry, Array]:
        return model.apply(variables, labels, carry, pixels, method="decode")  # pyright: ignore[reportReturnType]

    carry = model.apply(variables, labels, method="begin")
    first = jnp.zeros(len(labels), jnp.int32)
    _, pixels = decoding.sample(step, carry, first, model.length, key, temperature=temperature)
    return pixels.T.reshape(len(labels), *model.image_shape)
