"""Optimisers by name, their numbers kept as arrays so that they can be scheduled and swept."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Number = float | jax.Array


def _sgd() -> optax.GradientTransformation:
    return optax.identity()


def _momentum(decay: Number = 0.9) -> optax.GradientTransformation:
    return optax.trace(decay)


def _adagrad(epsilon: Number = 1e-8) -> optax.GradientTransformation:
    return optax.scale_by_rss(0.0, epsilon)


def _rmsprop(decay: Number = 0.95, epsilon: Number = 1e-8) -> optax.GradientTransformation:
    return optax.scale_by_rms(decay, epsilon, eps_in_sqrt=False)


def _adam(beta1: Number = 0.9, beta2: Number = 0.999, epsilon: Number = 1e-8) -> optax.GradientTransformation:
    return optax.scale_by_adam(beta1, beta2, epsilon)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adam,
}


class ParameterAverage(NamedTuple):
    """The state of `averaging`.

    Attributes:
        count: int32 scalar, the number of steps done.
        average: as the parameters.
    """

    count: Any
    average: Any


def averaging(decay: Number) -> optax.GradientTransformation:
    """Keep a running mean of the parameters; as the last stage of a chain, it passes updates on as they are.

        a_t = d_t a_tm1 + (1 - d_t) p_t,   d_t = min(d, t / (9 + t))

    The smaller d_t of the first steps lets go of the initial parameters sooner.

    Args:
        decay: d, below 1; the mean is over some 1 / (1 - d) steps.

    Source: Polyak & Juditsky 1992.
    """

    def init(params: Any) -> ParameterAverage:
        return ParameterAverage(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ParameterAverage]:
        count = state.count + 1
        keep = jnp.minimum(decay, count / (9 + count))

        def mean(old: jax.Array, new: jax.Array) -> jax.Array:
            return (old + (1 - keep) * (new - old)).astype(old.dtype)

        average = jax.tree.map(mean, state.average, optax.apply_updates(params, updates))
        return updates, ParameterAverage(count, average)

    return optax.GradientTransformation(init, update)


def clipping(max_norm: Number) -> optax.GradientTransformation:
    """Scale gradients down to a global norm: `optax.clip_by_global_norm`, whose traced norm wants one dtype for all."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = optax.tree.norm(updates)

        def clip(leaf: jax.Array) -> jax.Array:
            return jnp.where(norm < max_norm, leaf, ((leaf / norm.astype(leaf.dtype)) * max_norm).astype(leaf.dtype))

        return jax.tree.map(clip, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_average(node: Any) -> bool:
    return isinstance(node, ParameterAverage)


def averages(opt_state: Any) -> list[Any]:
    """The running mean of the parameters in an optimiser's state, alone in its list; empty: it keeps none."""
    return [node.average for node in jax.tree.leaves(opt_state, is_leaf=_is_average) if _is_average(node)]


def with_average(opt_state: Any, average: Any) -> Any:
    """The optimiser's state with another running mean, where it keeps one."""

    def replace(node: Any) -> Any:
        return node._replace(average=average) if _is_average(node) else node

    return jax.tree.map(replace, opt_state, is_leaf=_is_average)


def make_optimizer(
    name: str,
    *,
    learning_rate: float | int,
    clip_value: float | int | None = None,
    clip_norm: float | int | None = None,
    weight_decay: float | int | None = None,
    ema_decay: float | int | None = None,
    **options: float | int,
) -> optax.GradientTransformation:
    """Build an optimiser: p ← p - η (f(clip(g)) + λ p).

    The rules f, with t the number of the step, from 1:

        sgd        g
        momentum   m ← ρ m + g;  m                                       ρ `decay` 0.9
        adagrad    a ← a + g²;  g / sqrt(a + ε)                          a = 0 at first; ε `epsilon` 1e-8
        rmsprop    v ← ρ v + (1 - ρ) g²;  g / (sqrt(v) + ε)              ρ `decay` 0.95, ε `epsilon` 1e-8
        adam       m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;
                   m / (1 - β₁ᵗ) / (sqrt(v / (1 - β₂ᵗ)) + ε)             `beta1` 0.9, `beta2` 0.999, `epsilon` 1e-8
        adamw      the same: the name under which adam with a `weight_decay` is known

    Every number given, and every default above, is an array in `opt_state.hyperparams` under its name: it may be
    replaced between steps and vmapped. What is None is left out of the program.

    Args:
        name: one of `OPTIMIZERS`.
        learning_rate: η at first; a training step replaces it by the schedule's.
        clip_value: clip every element of the gradient to ± this, as char-rnn does.
        clip_norm: then scale the gradient down to this global norm (Pascanu et al. 2013).
        weight_decay: λ, for arrays of two or more axes; biases and gains are spared. Decoupled for every rule
            (Loshchilov & Hutter 2019): it enters no running mean and is not clipped. For sgd it is the L2 penalty.
        ema_decay: keep a running mean of the parameters, see `averaging`.
        options: the numbers of the rule.

    Raises:
        ValueError: an unknown name or option.

    Sources: Duchi et al. 2011 with the ε of min-char-rnn; Tieleman & Hinton 2012 as in Torch's optim; Kingma & Ba 2015.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}; found {name!r}")
    rule = OPTIMIZERS[name]
    defaults = {option: parameter.default for option, parameter in inspect.signature(rule).parameters.items()}
    for option in options:
        if option not in defaults:
            known = ", ".join(["clip_value", "clip_norm", "weight_decay", "ema_decay", *defaults])
            raise ValueError(f"optimizer: {name} takes the options {known}; found {option!r}")

    def build(*, learning_rate, clip_value=None, clip_norm=None, weight_decay=None, ema_decay=None, **options):
        stages = [rule(**options), optax.scale_by_learning_rate(learning_rate)]
        if weight_decay is not None:
            stages.insert(1, optax.add_decayed_weights(weight_decay, _matrices))
        if clip_norm is not None:
            stages.insert(0, clipping(clip_norm))
        if clip_value is not None:
            stages.insert(0, optax.clip(clip_value))
        if ema_decay is not None:
            stages.append(averaging(ema_decay))
        return optax.chain(*stages)

    common = {"clip_value": clip_value, "clip_norm": clip_norm, "weight_decay": weight_decay, "ema_decay": ema_decay}
    given = {option: value for option, value in common.items() if value is not None}
    # float(): an integer would become an integer array, which holds no fractions.
    numbers = {option: float(value) for option, value in {**given, **defaults, **options}.items()}
    # inject_hyperparams reads the names of the numbers from the signature.
    parameters = [inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY) for option in ["learning_rate", *numbers]]
    build.__signature__ = inspect.Signature(parameters)
    inner = optax.inject_hyperparams(build)(learning_rate=float(learning_rate), **numbers)

    # Optax mixes dtypes (powers of integers, parameters of several precisions), which strict promotion forbids.
    def init(params):
        with jax.numpy_dtype_promotion("standard"):
            return inner.init(params)

    def update(updates, state, params=None, **extra):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
