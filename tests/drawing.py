"""Parameters of a module without the seconds that its own initialisers take to compile."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np


def draw_variables(module, *arguments, scale=0.5, **options):
    """Variables of the shapes that `module.init` would give, normal numbers told from their names."""

    def fill(path, leaf):
        random = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        return jnp.asarray(random.normal(0, scale, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(lambda key: module.init(key, *arguments, **options), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(fill, shapes)
