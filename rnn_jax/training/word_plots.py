"""Word vectors on a plane."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from rnn_jax.data.keyed_vectors import KeyedVectors
from rnn_jax.training.figures import drawn


def principal_components(vectors: np.ndarray, count: int = 2) -> np.ndarray:
    """The coordinates [N, count] of vectors [N, D] along the directions of their largest variance, mean 0.

    Where N or D allows fewer, the rest are 0.
    """
    possible = min(count, *vectors.shape)
    if len(vectors) < 2:
        return np.zeros((len(vectors), count))
    places = PCA(possible, random_state=0).fit_transform(vectors)
    return np.pad(places, ((0, 0), (0, count - possible)))


def plot_words(
    vectors: KeyedVectors, groups: Mapping[str, Sequence[str]], image: Path | str, *, title: str = ""
) -> None:
    """Draw words and others that belong to them on the plane of their first two principal components, as a PNG.

    Args:
        vectors: of unit length, when they are drawn.
        groups: word -> others, which get its colour. Nothing is drawn where there are fewer than two words in all.
        image: the file to write.
        title: above the picture.

    Raises:
        DataError: a word that has no vector.
    """
    coloured = [(word, member) for word, others in groups.items() for member in (word, *others)]
    if len(coloured) < 2:
        return
    rows = [vectors.row(member, "groups") for _, member in coloured]
    places = principal_components(vectors.unit_vectors[rows])
    colours = {word: f"C{number % 10}" for number, word in enumerate(groups)}
    with drawn(image, (11, 8)) as figure:
        axes = figure.subplots()
        for word, colour in colours.items():
            members = [number for number, (group, _) in enumerate(coloured) if group == word]
            axes.scatter(*places[members].T, s=12, color=colour, label=word)
        for (word, member), place in zip(coloured, places, strict=True):
            weight = "bold" if member == word else "normal"
            axes.annotate(
                member, place, xytext=(3, 2), textcoords="offset points", fontsize=8, color=colours[word], weight=weight
            )
        axes.set(title=title, xlabel="first principal component", ylabel="second")
        axes.legend()
