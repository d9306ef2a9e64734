"""Several runs of one experiment at once, their training steps run as one program.

Each run is the experiment as it is, on a thread of its own: its data, its evaluations, its folder. Only where a run
would take a training step it waits for the others, and the steps of all are taken together. At any other time one
thread alone is at work, so the runs need not know of each other; but what a run declares to touch nothing that others
use, such as an evaluation, goes on beside them (`apart`).
"""

import contextvars
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.sweep import bytes_needed, choose_method, cores, free_memory
from rnn_jax.training.display import Display
from rnn_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What `experiments.train.train` takes from outside a run: the defaults are those of a run alone.

    Attributes:
        share_steps: turns the training step of this run into one taken together with others.
        apart: see `apart`.
        make_display: unit -> what shows the training.
        on_evaluation: told the name of the monitored metric and the values of every evaluation but the last; an
            exception from it ends the run.
        on_trained: told the name of the monitored metric and the values of the best evaluation.
        runs: how many take their steps together.
        sharing_clock: how many have done so since they began, by one clock: as many times `max_seconds` are theirs
            together.
        block_size: see `rnn_jax.training.dispatch.Dispatcher`.
        devices: over how many to spread a batch, whatever the configuration says; None: as that says.
        device: where the run is to be; None: where JAX puts it.
        traced: names of rates that the program is not to know, because other runs have others.
    """

    share_steps: Callable[[TrainStep], TrainStep] = lambda step: step
    apart: Callable[..., Any] = lambda kind, function, *arguments: function(*arguments)
    make_display: Callable[[str], Any] = lambda unit: Display(unit=unit)
    on_evaluation: Callable[[str, Mapping[str, float]], None] | None = None
    on_trained: Callable[[str, Mapping[str, float]], None] | None = None
    runs: int = 1
    sharing_clock: int = 1
    block_size: Callable[[int | None], int | None] = lambda size: size
    devices: int | None = None
    device: Any = None
    traced: frozenset[str] = frozenset()


ALONE = Surroundings()
SURROUNDINGS: contextvars.ContextVar[Surroundings] = contextvars.ContextVar("surroundings", default=ALONE)


def apart(kind: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, in a sweep at the same time as other runs are at work.

    Args:
        kind: what it does. The first of a kind is waited for by all others of it: the programs it compiles serve them.
        function: neither reads nor changes anything that belongs to the whole process, and does nothing apart itself.
        arguments: given to it.
    """
    return SURROUNDINGS.get().apart(kind, function, *arguments)


# Steps by which the faster way is found: each way once to compile, then twice.
_TRIALS = 6


