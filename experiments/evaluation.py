"""What evaluations have in common: functions compiled at their first call, and sums over batches."""

import functools
from collections.abc import Callable, Iterable
from typing import Any


def compiled(*static: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`jax.jit` for a function of an experiment's module, which is imported where JAX is not yet (for --help).

    One program serves all runs of equal models in a process. Its arguments are given by their places, not by name.

    Args:
        static: the places of the arguments that are not arrays but can be hashed, such as a model.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.cache
        def program() -> Callable[..., Any]:
            import jax

            return jax.jit(function, static_argnums=static)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return program()(*arguments)

        return call

    return decorate


def totals(found: Iterable[tuple[Any, ...]]) -> tuple[float, ...]:
    """Σ over batches of each of the numbers that a compiled function gave for a batch, such as a loss and its count.

    What is still on its way is fetched all at once: a wait for each batch would let other threads in between each time.
    """
    import jax

    return tuple(sum(map(float, column)) for column in zip(*jax.device_get(list(found)), strict=True))
