"""Words of running text, and the pieces of words by which rare ones are known."""

import html
import re
import zlib

import numpy as np

_ADDRESS = "<url>"
_TOKEN = re.compile(
    r"""
    (?P<address> https?://\S+ | www\.\S+ )
  | [:;=]['\-o^]?[)(\]\[dp/\\|*](?!\w)     # faces: ;-)
  | [@\#]\w+                                  # user names and hashtags
  | n't\b                                     # do n't, wo n't, as the treebanks cut them
  | '(?:s|re|ve|ll|m|d)\b
  | \w+?(?=n't\b)
  | \w+(?:[-/]\w+)*
  | ([^\w\s])\2*                              # !!, --, ...
    """,
    re.VERBOSE,
)
_LONG_RUN = re.compile(r"(.)\1{2,}")
_DIGIT = re.compile(r"\d")
_APOSTROPHES = str.maketrans("’‘`", "'''")

# Lengths of the pieces, in characters.
_SHORTEST, _LONGEST = 3, 5


def split_words(text: str) -> list[str]:
    """The words, marks and symbols of a text, in lower case.

    As the treebanks cut them: "don't" is "do" and "n't", "it's" is "it" and "'s". What varies without end is made one:
    a digit is 0, an address of the web <url>, a character more than twice in a row stands twice. HTML's entities
    are read.

    >>> split_words("It's 10 pages... don't!!! @united SOOOO late http://t.co/x :)")
    ['it', "'s", '00', 'pages', '..', 'do', "n't", '!!', '@united', 'soo', 'late', '<url>', ':)']
    """
    plain = html.unescape(text).translate(_APOSTROPHES).lower()
    found = []
    for match in _TOKEN.finditer(plain):
        found.append(_ADDRESS if match["address"] else _LONG_RUN.sub(r"\1\1", _DIGIT.sub("0", match[0])))
    return found


def word_pieces(word: str, rows: int, count: int = 24) -> np.ndarray:
    """The numbers, int32 [count], of the pieces of a word: its n-grams of 3 to 5 characters, hashed.

    The word stands between < and >, so that its beginning and end are pieces of their own kind. Two pieces may share a
    number. (Bojanowski et al. 2017, arXiv 1607.04606.)

    Args:
        word: any text.
        rows: the numbers go from 1 to rows - 1; 0 fills up.
        count: G, how many are kept, the shortest first.

    Raises:
        ValueError: fewer than 2 rows.
    """
    if rows < 2:
        raise ValueError(f"rows: expected at least 2, found {rows}")
    marked = f"<{word}>"
    grams = [
        marked[start : start + size]
        for size in range(_SHORTEST, _LONGEST + 1)
        for start in range(len(marked) - size + 1)
    ]
    numbers = np.zeros(count, np.int32)
    for place, gram in enumerate(grams[:count]):
        numbers[place] = 1 + zlib.crc32(gram.encode("utf-8", "surrogatepass")) % (rows - 1)
    return numbers
