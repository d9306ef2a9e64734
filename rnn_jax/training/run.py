"""The folder of a run: what makes it self-contained, when it may be resumed, and how to load what it learned."""

import contextlib
import dataclasses
import datetime
import importlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

from rnn_jax.data import BPE, Subwords, Vocabulary
from rnn_jax.training import processes
from rnn_jax.training.checkpoint import CheckpointError, Checkpoints
from rnn_jax.training.files import write_json

_PACKAGES = ("rnn_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

# The folders that this process trains in, and the file descriptors that lock them.
_CLAIMS: dict[Path, int] = {}

_LONGEST_LABEL = 50

_BEGINNING = {"config.json", "model.json", "data.json", "vocabulary.json"}


class RunError(ValueError):
    """A folder that cannot be used as asked: one line, fit to be shown to a command-line user as it stands."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of one training run.

    Attributes:
        path: the folder.
        experiment: the name of the experiment.
        config: its configuration, as JSON holds it.
        resumed: whether the folder held the run before.
        before: the configuration that it held then.
        shared: the folder of the first of several processes, which holds the checkpoints of all; None: this one.
        parts: the runs in folders of this one that `part` has given.
    """

    path: Path
    experiment: str
    config: dict[str, Any]
    resumed: bool = False
    before: dict[str, Any] | None = None
    shared: Path | None = None
    parts: list["Run"] = dataclasses.field(default_factory=list, repr=False, compare=False)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return (self.shared or self.path) / "checkpoints"

    @property
    def label(self) -> str:
        """The name of the folder for titles: of a long one, the middle is left out."""
        name = self.path.name
        return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL // 2]}…{name[-_LONGEST_LABEL // 2 :]}"

    def is_saved(self) -> bool:
        """Whether there is a checkpoint to go on from: a run may have died before its first."""
        if not self.resumed:
            return False
        try:
            checkpoints = Checkpoints(self.checkpoints, create=False)
        except FileNotFoundError:
            return False
        checkpoints.close()
        return checkpoints.progress is not None

    def part(self, folder: str, **settings: Any) -> "Run":
        """The run in a folder of this one, for one of several models; its configuration differs by `settings`."""
        path = self.path / folder
        # One of several processes may have another folder than the first, without a configuration.
        here = (path / "config.json").exists()
        one = dataclasses.replace(
            self,
            path=path,
            config=self.config | settings,
            resumed=processes.agree(here),
            before=read_config(path)["config"] if here else None,
            shared=None if self.shared is None else self.shared / folder,
            parts=[],
        )
        self.parts.append(one)
        return one

    def begin(self, *, model: Any, vocabulary: Any = None, data: Mapping[str, Any] | None = None) -> None:
        """Create the folder and write all that `load` will need.

        Args:
            model: a dataclass (a Flax module) of `rnn_jax.models` whose fields are plain JSON values; or a dict of some
                by name, each of which has a run of its own in the folder of that name inside this one.
            vocabulary: a `Vocabulary` or `Subwords`, or a dict of some by name, or None.
            data: what it is trained on: name, sha256, sizes. A resumed run must find the same.

        Raises:
            RunError: a folder that cannot be written; a resumed run whose data or vocabulary has changed.
        """
        contents = {"data.json": data, "vocabulary.json": _vocabulary_to_json(vocabulary)}
        for name, value in contents.items():
            path = self.path / name
            if self.resumed and path.exists() and _read(path) != _plain(value):
                raise RunError(
                    f"workdir: {self.path} was trained on other data than is given now ({name} differs); "
                    "give the same data or another workdir"
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # First, because its presence makes the folder a run; a resumed run writes the others again.
            self._write_config(self.config)
            several = isinstance(model, dict)
            description = {name: describe(one) for name, one in model.items()} if several else describe(model)
            write_json(self.path / "model.json", description)
            for name, value in contents.items():
                if value is not None:
                    write_json(self.path / name, value)
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def claim(self) -> None:
        """Create the folder, if need be, and keep other processes from training in it until `release` or our end.

        Raises:
            RunError: one does already; a folder that cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                return
            folder = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise RunError(
                f"workdir: expected a run that no other process trains, found one that another does: {self.path}"
            ) from None
        except OSError:  # a file system without locks
            os.close(folder)
        else:
            _CLAIMS[self.path] = folder

    def release(self) -> None:
        """Let other processes train in the folder again, if it is ours."""
        folder = _CLAIMS.pop(self.path, None)
        if folder is not None:
            os.close(folder)

    def refuse(self) -> None:
        """What was asked for cannot be done: a resumed run and its parts keep the configurations that they had."""
        # On a disk that is full it stays, and where it is gone.
        with contextlib.suppress(OSError, RunError):
            if self.before is not None and read_config(self.path)["config"] != self.before:
                self._write_config(self.before)
        for one in self.parts:
            one.refuse()

    def _write_config(self, config: Mapping[str, Any]) -> None:
        write_json(self.path / "config.json", {"experiment": self.experiment, "config": config})

    def discard(self) -> None:
        """Take the folder of a fresh run away if it holds nothing but what `begin` wrote."""
        if self.resumed or self.shared is not None or not self.path.is_dir():
            return
        found = list(self.path.iterdir())
        if {path.name for path in found} <= _BEGINNING:
            for path in found:
                path.unlink()
            self.path.rmdir()

    def write_result(
        self,
        *,
        metrics: Mapping[str, float | int],
        steps: int,
        seconds: float,
        parameters: int,
        signatures: Mapping[str, str] | None = None,
    ) -> dict[str, float | int]:
        """Write `result.json`, the last file of a run. A metric that is not finite becomes null.

        Where a run that was at its end is asked again, its speed (`..._per_second`), which can be told no more, stays.

        `signatures` says how a metric was computed, by the metric's name, where there is more than one way.

        Returns:
            the metrics, with the speed that stayed.
        """
        path = self.path / "result.json"
        speeds = _speeds(path, steps)
        known = {name: value if math.isfinite(value) else speeds.get(name, value) for name, value in metrics.items()}
        result = self.result(metrics=known, steps=steps, seconds=seconds, parameters=parameters, signatures=signatures)
        write_json(path, result)
        return known

    def result(
        self,
        *,
        metrics: Mapping[str, float | int],
        steps: int,
        seconds: float,
        parameters: int | None,
        signatures: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """What `write_result` writes."""
        data = self.path / "data.json"
        return {
            "experiment": self.experiment,
            "config": self.config,
            "metrics": {
                name: None if value is None or not math.isfinite(value) else float(value)
                for name, value in metrics.items()
            },
            **({} if signatures is None else {"signatures": dict(signatures)}),
            "steps": steps,
            "seconds": round(seconds, 3),
            "parameters": parameters,
            "device": _device(),
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
            "data": _read(data) if data.exists() else None,
        }


def _speeds(path: Path, steps: int) -> dict[str, Any]:
    """The speeds in a `result.json` of as many steps; {} where there is none that can be read."""
    try:
        before = json.loads(path.read_text("utf-8"))
        known = before["metrics"].items() if before["steps"] == steps else ()
        return {name: value for name, value in known if name.endswith("_per_second") and value is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def open_run(
    experiment: str,
    config: Mapping[str, Any],
    *,
    given: Collection[str] = (),
    free: Collection[str] = (),
    workdir: Path | str | None = None,
    root: Path | str = "runs",
) -> Run:
    """A fresh run, or the one that `workdir` holds, to be resumed or read. No file is written yet.

    Args:
        experiment: the name of the experiment.
        config: all fields of the configuration, JSON values.
        given: the fields that were asked for; a run's own values take the place of the others.
        free: the fields that may differ from the run's.
        workdir: the folder; None: a new one under `root`, named experiment-date-number.
        root: the folder of default folders.

    Raises:
        RunError: the folder holds something else, a run of another experiment, or one whose configuration differs.
    """
    fields: dict[str, Any] = _plain(dict(config))
    if workdir is None:
        return Run(_fresh(Path(root), experiment), experiment, fields)
    path = _folder(workdir)
    if not (path / "config.json").exists():
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"workdir: expected a run, an empty folder or a new name, found something else: {path}")
        return Run(path, experiment, fields)
    stored = read_config(path)
    if stored["experiment"] != experiment:
        raise RunError(f"workdir: expected a run of {experiment}, found one of {stored['experiment']}: {path}")
    merged = _merge(path, stored["config"], fields, given, free)
    return Run(path, experiment, merged, resumed=True, before=stored["config"])


def read_config(workdir: Path | str) -> dict[str, Any]:
    """{"experiment": name, "config": fields} of a run.

    Raises:
        RunError: the folder holds no run.
    """
    found = _read(_folder(workdir) / "config.json")
    if not (isinstance(found, dict) and "experiment" in found and isinstance(found.get("config"), dict)):
        raise RunError(f"workdir: expected a run, found another config.json in {workdir}")
    return found


def _merge(
    path: Path, stored: dict[str, Any], config: dict[str, Any], given: Collection[str], free: Collection[str]
) -> dict[str, Any]:
    unknown = sorted(name for name in stored.keys() - config.keys() if stored[name] is not None)
    if unknown:
        raise RunError(f"workdir: {path} has settings that this version does not know: {', '.join(unknown)}")
    differing = [
        f"{name} ({_show(stored[name])} in the run, {_show(config[name])} now)"
        for name in config
        if name in given and name in stored and name not in free and stored[name] != config[name]
    ]
    if differing:
        raise RunError(f"workdir: {path} holds a run with another configuration: {', '.join(differing)}")
    return {name: value if name in given else stored.get(name, value) for name, value in config.items()}


class LoadedRun(NamedTuple):
    """What a run learned.

    Attributes:
        model: the Flax module, or a dict of some by name.
        params: its parameters, or a dict of theirs.
        vocabulary: a `Vocabulary`, a dict of some by name, or None.
        config: the configuration of the run.
        experiment: the name of the experiment.
    """

    model: Any
    params: Any
    vocabulary: Any
    config: dict[str, Any]
    experiment: str


def load(workdir: Path | str, *, best: bool = True) -> LoadedRun:
    """Load the model, the parameters and the vocabulary of a run.

    Args:
        workdir: the folder of the run.
        best: the parameters that were best on the validation set; else the last.

    Raises:
        RunError: the folder holds no run, or one that has saved nothing yet, or whose files are damaged.
    """
    path = _folder(workdir)
    stored = read_config(path)
    description = _read(path / "model.json")
    if "class" not in description:
        parts = {name: load(path / name, best=best) for name in description}
        model, params = ({name: getattr(part, of) for name, part in parts.items()} for of in ("model", "params"))
        return LoadedRun(model, params, None, stored["config"], stored["experiment"])
    with _reading(path / "model.json"):
        model_class = getattr(importlib.import_module("rnn_jax.models"), description["class"], None)
        if model_class is None:
            raise RunError(f"workdir: {path} holds a model that this version does not know: {description['class']}")
        model = model_class(**{name: _hashable(value) for name, value in description["arguments"].items()})
    try:
        checkpoints = Checkpoints(path / "checkpoints", create=False)
        with contextlib.closing(checkpoints):
            params = jax.tree.map(jnp.asarray, checkpoints.restore_params(best=best))
    except FileNotFoundError:
        raise RunError(f"workdir: {path} has no checkpoint yet") from None
    except CheckpointError as error:
        raise RunError(f"workdir: {error}") from error
    return LoadedRun(model, params, vocabulary_of(path), stored["config"], stored["experiment"])


def vocabulary_of(workdir: Path | str) -> Any:
    """The `Vocabulary` or `Subwords` of a run, a dict of some by name, or None.

    Raises:
        RunError: its file is damaged.
    """
    path = _folder(workdir) / "vocabulary.json"
    if not path.exists():
        return None
    with _reading(path):
        return _vocabulary_from_json(_read(path))


def describe(model: Any) -> dict[str, Any]:
    """The class and the arguments of a model, as `model.json` holds them."""
    fields = [field.name for field in dataclasses.fields(model) if field.init and field.name not in ("parent", "name")]
    return {"class": type(model).__name__, "arguments": {name: getattr(model, name) for name in fields}}


def _vocabulary_to_json(vocabulary: Any) -> Any:
    if isinstance(vocabulary, dict):
        return {name: json.loads(one.to_json()) for name, one in vocabulary.items()}
    return None if vocabulary is None else json.loads(vocabulary.to_json())


def _vocabulary_from_json(value: Any) -> Any:
    if "symbols" not in value or "level" not in value:
        return {name: _vocabulary_from_json(one) for name, one in value.items()}
    kind = Subwords if value["level"] == BPE else Vocabulary
    return kind.from_json(json.dumps(value))


def _fresh(root: Path, experiment: str) -> Path:
    stem = f"{experiment}-{datetime.date.today().isoformat()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            with contextlib.suppress(FileExistsError):
                path = root / f"{stem}-{number}"
                # Made at once: another run may start in the same second.
                path.mkdir()
                return path
    except OSError as error:
        raise _cannot_write(root, error) from None
    raise AssertionError("unreachable")


def _cannot_write(path: Path, error: OSError) -> RunError:
    return RunError(f"workdir: cannot write {path}: {error.strerror}")


def _folder(workdir: Path | str) -> Path:
    """The folder of that name, which need not exist; a leading ~ is the home folder."""
    try:
        path = Path(workdir).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        raise RunError(f"workdir: expected a folder, found {str(workdir)!r}: {error}") from None
    return path


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"workdir: expected a run, found no {path.name} in {path.parent}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"workdir: cannot read {path}: {error}") from None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What of a file is not as this package writes it."""
    try:
        yield
    except RunError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"workdir: cannot read {path}: damaged ({type(error).__name__}: {error})") from error


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


def _show(value: Any) -> str:
    return "none" if value is None else str(value)


def _device() -> str:
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"{kind} ({os.cpu_count()} cores)"
    return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source"
