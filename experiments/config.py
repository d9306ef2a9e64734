"""The part of a configuration that every training experiment has."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How an experiment trains. A subclass states its own fields, and its own defaults for these.

    Attributes:
        traced: the names of rates of dropout that its loss takes as keyword arguments, see `experiments.train.train`.
        unused: the names of fields that mean nothing to it, and are no flags.
    """

    traced: ClassVar[tuple[str, ...]] = ()
    unused: ClassVar[frozenset[str]] = frozenset()

    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    beta2: float = 0.99
    schedule: str = "cosine"
    warmup: int = 0
    decay: float | None = None
    decay_after: int | None = None
    clip_norm: float | None = 1.0
    clip_value: float | None = None
    weight_decay: float | None = None
    ema_decay: float | None = None
    steps: int | None = None
    epochs: float | None = None
    max_seconds: float | None = None
    patience: int | None = None
    seed: int = 0
    workdir: str | None = None
    init_from: str | None = None
    devices: int | None = None
    shard_params: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    connect_timeout: int = 60
    eval_every: int | None = None
    checkpoint_every: int | None = None
    sample_every: int | None = None
    sweep: str | None = None
    sweep_samples: int | None = None
    sweep_method: str = "auto"
    halving: bool = False

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What None stands for, where that depends on other fields: by the name of the field."""
        return {}

    def settled(self) -> Self:
        """The configuration with its `defaults` in the place of None."""
        silent = {name: value for name, value in self.defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **silent)
