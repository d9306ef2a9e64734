"""The public sets of sentence pairs that can be named instead of given as paths."""

import os

from rnn_jax.data.fetch import RemoteFile, fetch
from rnn_jax.data.pairs import Pairs, read_parallel

_MULTI30K = {
    "train.de": (637_044, "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
    "train.en": (568_929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
    "val.de": (24_681, "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
    "val.en": (21_650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
}


def multi30k(cache: str | os.PathLike[str] | None = None, timeout: float = 20.0) -> tuple[Pairs, Pairs]:
    """Multi30k, task 1, German to English: the 29,000 training pairs and the 1,014 of its validation set.

    Args:
        cache: the folder of fetched files; None: see `rnn_jax.data.cache_folder`.
        timeout: seconds of silence after which a fetch is given up.

    Raises:
        DataError: a file could not be fetched; the message says how to pass local ones.

    Source: Elliott et al. 2016 (arXiv 1605.00459).
    """

    def path(name: str, argument: str) -> str:
        address = f"https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{name}.gz"
        remote = RemoteFile(f"multi30k/{name}.gz", (address,), *_MULTI30K[name])
        return os.fspath(fetch(remote, cache, timeout, argument))

    def pairs(split: str, part: str) -> Pairs:
        arguments = (f"{part}_source", f"{part}_target")
        source, target = (path(f"{split}.{side}", one) for side, one in zip(("de", "en"), arguments, strict=True))
        return read_parallel(source, target, arguments)

    return pairs("train", "train"), pairs("val", "test")
