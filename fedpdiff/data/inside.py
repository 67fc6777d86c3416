"""Only what lies in the named folder is read: no links out of it, no archives, no paths to elsewhere.

Messages count files and never name one: names of files may be names of persons.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.utils.extract import Extractor
from PIL import Image

from fedpdiff.errors import DataError

_MOST_EXPANSION = 100  # encoded images hardly shrink; a file that grows more when it is unpacked is no data
_SMALL = 2**28  # bytes that any file may unpack to


def check_files(root: Path, where: str) -> None:
    """Refuse what a loader would follow out of ``root``, unpack without end, or wait for.

    Parameters
    ----------
    root
        A folder or file.
    where
        The source, for messages.

    Raises
    ------
    DataError
        For links that lead out of the folder or to folders, archives, tables that unpack to more than 100
        times their size, and what is neither file nor folder; or when a folder cannot be listed.
    """
    links = special = 0
    archives: set[str] = set()
    base = os.path.realpath(root)
    try:
        for path, is_link in _entries(root):
            if is_link and not (_within(os.path.realpath(path), base) and os.path.isfile(path)):
                links += 1
            elif not os.path.isfile(path):
                special += 1
            elif _suffix(path) not in Image.registered_extensions():
                _check_table(path, where)
                archives |= (
                    {_suffix(path) or "no suffix"} if Extractor.infer_extractor_format(path) else set()
                )
    except OSError as error:
        raise DataError(f"{where} cannot be read ({type(error).__name__})") from None
    if links:
        raise DataError(
            f"{where} has {links} links that lead out of it or to a folder; put the files themselves there "
            f'(find "{root}" -type l lists links)'
        )
    if archives:
        raise DataError(
            f"{where} holds archives ({', '.join(sorted(archives))}); unpack them or take them out"
        )
    if special:
        raise DataError(f"{where} holds {special} entries that are neither files nor folders; take them out")


def _entries(root: Path) -> Iterator[tuple[str, bool]]:
    """Yield every file, link and special entry with whether it is a link; loaders leave out hidden ones."""
    if not root.is_dir():
        yield str(root), False
        return
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in (*subfolders, *files):
            path = os.path.join(folder, name)
            is_link = os.path.islink(path)
            if not name.startswith(".") and (is_link or name not in subfolders):
                yield path, is_link


def _raise(error: OSError) -> None:
    raise error


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _within(path: str, base: str) -> bool:
    return path == base or path.startswith(base.rstrip("/") + "/")


def _check_table(path: str, where: str) -> None:
    if _suffix(path) != ".parquet":
        return
    try:
        metadata = pq.read_metadata(path)
        unpacked = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    except Exception:  # damaged, or no parquet: the loader says so
        return
    size = os.path.getsize(path)
    if unpacked > max(_SMALL, _MOST_EXPANSION * size):
        raise DataError(
            f"{where} holds a parquet file of {size / 1e6:.3g} MB that unpacks to {unpacked / 1e6:.3g} MB; "
            f"at most {_MOST_EXPANSION} times its size is read"
        )


def check_paths(dataset: datasets.Dataset, root: Path, where: str) -> None:
    """Refuse rows whose image is not in the data but named by a path that is no file inside ``root``.

    Parameters
    ----------
    dataset
        With the column ``image``.
    root
        A folder, or a file in the folder that paths must stay in.
    where
        The source, for messages.

    Raises
    ------
    DataError
        Saying how many such rows there are.
    """
    column = dataset.cast_column("image", datasets.Image(decode=False)).with_format("arrow")[:]["image"]
    named = pc.filter(pc.struct_field(column, "path"), pc.is_null(pc.struct_field(column, "bytes")))
    base = os.path.realpath(root if root.is_dir() else root.parent)
    paths = [path for path in named.to_pylist() if path is not None]
    outside = sum(not (_within(os.path.realpath(path), base) and os.path.isfile(path)) for path in paths)
    if outside:
        raise DataError(
            f"{where} names {outside} images by paths that are no files inside it; put the images there, or "
            "their bytes into the table"
        )
