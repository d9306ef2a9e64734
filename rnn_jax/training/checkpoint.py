"""Checkpoints through Orbax: the last state and the best one, written in the background and never half."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rnn_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a resumed run must know besides its `TrainState`.

    Attributes:
        step: the number of steps done.
        seconds: the training time used, compilation included.
        evaluated_step: the step of the last evaluation, or None.
        evaluations_since_best: how many evaluations in a row were no better.
        best_step: the step of the best evaluation, or None.
        best_values: its metrics.
        best_save: the number of the checkpoint that holds it; `Checkpoints.save` fills it in.
    """

    step: int = 0
    seconds: float = 0.0
    evaluated_step: int | None = None
    evaluations_since_best: int = 0
    best_step: int | None = None
    best_values: dict[str, float] = dataclasses.field(default_factory=dict)
    best_save: int | None = None

    def evaluated(self, values: dict[str, float], best: bool) -> "Progress":
        """After an evaluation at `step`."""
        waited = 0 if best else self.evaluations_since_best + 1
        after = dataclasses.replace(self, evaluated_step=self.step, evaluations_since_best=waited)
        return dataclasses.replace(after, best_step=self.step, best_values=values) if best else after


class CheckpointError(ValueError):
    """What was saved cannot be used, or nothing can be saved: one line."""


class CheckpointMismatch(CheckpointError):
    """It has other arrays than the state it should become."""


class CheckpointDamaged(CheckpointError):
    """Its files have been changed, or are not all there."""


class CheckpointUnsaved(CheckpointError):
    """It could not be written, as on a disk that is full; those before it are whole."""


