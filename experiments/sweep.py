"""--sweep: one experiment for many settings, its runs trained together, and what comes out laid side by side."""

import contextvars
import csv
import dataclasses
import io
import json
import math
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import flags
from experiments.joint import SURROUNDINGS, Joint, Surroundings, halve
from rnn_jax.cells import INITIAL_OPTIONS, parse
from rnn_jax.sweep import Space
from rnn_jax.training.display import Display
from rnn_jax.training.figures import drawn
from rnn_jax.training.files import write_json, write_text
from rnn_jax.training.loop import Diverged, Interrupted, NonFinite
from rnn_jax.training.metrics import TRAIN, VALID, curve, read_metrics
from rnn_jax.training.run import Run, RunError, load, open_run, read_config
from rnn_jax.training.sharding import chosen_devices
from rnn_jax.training.signals import SignalCatcher
from rnn_jax.training.state import parameter_count

# These differ between runs of one program: they decide initial values, the order of the data and the learning rate of
# each step, which the host knows, or are numbers in the optimiser's state.
_BY_THE_HOST = ("seed", "learning_rate", "schedule", "warmup", "decay", "decay_after")
_BY_THE_OPTIMISER = ("beta2", "clip_norm", "clip_value", "weight_decay", "ema_decay")
TRACED = frozenset((*_BY_THE_HOST, *_BY_THE_OPTIMISER))

# A run of a sweep has one device.
_PLACED = ("devices", "shard_params")

DONE, DIVERGED, HALVED = "done", "diverged", "halved"
# The best of a sweep is one whose command can be given again to the same end.
_PREFERRED = (DONE, HALVED, DIVERGED)


class _Halved(Exception):
    """This run was among the worse half."""


@dataclasses.dataclass
class Member:
    """One run of a sweep.

    Attributes:
        number: from 0.
        setting: the swept names and their values.
        config: the whole configuration.
        path: its folder, that of a run like any other.
        status: done, diverged or halved; "": not finished.
        metrics: the final ones, or those known when it ended; of what several networks of the run have, the mean.
        monitor: the name of the metric that training minimises; "": training knows none.
        networks: the best evaluation of each network that the run has trained: some experiments train several.
        error: what ended it, for the main thread.
    """

    number: int
    setting: dict[str, Any]
    config: Any
    path: Path
    status: str = ""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    monitor: str = ""
    networks: list[dict[str, float]] = dataclasses.field(default_factory=list)
    error: BaseException | None = None

    def trained(self, monitor: str, values: Mapping[str, float]) -> None:
        """Keep the best evaluation of a network, by which runs are compared."""
        self.networks.append({name: float(value) for name, value in values.items()})
        names = dict.fromkeys(name for network in self.networks for name in network)
        self.monitor = monitor
        self.metrics = {
            name: float(np.mean([network[name] for network in self.networks if name in network])) for name in names
        }

    def remember(self) -> None:
        """Keep how the run ended beside it, so that a resumed sweep need not train it again."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        write_json(self.path / "outcome.json", {"status": self.status, "monitor": self.monitor, "metrics": finite})

    def recall(self) -> bool:
        """Whether the run has ended before; then as it was. One that is asked for more now has not."""
        path = self.path / "outcome.json"
        try:
            outcome = json.loads(path.read_text(encoding="utf-8"))
            monitor, metrics = outcome["monitor"], outcome["metrics"].items()
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            # Not there, or damaged: the run says anew how it ended.
            return False
        if outcome["status"] == DONE and flags.restored(self.config, read_config(self.path)["config"]) != self.config:
            return False
        self.status, self.monitor = outcome["status"], monitor
        self.metrics = {name: math.nan if value is None else value for name, value in metrics}
        return True


def members_of(config: Any, path: Path) -> list[Member]:
    """The runs that `config.sweep` asks for.

    Raises:
        FlagError: names that are no flags, values that their flags refuse.
    """
    space = Space.parse(config.sweep)
    for name in _PLACED:
        if name in space.names:
            raise flags.FlagError(f"--sweep: expected what differs between runs, found {name}: a sweep places its runs")
    neutral = {"sweep": None, "sweep_samples": None, "sweep_method": "auto", "halving": False}
    own = {field.name for field in dataclasses.fields(config)}
    alone = dataclasses.replace(config, **{name: value for name, value in neutral.items() if name in own})
    settings = space.grid() if config.sweep_samples is None else space.sample(config.sweep_samples, config.seed)
    return [
        Member(number, dict(setting), flags.assign(alone, setting, "sweep"), path / "runs" / f"{number:03}")
        for number, setting in enumerate(settings)
    ]


def static_groups(members: Sequence[Member]) -> list[list[Member]]:
    """The runs that can share a program: those whose configurations differ in nothing that decides its shape."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        config = member.config
        # What a resumed run may change, such as how often to evaluate, is not in the program either.
        varying = TRACED | flags.free(type(config)) | set(traced_rates(config))
        fixed = {name: value for name, value in flags.stored(config).items() if name not in varying}
        # What is None is left out of the program, and so is dropout of 0.
        fixed |= {name: getattr(config, name, None) is None for name in _BY_THE_OPTIMISER}
        fixed |= {name: getattr(config, name) for name in traced_rates(config) if not getattr(config, name)}
        if isinstance(fixed.get("cell"), str):
            fixed["cell"] = _shape_of(fixed["cell"])
        groups.setdefault(repr(sorted(fixed.items())), []).append(member)
    return list(groups.values())