class Joint:
    """The meeting place of the runs.

    Attributes:
        method: "auto", "vmap", "loop" or a number of runs at once. "loop" is each run by itself, by one program.
        programs: the programs compiled so far, by their shapes and the number of runs.
    """

    def __init__(self, count: int, method: str | int = "auto", memory: int | None = None):
        """Prepare for `count` runs; `memory` is what a program may use in bytes, None: what is free."""
        self.method = method
        self.programs: dict[Any, Callable[..., Any]] = {}
        self._chunks: dict[Any, int] = {}
        self._trials: dict[Any, list[float]] = {}
        self._memory = memory
        self._active = count
        self._waiting: list[_Request] = []
        self._turn = threading.Condition(threading.Lock())
        # A loop of small products leaves cores idle. What one thread sends off, a CPU does in that order; what several
        # send off, it does at the same time.
        lanes = min(count, cores()) if jax.default_backend() == "cpu" else 1
        self._lanes = [Lane() for _ in range(lanes)]
        self._widths: dict[Any, int] = {}
        # How many times steps were taken; before which time it was decided how many steps a dispatch takes.
        self._rounds = 0
        self._block_size: int | None = None
        self._decided = -1
        # What is done apart: how often at this moment, the kinds done before, those being done for the first time.
        self._apart = 0
        self._known: set[str] = set()
        self._new: set[str] = set()

    def close(self) -> None:
        """No more steps will come."""
        for lane in self._lanes:
            lane.close()

    @contextmanager
    def member(self) -> Iterator[None]:
        """One run: it works when no other does. Left for good at the end of the block."""
        with self._turn:
            try:
                yield
            finally:
                self._active -= 1
                self._go_on()

    def share_steps(self, train_step: TrainStep) -> TrainStep:
        """`train_step` for one run, taken together with those of the others."""

        def shared(state: Any, block: Any, learning_rates: Any) -> Any:
            # What the host has made stays there: a conversion of its own would wait for the steps under way.
            value = (state, block, learning_rates)
            whole = jax.tree.structure(value), _shapes(state)
            given = _shapes((block, learning_rates))
            # What is given has an axis of steps in front.
            each = tuple((shape[1:], *rest) for shape, *rest in given)
            return self._meet(_Request((*whole, given), train_step, value, (*whole, each)))

        return shared

    def block_size(self, size: int | None) -> int | None:
        """How many steps every run takes in one dispatch, or None: one, for now.

        All change at once, in the round after the first in which a run that has measured its speed asks; of what is
        suggested in that round the largest counts: a run may take its wait for the others for compilation.

        Args:
            size: what this run suggests; None: it has not measured yet.
        """
        if size is not None and self._rounds > 0 and not self._trials:
            if self._block_size is None:
                self._block_size, self._decided = size, self._rounds
            elif self._decided == self._rounds:
                self._block_size = max(size, self._block_size)
        return self._block_size if self._rounds > self._decided else None

    def apart(self, kind: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `apart`; as many at once as there are lanes, or runs whose steps fit in memory, whichever are fewer."""
        while kind in self._new or self._apart >= min([len(self._lanes), *self._widths.values()]):
            self._turn.wait()
        if kind not in self._known:
            self._new.add(kind)
        self._apart += 1
        self._turn.release()
        try:
            return function(*arguments)
        finally:
            self._turn.acquire()
            self._apart -= 1
            self._known.add(kind)
            self._new.discard(kind)
            self._turn.notify_all()

    def agree(self, value: Any, decide: Callable[[list[Any]], list[Any]]) -> Any:
        """Hand in a value, wait for those of all others at work, and receive this run's part of the decision."""
        return self._meet(_Request("agree", decide, value))

    def _meet(self, request: "_Request") -> Any:
        self._waiting.append(request)
        self._go_on()
        while not request.done:
            self._turn.wait()
        if request.error is not None:
            raise request.error
        return request.result

    def _go_on(self) -> None:
        """Serve what the runs wait for, once all of them wait: steps first."""
        if not self._waiting or len(self._waiting) < self._active:
            return
        steps = [request for request in self._waiting if request.kind != "agree"]
        served = steps or self._waiting
        self._rounds += bool(steps)
        groups: dict[Any, list[_Request]] = {}
        for request in served:
            groups.setdefault(request.kind, []).append(request)
        for kind, group in groups.items():
            try:
                results = group[0].function([r.value for r in group]) if kind == "agree" else self._step(group)
                for request, result in zip(group, results, strict=True):
                    request.result = result
            except Exception as error:  # every run must hear of it
                for request in group:
                    request.error = error
            for request in group:
                request.done = True
        self._waiting = [request for request in self._waiting if not request.done]
        self._turn.notify_all()

    def _step(self, group: list["_Request"]) -> list[Any]:
        family = group[0].family
        if family not in self._chunks:
            self._chunks[family] = self._chunk(group[0].function, group[0].value, len(group))
            if self.method == "auto" and self._chunks[family] > 1 and jax.default_backend() == "cpu":
                self._trials[family] = []
        trial = self._trials.get(family)
        if trial is None:
            results, self._chunks[family] = self._take(group, self._chunks[family])
            return results
        # Whether a CPU is faster at all at once depends on its cores and caches: tried in turns, compilation apart.
        start = time.perf_counter()
        results, chunk = self._take(group, 1 if len(trial) % 2 == 0 else self._chunks[family])
        jax.block_until_ready(results)
        steps = len(group[0].value[-1])
        trial.append((time.perf_counter() - start) / (len(group) * steps))
        if chunk > 1:
            self._chunks[family] = chunk
        if len(trial) == _TRIALS:
            if min(trial[2::2]) <= min(trial[3::2]):
                self._chunks[family] = 1
            del self._trials[family]
        return results

    def _take(self, group: list["_Request"], chunk: int) -> tuple[list[Any], int]:
        """One step of each, so many at once; also the number that memory allowed."""
        kind, function = group[0].kind, group[0].function
        allowed = chunk
        while chunk > 1 and 2 * len(group) <= chunk:
            chunk = -(-chunk // 2)
        results = []
        while len(results) < len(group):
            if chunk == 1:
                return results + self._one_by_one(group[len(results) :]), allowed
            members = [request.value for request in group[len(results) : len(results) + chunk]]
            # Runs that have left are made up for by copies of one that is here, or the program would change its shape.
            padded = members + [jax.tree.map(jnp.copy, members[0]) for _ in range(chunk - len(members))]
            arguments = tuple(zip(*padded, strict=True))
            program = self._program(kind, function, arguments)
            if program is None:
                chunk = allowed = self._widths[kind] = -(-chunk // 2)
                continue
            results += program(*arguments)[: len(members)]
        return results, allowed

    def _one_by_one(self, group: list["_Request"]) -> list[Any]:
        """One step of each by the program of one run; on a CPU several at a time, on as many cores as memory allows."""
        kind, function = group[0].kind, group[0].function
        if (kind, 1) not in self.programs:
            # Every run has made the same program; the first serves all.
            compiled = _compiled(function, group[0].value)
            needed = max(1, bytes_needed(compiled))
            self._widths[kind] = max(1, min(len(self._lanes), self._free() // needed))
            self.programs[kind, 1] = compiled
        program, lanes = self.programs[kind, 1], self._lanes[: self._widths[kind]]
        under_way = [lanes[number % len(lanes)].submit(program, *request.value) for number, request in enumerate(group)]
        return [step.result() for step in under_way]

    def _chunk(self, function: TrainStep, example: Any, count: int) -> int:
        """How many runs to try to take at once."""
        if isinstance(self.method, int):
            return min(self.method, count)
        if self.method == "loop" or (self.method == "auto" and choose_method(function, *example) == "map"):
            return 1
        return count

    def _program(self, kind: Any, function: TrainStep, arguments: Any) -> Callable[..., list[Any]] | None:
        """The program for several runs; None where it needs more memory than there is."""
        count = len(arguments[0])
        if (kind, count) not in self.programs:
            compiled = _compiled(_together(function), arguments)
            if bytes_needed(compiled) > self._free():
                return None
            self.programs[kind, count] = compiled
        return self.programs[kind, count]

    def _free(self) -> int:
        return free_memory() if self._memory is None else self._memory


@dataclasses.dataclass
class _Request:
    """What a run waits for.

    Attributes:
        kind: requests of one kind are served together.
        function, value: what to do.
        family: kinds of steps that differ in nothing but how many a dispatch takes: how runs are best taken together
            is the same for all of them.
        result, error, done: what came of it.
    """

    kind: Any
    function: Any
    value: Any
    family: Any = None
    result: Any = None
    error: Exception | None = None
    done: bool = False


class Lane:
    """A thread that does what it is given, in that order; a daemon, so that the second Ctrl-C need not wait for it."""

    def __init__(self):
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """What `function(*arguments)` will give."""
        future: Future[Any] = Future()
        self._work.put((future, function, arguments))
        return future

    def close(self) -> None:
        """End, when all is done that was given."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, function, arguments = work
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # handed to who asks for the result
                future.set_exception(error)
            # While it waits it must keep no arrays alive.
            del work, future, arguments


def _shapes(tree: Any) -> tuple[Any, ...]:
    def shape(leaf: Any) -> tuple[Any, ...]:
        if isinstance(leaf, jax.Array):
            # Runs on different devices go off separately, and at the same time.
            return leaf.shape, leaf.dtype, leaf.device
        return np.shape(leaf), jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype)

    return tuple(map(shape, jax.tree.leaves(tree)))


def _compiled(function: Callable[..., Any], arguments: Any) -> Any:
    return jax.jit(function, donate_argnums=0).lower(*arguments).compile()


def _together(function: TrainStep) -> Callable[..., list[Any]]:
    def joint(*arguments: Any) -> list[Any]:
        stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *argument) for argument in arguments]
        result = jax.vmap(function)(*stacked)
        return [jax.tree.map(lambda leaf, run=run: leaf[run], result) for run in range(len(arguments[0]))]

    return joint


def halve(keep: float) -> Callable[[list[tuple[float, ...]]], list[bool]]:
    """Successive halving (Jamieson & Talwalkar 2016): the values of all runs -> whether each goes on.

    Args:
        keep: the share that goes on, those of the smallest values; of equal ones, those whose next values are smaller.
    """

    def decide(values: list[tuple[float, ...]]) -> list[bool]:
        wanted = max(1, round(keep * len(values)))
        known = [tuple(value if math.isfinite(value) else math.inf for value in of_run) for of_run in values]
        chosen = sorted(range(len(values)), key=known.__getitem__)[:wanted]
        return [number in chosen for number in range(len(values))]

    return decide