class Checkpoints:
    """The checkpoints of one run: folders named 1, 2, 3, ... in the order of saving; only the last and best are kept.

    A checkpoint is written under another name and renamed when it is complete, and older ones are deleted after that:
    whenever the process dies, the last complete one is there. Numbers are of saves, not of steps: the same step may be
    saved again, after an evaluation, without deleting what is there first.
    """

    def __init__(self, folder: Path | str, *, create: bool = True):
        """Open a folder.

        Args:
            folder: where the checkpoints are.
            create: for training: make the folder, and clear away what an earlier process left unfinished. False: only
                read, which leaves alone what another process may be writing.

        Raises:
            FileNotFoundError: no such folder, and `create` is False.
            CheckpointDamaged: what is there cannot be read.
        """
        folder = Path(folder).absolute()
        if not create and not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no checkpoint")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_KeepLastAndBest(self), create=create, cleanup_tmp_directories=create
        )
        handlers = {"params": ocp.PyTreeCheckpointHandler(), "rest": ocp.PyTreeCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            folder, options=options, item_handlers={**handlers, "progress": ocp.JsonCheckpointHandler()}
        )
        last = self._manager.latest_step()
        self.progress: Progress | None = None if last is None else self._read_progress(last)

    def save(self, state: TrainState, progress: Progress, *, best: bool = False) -> Progress:
        """Begin to save; returns when the state is copied, so that its buffers may be donated.

        Args:
            state: the state at `progress.step`.
            progress: stored beside it.
            best: whether this is the best state so far.

        Returns:
            `progress` with its `best_save`.

        Raises:
            CheckpointUnsaved: it, or the one before, cannot be written.
        """
        number = (self._manager.latest_step() or 0) + 1
        before = None if self.progress is None else self.progress.best_save
        self.progress = dataclasses.replace(progress, best_save=number if best else before)
        params, rest = _split(state)
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(params),
            rest=ocp.args.PyTreeSave(rest),
            progress=ocp.args.JsonSave(dataclasses.asdict(self.progress)),
        )
        with self._writing():
            self._manager.save(number, args=items)
        return self.progress

    def restore(self, like: TrainState, *, best: bool = False) -> TrainState:
        """The last state, or the best one (without any marked best: the last).

        Args:
            like: a state of the same structure, shapes and shardings; its values do not matter. What of it is free to
                move between devices is so in what is restored: programs compiled for the one serve the other.
            best: which of the two.

        Raises:
            FileNotFoundError: nothing has been saved.
            CheckpointMismatch: the arrays saved have other names or shapes than those of `like`.
            CheckpointDamaged: they cannot be read.
        """
        number = self._number(best)
        params, rest = _split(like)
        args = ocp.args.Composite(params=_restore_as(params), rest=_restore_as(rest))
        with self._reading(number):
            metadata = self._manager.item_metadata(number)
            saved = {name: _named_shapes(metadata[name].tree) for name in ("params", "rest")}
            if saved != {"params": _named_shapes(params), "rest": _named_shapes(rest)}:
                raise CheckpointMismatch(
                    f"expected the arrays of this model and optimizer, found others in {self._manager.directory}; "
                    "another version may have begun the run"
                )
            restored = self._manager.restore(number, args=args)
        params, rest = jax.tree.map(_as_free, (restored["params"], restored["rest"]), (params, rest))
        return _join(params, rest, like)

    def restore_params(self, *, best: bool = True) -> Any:
        """The parameters to be used alone, as nested dicts of NumPy arrays, with no knowledge of the model.

        Raises:
            FileNotFoundError: nothing has been saved.
            CheckpointDamaged: what has been cannot be read.
        """
        number = self._number(best)
        with self._reading(number):
            tree = self._manager.item_metadata(number)["params"].tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            args = ocp.args.Composite(params=ocp.args.PyTreeRestore(restore_args=as_numpy))
            return self._manager.restore(number, args=args)["params"]

    def wait(self) -> None:
        """Return when all that was saved is on the disk.

        Raises:
            CheckpointUnsaved: it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then free the threads. Raises as `wait` does."""
        with self._writing():
            self._manager.close()

    def _number(self, best: bool) -> int:
        self.wait()
        last = self._manager.latest_step()
        if last is None or self.progress is None:
            raise FileNotFoundError(f"{self._manager.directory}: no checkpoint")
        return self.progress.best_save if best and self.progress.best_save is not None else last

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            full = "No space left on device"
            reason = full if full in str(error) else str(error).partition("\n")[0]
            raise CheckpointUnsaved(
                f"cannot write {self._manager.directory}: {reason}; what was saved before is whole"
            ) from error

    def _read_progress(self, number: int) -> Progress:
        with self._reading(number):
            stored = self._manager.restore(number, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
            return Progress(**stored["progress"])

    @contextlib.contextmanager
    def _reading(self, number: int) -> Iterator[None]:
        """What Orbax says of files that it cannot make sense of depends on the file."""
        try:
            yield
        except CheckpointError:
            raise
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise CheckpointDamaged(f"cannot read {self._manager.directory}/{number}: damaged") from error


class _KeepLastAndBest:
    """An Orbax preservation policy."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        progress = self._checkpoints.progress
        keep = {checkpoints[-1].step if checkpoints else None, progress and progress.best_save}
        return [checkpoint.step in keep for checkpoint in checkpoints]


def _split(state: TrainState) -> tuple[Any, dict[str, Any]]:
    # The parameters to be used stand by themselves; those in training, if others, are kept in the optimiser's state.
    state = state.swapped()
    # A typed PRNG key is stored as the integers it wraps.
    rest = {
        "step": state.step,
        "opt_state": state.opt_state,
        "carry": state.carry,
        "key": jax.random.key_data(state.key),
    }
    return state.params, rest


def _join(params: Any, rest: dict[str, Any], like: TrainState) -> TrainState:
    key = jax.random.wrap_key_data(rest["key"], impl=jax.random.key_impl(like.key))
    # A run stopped by a loss that was not finite may go on, with other flags, from the state before it.
    joined = like.replace(**rest | {"params": params, "key": key, "finite": jnp.ones_like(like.finite)})
    return joined.swapped()


def _named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays by their paths, in which keys of a dict, attributes and places are all written alike."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _restore_as(tree: Any) -> Any:
    return ocp.args.PyTreeRestore(tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))


def _as_free(restored: Any, like: Any) -> Any:
    """Orbax binds every array to its devices, and JAX compiles a program anew for arrays that are bound."""
    return restored if getattr(like, "committed", True) else jnp.asarray(np.asarray(restored))
