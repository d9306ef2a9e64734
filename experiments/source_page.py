"""A web page of source code, every character in the colour of its label."""

import html
from collections.abc import Sequence
from itertools import groupby

# Dark on light, told apart by people who do not tell red from green.
COLOURS = {
    "space": "#24292f",
    "comment": "#6a737d",
    "string": "#0a6640",
    "number": "#9a3e00",
    "keyword": "#0b3fb3",
    "builtin": "#7a2fa0",
    "definition": "#a8005c",
    "name": "#24292f",
    "operator": "#5b4b00",
}

_STYLE = """
body { font-family: sans-serif; margin: 2em; background: #fdfdfb; color: #24292f; }
pre { font: 14px/1.45 monospace; tab-size: 8; }
.keyword, .definition { font-weight: bold; }
.comment { font-style: italic; }
.wrong { background: #ffd1d1; outline: 1px solid #d00000; }
.key span { margin-right: 1.2em; font-family: monospace; }
"""


def source_page(title: str, text: str, labels: Sequence[str], truth: Sequence[str] | None = None) -> str:
    """The page as HTML.

    Args:
        title: above the source.
        text: the source.
        labels: one of `COLOURS` for every character.
        truth: the right labels; characters with another are marked, and say both when pointed at.
    """
    colours = "\n".join(f".{label} {{ color: {colour}; }}" for label, colour in COLOURS.items())
    key = "".join(f'<span class="{label}">{label}</span>' for label in COLOURS if label != "space")
    body = []
    of_each = zip(text, labels, labels if truth is None else truth, strict=True)
    for (label, right), run in groupby(of_each, key=lambda one: one[1:]):
        characters = html.escape("".join(character for character, *_ in run))
        if label == right:
            body.append(f'<span class="{label}">{characters}</span>')
        else:
            body.append(f'<span class="{label} wrong" title="{label}, in truth {right}">{characters}</span>')
    note = ""
    if truth is not None:
        correct = sum(label == right for label, right in zip(labels, truth, strict=True))
        wrong = len(labels) - correct
        note = (
            f"<p>{correct / len(labels):.2%} of {len(labels):,} characters right; the {wrong:,} others are boxed.</p>"
        )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}{colours}</style></head>\n<body><h1>{html.escape(title)}</h1>{note}"
        f'<p class="key">{key}</p>\n<pre>{"".join(body)}</pre></body></html>\n'
    )