def traced_rates(config: Any) -> tuple[str, ...]:
    """The rates of dropout that a program of this experiment need not know."""
    # As arrays of float32 they would not go with numbers of fewer bits.
    return getattr(config, "traced", ()) if getattr(config, "dtype", "float32") == "float32" else ()


def _shape_of(cell: str) -> tuple[Any, ...]:
    """What of a cell decides its program: all but the options that decide its first parameters."""
    name, options = parse(cell)
    return name, *sorted((option, repr(value)) for option, value in options.items() if option not in INITIAL_OPTIONS)


def _differing(group: Sequence[Member]) -> frozenset[str]:
    """The rates of dropout that are not the same for all, where the program need not know them."""
    first = group[0].config
    return frozenset(
        name for name in traced_rates(first) if len({getattr(member.config, name) for member in group}) > 1
    )


def run_sweep(name: str, main: Callable[[Any, Any], None], config: Any, run: Run) -> None:
    """Train every run, write sweep.csv, result.json and the plots, print the table.

    A sweep that was interrupted goes on where it was: each of its runs is resumed like any run.

    Raises:
        FlagError: a bad setting, found before anything is trained.
        Interrupted: Ctrl-C or SIGTERM.
    """
    members = members_of(config, run.path)
    if _halving(config) and config.eval_every is None:
        raise flags.FlagError("--halving: expected --eval_every too, found none: halving happens at evaluations")
    groups = static_groups(members)
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.path / "config.json", {"experiment": name, "config": run.config})
    programs = "one program" if len(groups) == 1 else f"{len(groups)} programs, one after the other"
    print(f"{len(members)} runs by {programs}; in {run.path}")
    with SignalCatcher() as signals:
        for number, group in enumerate(groups):
            open_ones = [member for member in group if not member.recall()]
            if open_ones:
                label = f"group {number + 1} of {len(groups)}, " if len(groups) > 1 else ""
                try:
                    _train_group(name, main, open_ones, config, label, runs=len(group))
                except Exception:
                    _discard(run, members)
                    raise
            if signals.received is not None:
                raise Interrupted(signals.received, max((_steps_done(member) for member in group), default=0))
            _write_table(run.path / "sweep.csv", members)
    report(name, config, run, members)


def _discard(run: Run, members: Sequence[Member]) -> None:
    """Take away what a fresh sweep has written of its own, if none of its runs has begun."""
    if not run.resumed and not any(member.path.exists() for member in members):
        shutil.rmtree(run.path / "runs", ignore_errors=True)


def _halving(config: Any) -> bool:
    # An experiment that trains in its own way has no evaluations to halve at, and no joint steps.
    return getattr(config, "halving", False)


def _steps_done(member: Member) -> int:
    return max((line["step"] for line in read_metrics(member.path / "metrics.jsonl")), default=0)


def _train_group(
    name: str, main: Callable[[Any, Any], None], group: list[Member], config: Any, label: str, runs: int
) -> None:
    """Train the runs of `group`, which were `runs` when they began: so many have shared their clock."""
    method = getattr(config, "sweep_method", "auto")
    devices = _devices(config, method)
    method = "auto" if method == "devices" else int(method) if method.isdecimal() else method
    joint = Joint(len(group), method)
    traced = _differing(group)
    board = _Board(group, label)
    output = _ThreadOutput(sys.stdout)
    threads = []
    for place, member in enumerate(group):
        around = Surroundings(
            share_steps=joint.share_steps,
            apart=joint.apart,
            make_display=lambda unit, member=member: _MemberDisplay(board, member, unit),
            on_evaluation=_rungs(joint, member, len(group)) if _halving(config) else None,
            on_trained=member.trained,
            runs=len(group),
            sharing_clock=runs,
            block_size=joint.block_size,
            devices=1,
            device=devices[place % len(devices)] if len(devices) > 1 else None,
            traced=traced,
        )
        context = contextvars.copy_context()
        context.run(SURROUNDINGS.set, around)
        threads.append(
            threading.Thread(target=context.run, args=(_train_member, name, main, member, joint, output), daemon=True)
        )
    with redirect_stdout(output):  # pyright: ignore[reportArgumentType]
        for thread in threads:
            thread.start()
        for thread in threads:
            # With a limit: a join without one would hold back signals.
            while thread.is_alive():
                thread.join(0.1)
    board.close()
    joint.close()
    for member in group:
        if member.error is not None:
            raise member.error


