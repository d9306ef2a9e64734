"""Docstrings of installed packages: a corpus about programming that needs no download."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from rnn_jax.data.errors import DataError

PACKAGES = ("numpy", "scipy", "jax")

_WORD = re.compile(r"[a-z]+(?:_[a-z0-9]+)*")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Shorter strings are names and messages rather than text.
_SHORTEST = 100


def docstrings(packages: tuple[str, ...] = PACKAGES) -> Iterator[list[str]]:
    """The words, in lower case, of each docstring in the source of some packages, one docstring a document.

    The files are read, not imported. Tests are left out. NumPy documents its compiled functions by calls of
    `add_newdoc`, whose texts are taken too.

    Raises:
        DataError: a package is not installed.
    """
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DataError(f"corpus: expected the package {package} for 'builtin', found none installed")
        folder = Path(spec.submodule_search_locations[0])
        for path in sorted(folder.rglob("*.py")):
            if "tests" not in path.relative_to(folder).parts:
                for text in _texts(path):
                    words = _WORD.findall(text.lower())
                    if words:
                        yield words


def _texts(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8", errors="replace")
    if '"""' not in source:
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.Call) and "add_newdoc" in ast.dump(node.func):
            for part in node.args:
                for leaf in ast.walk(part):
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str) and len(leaf.value) >= _SHORTEST:
                        yield leaf.value
