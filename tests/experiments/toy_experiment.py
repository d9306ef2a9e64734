"""An experiment as small as one can be: `python -m toy_experiment`, with the toy of tests/training."""

import dataclasses
import os
import signal
import sys

from experiments.config import TrainingConfig
from experiments.flags import FlagError, flag
from experiments.runner import run_experiment


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """Learn which symbol follows which."""

    batch_size: int = 2
    learning_rate: float = 0.1
    epochs: float | None = 6
    eval_every: int | None = 20
    pause: float = flag(0.0, "seconds that every step waits", minimum=0, free=True)
    bad_step: int | None = flag(None, "number of a step whose loss is not a number", free=True)
    show: bool = flag(False, "print the learned table", mode=True, stored=False)
    late_signal: str = flag("", "what comes after training", choices=("", "SIGINT", "SIGTERM"), stored=False)
    fail: str = flag("", "how to fail at once", choices=("", "data", "flag", "bug", "pipe"), stored=False)


def main(config, run):
    import jax.numpy as jnp
    import numpy as np
    import toy

    from experiments.train import train
    from rnn_jax.data import DataError, Vocabulary
    from rnn_jax.models import LanguageModel
    from rnn_jax.training.run import load
    from rnn_jax.training.state import parameter_count

    if config.fail == "data":
        raise DataError("corpus: expected a text, found nothing")
    if config.fail == "flag":
        raise FlagError("--fail: expected anything else, found flag")
    if config.fail == "bug":
        raise ValueError("a bug")
    if config.fail == "pipe":
        while True:
            print("a line " * 100)
    if config.show:
        print(load(run.path).params["table"].argmax(axis=1).tolist())
        return

    def loss(params, carry, batch, key):
        (total, count), carry = toy.loss(params, carry, batch, key)
        return (jnp.where((batch < 0).any(), jnp.nan, total), count), carry

    class Batches(toy.Batches):
        def block(self, step, count):
            block = super().block(step, count)
            bad = np.arange(step, step + count) + 1 == (config.bad_step or 0)
            return np.where(bad[:, None, None], -1, block)

    letters = Vocabulary(tuple("abcdefgh"), "char")
    data = {"name": "rule", "sha256": "", "sizes": {"train": 10}}
    run.begin(model=LanguageModel(vocabulary_size=toy.SYMBOLS, cell="elman"), vocabulary=letters, data=data)
    params = toy.new_state().params
    trained = train(
        config,
        run,
        params=params,
        loss=loss,
        batches=Batches(seconds=config.pause),
        evaluate=toy.evaluate,
        carry=jnp.zeros(()),
        carry_axis=None,
    )
    if config.late_signal:
        os.kill(os.getpid(), signal.Signals[config.late_signal])
    run.write_result(
        metrics=trained.metrics, steps=trained.steps, seconds=trained.seconds, parameters=parameter_count(params)
    )
    print(f"val_loss {trained.metrics['val_loss']:.4f}", file=sys.stdout)


if __name__ == "__main__":
    run_experiment("toy", Config, main)