def _devices(config: Any, method: str) -> list[Any]:
    """Those over which the runs are spread."""
    count = getattr(config, "devices", None)
    with flags.checked():
        visible = chosen_devices(count)
    return visible if method in ("auto", "devices") else visible[:1]


def _train_member(
    name: str, main: Callable[[Any, Any], None], member: Member, joint: Joint, output: "_ThreadOutput"
) -> None:
    run = None
    with joint.member():
        try:
            member.path.parent.mkdir(parents=True, exist_ok=True)
            with member.path.with_suffix(".txt").open("a", encoding="utf-8") as file:
                output.redirect(file)
                values = flags.stored(member.config)
                run = open_run(name, values, given=values, free=flags.free(type(member.config)), workdir=member.path)
                main(member.config, run)
            member.status = DONE
            final = json.loads((member.path / "result.json").read_text(encoding="utf-8"))["metrics"]
            member.metrics |= {name: math.nan if value is None else value for name, value in final.items()}
        except NonFinite:
            member.status = DIVERGED
        except _Halved:
            member.status = HALVED
        except Interrupted:
            return
        except BaseException as error:  # handed to the main thread
            if run is not None and isinstance(error, flags.FlagError):
                run.refuse()
            member.error = error
            return
        finally:
            output.redirect(None)
        member.remember()


def _rungs(joint: Joint, member: Member, count: int) -> Callable[[str, Mapping[str, float]], None]:
    """Halve at each evaluation until one run is left."""
    left = math.ceil(math.log2(count)) if count > 1 else 0

    def watch(monitor: str, values: Mapping[str, float]) -> None:
        nonlocal left
        if left == 0:
            return
        left -= 1
        # A share of wrong answers is often the same for several runs.
        if not joint.agree((float(values[monitor]), float(values.get("val_loss", 0.0))), halve(0.5)):
            member.trained(monitor, values)
            raise _Halved

    return watch


