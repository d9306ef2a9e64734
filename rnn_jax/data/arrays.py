"""Arrays from .npz files, with errors that name the file."""

import os
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from rnn_jax.data.errors import DataError


def read_npz(path: str | os.PathLike[str], names: Sequence[str], argument: str) -> dict[str, np.ndarray]:
    """The arrays of these names from a file that `numpy.savez` or `numpy.savez_compressed` wrote.

    Args:
        path: the file; a leading ~ is the home folder.
        names: the arrays that are wanted; others are left unread.
        argument: what the path was given as, to name it in an error.

    Raises:
        DataError: the file is missing, a folder, unreadable, no .npz, or lacks one of the arrays, or one of them holds
            Python objects.
    """
    name = os.path.expanduser(os.fspath(path))
    try:
        with open(name, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{argument}: expected an .npz file, as numpy.savez writes it, at {name!r}")
            file.seek(0)
            with np.load(file) as archive:
                arrays = {}
                for wanted in names:
                    if wanted not in archive:
                        raise DataError(
                            f"{argument}: expected the arrays {' and '.join(names)} in {name!r}, found "
                            f"{', '.join(archive.files) or 'none'}"
                        )
                    arrays[wanted] = archive[wanted]
                    # What is no .npy in an archive is handed over as bytes.
                    if not isinstance(arrays[wanted], np.ndarray):
                        raise DataError(
                            f"{argument}: expected {wanted}.npy in {name!r}, found {wanted} of another kind"
                        )
                return arrays
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{argument}: expected a file, found none at {name!r}") from None
    except IsADirectoryError:
        raise DataError(f"{argument}: expected a file, found a folder at {name!r}") from None
    # RuntimeError: an archive that is encrypted; MemoryError: the size that a damaged array claims to have.
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
        raise DataError(f"{argument}: cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None
    except ValueError:  # arrays of objects, which only unpickling could read: it may run any code
        raise DataError(
            f"{argument}: expected arrays of numbers or of text in {name!r}, found Python objects"
        ) from None
