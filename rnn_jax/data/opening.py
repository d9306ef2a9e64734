"""Opening a file of data, plain or .gz, with errors that name the argument."""

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator

from rnn_jax.data.errors import DataError


@contextlib.contextmanager
def open_data(path: str | os.PathLike[str], argument: str) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, unpacked if its name ends in .gz; a leading ~ is the home folder.

    Raises:
        DataError: within the block too: the file is missing, a folder, unreadable, or a broken .gz.
    """
    name = os.path.expanduser(os.fspath(path))
    try:
        with gzip.open(name, "rb") if name.endswith(".gz") else open(name, "rb") as file:
            yield file
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{argument}: expected a file, found none at {name!r}") from None
    except IsADirectoryError:
        raise DataError(f"{argument}: expected a file, found a folder at {name!r}") from None
    except PermissionError:
        raise DataError(f"{argument}: no permission to read {name!r}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{argument}: expected a whole gzip file at {name!r}: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{argument}: cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None