class _ThreadOutput(io.TextIOBase):
    """Standard output for several threads: what a run prints goes to its own file."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._files: dict[int, Any] = {}

    def redirect(self, file: Any) -> None:
        """Send what this thread prints to `file`; None: where it went before."""
        self._files.pop(threading.get_ident(), None)
        if file is not None:
            self._files[threading.get_ident()] = file

    def write(self, text: str) -> int:
        return self._files.get(threading.get_ident(), self._stream).write(text)

    def flush(self) -> None:
        self._files.get(threading.get_ident(), self._stream).flush()


class _Board:
    """The progress of a group of runs, as one line."""

    def __init__(self, group: list[Member], label: str):
        self._group = group
        self._label = label
        self._display: Display | None = None
        self._speeds: dict[int, float] = {}
        self._losses: dict[int, float] = {}

    def train(
        self, member: Member, unit: str, step: int, fraction: float, loss: float, speed: float, left: Any
    ) -> None:
        """Take note of one run; show all when the first of those at work reports."""
        if self._display is None:
            self._display = Display(unit=unit)
            self._display.message(f"{self._label}{len(self._group)} runs at work")
        self._losses[member.number], self._speeds[member.number] = loss, speed
        if member.number == min(other.number for other in self._group if not other.status):
            working = [other.number for other in self._group if not other.status and other.number in self._losses]
            best = min(self._losses[number] for number in working)
            total = sum(self._speeds[number] for number in working)
            self._display.train(step, fraction, best, total, left)

    def evaluation(self, member: Member, step: int, values: Mapping[str, float]) -> None:
        """Show an evaluation of one run."""
        if self._display is not None:
            setting = " ".join(f"{name}={value}" for name, value in member.setting.items())
            metrics = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            self._display.message(f"run {member.number:3}  step {step}  {metrics}  ({setting})")

    def close(self) -> None:
        """Take the bar away."""
        if self._display is not None:
            self._display.close()


class _MemberDisplay(Display):
    """The display of one run: what it would show goes to the board, its messages to its own output."""

    def __init__(self, board: _Board, member: Member, unit: str):
        self.board, self.member, self.unit = board, member, unit

    def train(self, step: int, fraction: float, loss: float, units_per_second: float, seconds_left: Any) -> None:
        self.board.train(self.member, self.unit, step, fraction, loss, units_per_second, seconds_left)

    def evaluation(self, step: int, values: Mapping[str, float], best: bool) -> None:
        self.board.evaluation(self.member, step, values)

    def message(self, text: str, stream: Any = None) -> None:
        print(text)

    def close(self) -> None:
        pass


def report(name: str, config: Any, run: Run, members: list[Member]) -> None:
    """Write the table, the plots and result.json; print the best runs and what each name explains."""
    _write_table(run.path / "sweep.csv", members)
    monitor = monitored(members)
    ranked = sorted(
        (member for member in members if math.isfinite(member.metrics.get(monitor, math.nan))),
        key=lambda member: (
            _PREFERRED.index(member.status),
            member.metrics[monitor] * (-1 if larger_is_better(monitor) else 1),
        ),
    )
    names = list(members[0].setting)
    _plot_curves(run.path / "sweep_loss.png", members, monitor)
    for swept in names:
        if len({member.setting[swept] for member in members}) > 1:
            _plot_against(run.path / f"sweep_{swept}.png", members, swept, monitor)
    for status in (DIVERGED, HALVED):
        found = [str(member.number) for member in members if member.status == status]
        if found:
            print(f"{status}: runs {', '.join(found)}")
    if all(member.status == DIVERGED for member in members):
        raise Diverged(f"every run of the sweep diverged; what they were is in {run.path}")
    if not ranked:
        raise flags.FlagError(f"--sweep: expected one run at least to end with a finite {monitor}, found none")
    for member in ranked[:5]:
        setting = "  ".join(f"{swept}={value}" for swept, value in member.setting.items())
        print(f"run {member.number:3}  {monitor} {member.metrics[monitor]:.4f}  {setting}")
    shares = explained(members, monitor)
    if shares:
        print("share of the variance explained: " + ", ".join(f"{n} {share:.0%}" for n, share in shares.items()))
    best = ranked[0]
    line = flags.command(f"experiments.{name}", _alone(best.config))
    print(f"the best one alone: {line}")
    if best.status == DONE:
        result = json.loads((best.path / "result.json").read_text(encoding="utf-8"))
    else:
        result = _result_of(name, best)
    write_json(
        run.path / "result.json",
        result
        | {
            "experiment": name,
            "config": flags.stored(best.config),
            "metrics": {key: value if math.isfinite(value) else None for key, value in best.metrics.items()},
            "best_run": best.number,
            "command": line,
            "sweep": config.sweep,
            "runs": len(members),
            "explained_variance": shares,
            "device": str(jax.devices()[0].device_kind),
        },
    )
    print(f"table, curves and runs in {shlex.quote(str(run.path))}")


def _result_of(name: str, member: Member) -> dict[str, Any]:
    """What result.json would hold of a run that did not come to its end."""
    last = max(read_metrics(member.path / "metrics.jsonl"), key=lambda line: line["step"])
    try:
        parameters = parameter_count(load(member.path).params)
    except RunError:
        # It ended before it had saved any.
        parameters = None
    run = Run(member.path, name, flags.stored(member.config))
    return run.result(metrics=member.metrics, steps=last["step"], seconds=last["seconds"], parameters=parameters)


def _alone(config: Any) -> Any:
    """The configuration that gives a run of a sweep by itself: where there are several devices, on one of them."""
    several = len(jax.devices()) > 1 and hasattr(config, "devices")
    return dataclasses.replace(config, devices=1, shard_params=False) if several else config


def monitored(members: list[Member]) -> str:
    """The metric to compare by: what training minimised, else a loss, else any score."""
    known = dict.fromkeys(metric for member in members for metric in member.metrics)
    chosen = [member.monitor for member in members if member.monitor]
    losses = [metric for metric in known if metric.endswith(("loss", "mse", "perplexity"))]
    scores = [metric for metric in known if larger_is_better(metric)]
    return next(iter(chosen + losses + scores + [*known]), "val_loss")


def larger_is_better(metric: str) -> bool:
    """Whether a metric is a score, not a loss."""
    return metric.endswith(("accuracy", "_f1", "exact_match", "bleu", "spearman"))


def explained(members: list[Member], monitor: str) -> dict[str, float]:
    """The share of the variance of the final losses that each name explains by itself.

        share(name) = Var over its values (mean of the losses with that value) / Var(all losses)

    Runs without a finite loss count as the worst of the others. {} where there are fewer than three.

    Source: the main effects of functional ANOVA (Hutter et al. 2014), which on a full grid are these means.
    """
    losses = np.array([member.metrics.get(monitor, math.nan) for member in members], float)
    finite = np.isfinite(losses)
    if finite.sum() < 3 or np.ptp(losses[finite]) == 0:
        return {}
    worst = losses[finite].min() if larger_is_better(monitor) else losses[finite].max()
    losses = np.where(finite, losses, worst)
    shares = {}
    for name in members[0].setting:
        values = [member.setting[name] for member in members]
        means = np.array([losses[[value == other for other in values]].mean() for value in values])
        shares[name] = float(means.var() / losses.var())
    return shares


def _write_table(path: Path, members: list[Member]) -> None:
    metrics = sorted({metric for member in members for metric in member.metrics})
    names = list(members[0].setting)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", *names, *metrics, "status"])
    for member in members:
        if member.status:
            values = [member.metrics.get(metric, "") for metric in metrics]
            table.writerow([member.number, *(member.setting[name] for name in names), *values, member.status])
    write_text(path, text.getvalue())


def drawn_curves(members: list[Member], monitor: str) -> tuple[str, list[list[tuple[int, float]]]]:
    """(name, curve of each run, the mean of its networks): the monitored metric, or the training loss.

    The second where no run was evaluated on the way.
    """
    logs = [[read_metrics(path) for path in sorted(member.path.glob("**/metrics.jsonl"))] for member in members]
    curves = [_mean_curve([curve(log, VALID, monitor) for log in of_member]) for of_member in logs]
    if any(curves):
        return monitor, curves
    return "loss", [_mean_curve([curve(log, TRAIN, "loss") for log in of_member]) for of_member in logs]


def _mean_curve(curves: list[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The mean over the networks of a run, at the steps that all of them have."""
    values = [dict(points) for points in curves if points]
    steps = set.intersection(*map(set, values)) if values else set()
    return [(step, float(np.mean([points[step] for points in values]))) for step in sorted(steps)]


