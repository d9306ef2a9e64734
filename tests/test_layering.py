"""The order of the house: a file imports only from what stands above it."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A name is a module of rnn_jax or a package with all its files.
ORDER = (
    "typing",
    "initializers",
    "cells",
    "recurrence",
    "unroll",
    "layers",
    "losses",
    "crf",
    "decoding",
    "models",
    "data",
    "training",
    "sweep",
    "interop",
)


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(path):
    """The modules that a file imports, in full: `from rnn_jax import losses` is `rnn_jax.losses`."""
    package = path.relative_to(ROOT).parent.parts if path.is_relative_to(ROOT) else ()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            base = base if node.level else node.module
            members = {f"{base}.{alias.name}" for alias in node.names}
            found |= {member if is_module(member) else base for member in members}
    return found


def layer(module):
    """The entry of `ORDER` that a module belongs to, by its place; None outside rnn_jax."""
    parts = module.split(".")
    if parts[0] != "rnn_jax":
        return None
    if len(parts) == 1:
        return len(ORDER)  # the package itself re-exports everything, so no file within may use it
    return ORDER.index(parts[1])


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = [path for path in sources("rnn_jax") if path != ROOT / "rnn_jax" / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_imports_only_from_above(path):
    parts = module_name(path).split(".")
    assert parts[1] in ORDER, f"give {parts[1]} its place in ORDER"
    below = {m for m in imports(path) if (rank := layer(m)) is not None and rank > ORDER.index(parts[1])}
    assert not below, f"{module_name(path)} imports from below itself: {sorted(below)}"


def test_files_do_not_import_each_other_in_a_circle():
    graph = {module_name(path): imports(path) for path in FILES if path.name != "__init__.py"}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=module_name)
def test_a_file_does_not_import_its_own_package(path):
    assert module_name(path).rpartition(".")[0] not in imports(path)


def test_cell_families_stand_beside_each_other():
    """Each imports the contract, none another family."""
    for path in sources("rnn_jax/cells"):
        if path.stem not in ("__init__", "base"):
            families = {m for m in imports(path) if m.startswith("rnn_jax.cells")} - {"rnn_jax.cells.base"}
            assert not families, path.name


@pytest.mark.parametrize("path", sources("rnn_jax/data"), ids=module_name)
def test_data_is_numpy_only(path):
    frameworks = {"jax", "jaxlib", "flax", "optax", "orbax", "jaxtyping"}
    assert not frameworks & {module.split(".")[0] for module in imports(path)}
    assert {m for m in imports(path) if m.startswith("rnn_jax") and not m.startswith("rnn_jax.data")} == set()


def test_the_library_reads_no_flags():
    for path in sources("rnn_jax"):
        assert not {"absl", "argparse"} & {module.split(".")[0] for module in imports(path)}, module_name(path)


def test_nothing_imports_the_experiments():
    # But for benchmarks, which time a command as a user gives it.
    for folder in ("rnn_jax", "tools"):
        for path in sources(folder):
            assert "experiments" not in {module.split(".")[0] for module in imports(path)}, module_name(path)


def test_the_reading_of_imports_finds_them(tmp_path):
    """What the laws above rest on."""
    file = tmp_path / "example.py"
    file.write_text("import absl.flags\nfrom rnn_jax import losses\nfrom rnn_jax.cells.base import Cell\n")
    assert imports(file) == {"absl.flags", "rnn_jax.losses", "rnn_jax.cells.base"}
    assert layer("rnn_jax.losses") > layer("rnn_jax.cells.base")
