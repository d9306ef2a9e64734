"""Sentences for images: a convolutional encoder, a recurrent decoder."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rnn_jax import decoding
from rnn_jax.layers import WordDropout
from rnn_jax.models.conditional_decoder import ConditionalDecoder
from rnn_jax.typing import Carry, Logits, Mask, Params


class ImageEncoder(nn.Module):
    """An image as one vector: convolutions, then a few heads that each look at a place of their own.

        f_p = convolutions(image)_p at each place p of a coarser grid;   g_p = [f_p; x_p; y_p]
        a_k = softmax over p of MLP_k(g_p);   z_k = Σ_p a_kp g_p;   c = relu([z_1; ...; z_K] W + b)

    The convolutions are 3 x 3 with ReLU; all but the last halve both sides. A head that finds an object hands on what
    the convolutions say of it, wherever it lies, so that words learned at one place are known at all others: a dense
    layer over all places must learn each attribute at each place, and combinations it has not seen escape it.
    Attention over places: Xu et al. 2015 (arXiv 1502.03044); here it is the same for all words.

    Attributes:
        channels: output channels of each convolution.
        heads: K.
        features: C, the width of c.
        dtype: compute dtype.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    heads: int = 4
    features: int = 128
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Array) -> Float[Array, "B C"]:
        """Map images [B, height, width, channels] of values 0..255 to vectors [B, C]."""
        # Of about unit variance all the way, or the decoder learns what words follow each other long before it looks.
        outputs = images.astype(self.dtype) / 64 - 1
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.he_normal())
        conv = functools.partial(nn.Conv, dtype=self.dtype, kernel_init=nn.initializers.he_normal())
        for number, width in enumerate(self.channels, 1):
            strides = 2 if number < len(self.channels) else 1
            outputs = nn.relu(conv(width, (3, 3), strides=strides)(outputs))
        batch, height, width, _ = outputs.shape
        y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
        place = jnp.broadcast_to(jnp.stack([x, y], axis=-1), (batch, height, width, 2)).astype(self.dtype)
        grid = jnp.concatenate([outputs, place], axis=-1).reshape(batch, height * width, outputs.shape[-1] + 2)
        hidden = nn.relu(dense(64)(grid))
        attention = nn.softmax(nn.Dense(self.heads, dtype=self.dtype)(hidden).astype(jnp.float32), axis=1)
        seen = jnp.einsum("bpk,bpf->bkf", attention.astype(self.dtype), grid)
        return nn.relu(dense(self.features)(seen.reshape(batch, self.heads * grid.shape[-1])))


class Captioner(nn.Module):
    """P(caption | image): c = encoder(image), then a `ConditionalDecoder` under c.

    One symbol stands before the first word of a caption and behind its last.

    Attributes:
        vocabulary_size: V.
        image_shape: (height, width, channels).
        end: the number of the symbol that begins and ends a caption.
        unknown: the number of the symbol for words not known.
        max_length: the most words that `describe` writes.
        context, cell, hidden_size, num_layers, embedding_size, dropout, dtype: see `ConditionalDecoder`.
        word_dropout: share of the words read that training withholds. What the words before say of the next one is
            true of the captions seen; a decoder that leans on it will not say what it has never read.
        channels, heads, features: see `ImageEncoder`.
    """

    vocabulary_size: int
    image_shape: tuple[int, int, int]
    end: int
    unknown: int
    max_length: int
    context: str = "both"
    cell: str = "gru"
    hidden_size: int = 128
    num_layers: int = 1
    embedding_size: int = 32
    channels: tuple[int, ...] = (16, 32, 64)
    heads: int = 4
    features: int = 128
    dropout: float = 0.0
    word_dropout: float = 0.0
    dtype: str = "float32"

    def setup(self) -> None:
        """Make the parts."""
        self.encoder = ImageEncoder(self.channels, self.heads, self.features, self.dtype)
        self.decoder = ConditionalDecoder(
            self.vocabulary_size,
            cell=self.cell,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            embedding_size=self.embedding_size,
            context=self.context,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        self.drop = nn.Dropout(self.dropout)
        self.drop_words = WordDropout(self.word_dropout, self.unknown)

    def encode(self, images: Array, *, deterministic: bool = True) -> Float[Array, "B C"]:
        """The context vectors of images [B, height, width, channels].

        Raises:
            ValueError: images of another shape than `image_shape`.
        """
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise ValueError(f"images: expected [B, {', '.join(map(str, self.image_shape))}], found {images.shape}")
        return self.drop(self.encoder(images), deterministic=deterministic)

    def __call__(
        self, images: Array, tokens: Int[Array, "T B"], *, mask: Mask | None = None, deterministic: bool = True
    ) -> Logits:
        """Logits [T, B, V] of the word that follows each of `tokens`, whose first is `end`.

        Args:
            images: [B, height, width, channels], values 0..255.
            tokens: [T, B].
            mask: False = padding.
            deterministic: True switches dropout off.
        """
        context = self.encode(images, deterministic=deterministic)
        tokens = self.drop_words(tokens, deterministic)
        _, logits = self.decoder(tokens, context, mask=mask, deterministic=deterministic)
        return logits

    def begin(self, context: Float[Array, "B C"]) -> tuple[Carry, ...]:
        """The decoder's carry before `end` is read."""
        return self.decoder.begin(context)

    def decode(
        self, context: Float[Array, "B C"], carry: tuple[Carry, ...], tokens: Int[Array, "B"]
    ) -> tuple[tuple[Carry, ...], Float[Array, "B V"]]:
        """One step of `__call__`: read one word of each caption, give the logits of the next."""
        carry, logits = self.decoder(tokens[None], context, carry)
        return carry, logits[0]


@functools.partial(jax.jit, static_argnames="model")
def describe(model: Captioner, variables: Params, images: Array) -> Int[Array, "T B"]:
    """Write the likeliest caption, word by word, each word read back (greedy decoding).

    Returns:
        tokens [max_length, B], without the `end` that stands before the first; `end` fills what follows the last word.
    """
    context = model.apply(variables, images, method="encode")

    def step(carry: Carry, tokens: Array) -> tuple[Carry, Array]:
        return model.apply(variables, context, carry, tokens, method="decode")  # pyright: ignore[reportReturnType]

    carry = model.apply(variables, context, method="begin")
    _, tokens = decoding.greedy(step, carry, jnp.full(len(images), model.end, jnp.int32), model.max_length)
    ended = jnp.cumsum(tokens == model.end, axis=0) > 0
    return jnp.where(ended, model.end, tokens)