def _plot_curves(path: Path, members: list[Member], monitor: str) -> None:
    with drawn(path, (8, 5)) as figure:
        axes = figure.subplots()
        name, curves = drawn_curves(members, monitor)
        ends = []
        for member, points in zip(members, curves, strict=True):
            if points:
                steps, losses = zip(*points, strict=True)
                label = " ".join(str(value) for value in member.setting.values()) if len(members) <= 12 else None
                axes.plot(steps, losses, ".-", linewidth=1, label=label)
                ends.append(losses[-1])
        if ends:
            low, high = min(ends), float(np.quantile(ends, 0.8))
            axes.set_ylim(low - 0.05 * (high - low) - 0.01, high + 0.3 * (high - low) + 0.01)
        if ends and len(members) <= 12:
            axes.legend(title=" ".join(members[0].setting), fontsize="small")
        axes.set_xlabel("training step")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)


def _plot_against(path: Path, members: list[Member], name: str, monitor: str) -> None:
    """The final loss against one name; one line for each value of the other names but the seed, seeds averaged."""
    with drawn(path, (8, 5)) as figure:
        axes = figure.subplots()
        values = [member.setting[name] for member in members]
        numeric = all(isinstance(value, int | float) for value in values)
        others = [other for other in members[0].setting if other not in (name, "seed")]
        kinds: dict[str, list[Member]] = {}
        for member in members:
            if math.isfinite(member.metrics.get(monitor, math.nan)):
                kinds.setdefault("  ".join(f"{n}={member.setting[n]}" for n in others), []).append(member)
        places = {value: value if numeric else place for place, value in enumerate(dict.fromkeys(values))}
        for kind, group in kinds.items():
            at = sorted({places[member.setting[name]] for member in group})
            losses = [[m.metrics[monitor] for m in group if places[m.setting[name]] == place] for place in at]
            (line,) = axes.plot(at, [np.mean(found) for found in losses], "-", label=kind or None)
            for place, found in zip(at, losses, strict=True):
                axes.plot([place] * len(found), found, "o", color=line.get_color(), markersize=4)
        positive = [value for value in values if isinstance(value, int | float) and value > 0]
        if numeric and len(positive) == len(values) and max(positive) / min(positive) >= 20:
            axes.set_xscale("log")
        if not numeric:
            axes.set_xticks(list(places.values()), [str(value) for value in places])
        if any(kinds) and len(kinds) <= 12:
            axes.legend(fontsize="small")
        axes.set_xlabel(name)
        axes.set_ylabel(monitor)
        axes.grid(alpha=0.3)
