"""The snippets of README.md run, in order, as one program."""

import re
from pathlib import Path

import jax

README = Path(__file__).parent.parent / "README.md"


def test_the_python_snippets_run_and_say_ello(capsys):
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) >= 3
    # As a reader runs them: Optax's adam does not obey the strict promotion of these tests.
    with jax.numpy_dtype_promotion("standard"):
        exec(compile("\n".join(snippets), "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip() == "ello"
