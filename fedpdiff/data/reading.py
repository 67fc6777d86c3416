"""Where images come from: scikit-learn's digits, a folder or file on this machine, or the Hugging Face hub.

Everything is read with ``datasets``. What lies in a local folder may be private, so it is never left in a
cache: the library's Arrow copy is made in a temporary folder of this user, read into memory and deleted;
what a killed process leaves there goes at the next start.
"""

from __future__ import annotations

import glob
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from fedpdiff.data.inside import check_files
from fedpdiff.data.scratch import scratch_folder
from fedpdiff.errors import DataError

DIGITS = "digits"
FILES = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json"}
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "valid", "val", "dev")

datasets.disable_progress_bars()


def read(where: str) -> datasets.DatasetDict:
    """Read the run's source: ``"digits"``, a local path, or a hub name.

    Raises
    ------
    DataError
        When a path does not exist, a folder cannot be read, or the hub cannot be reached.
    """
    if where == DIGITS:
        return datasets.DatasetDict(train=_digits())
    if local_path(where):
        return read_local(where, "data")
    if where.startswith(("/", ".", "~")) or "\\" in where or where.count("/") > 1:
        raise DataError(
            f'data = "{where}" looks like a path, but nothing is there; give "digits", the absolute path of '
            f"a folder or file that exists, or the name of a data set on the Hugging Face hub"
        )
    return _read_hub(where)


def local_path(where: str) -> Path | None:
    """Return the absolute path that a source is, ``~`` being the home folder; None when nothing is there."""
    try:
        path = Path(where).expanduser().absolute()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # too long for a path, or the home of a user that does not exist
        return None


def read_local(where: str, setting: str) -> datasets.DatasetDict:
    """Read a parquet file or folder, or a folder with one sub-folder of images per class.

    Parameters
    ----------
    where
        The path; ``~`` is the home folder.
    setting
        The setting that named it (``data`` or ``data-path``), for messages.

    Raises
    ------
    DataError
        When the path does not exist or cannot be read, or holds what leads elsewhere, see
        :func:`~fedpdiff.data.inside.check_files`.
    """
    path = local_path(where)
    if path is None:
        raise DataError(
            f'{setting} = "{where}" does not exist; give the absolute path of a folder or file of images'
        )
    check_files(path, f'{setting} = "{where}"')
    arguments = _local_arguments(path, setting)
    with scratch_folder() as cache:
        try:
            found = datasets.load_dataset(**arguments, cache_dir=str(cache), keep_in_memory=True)
        except Exception as error:
            # Only the kind of error: a library's message may quote what it read, which is private.
            raise DataError(
                f'{setting} = "{where}" cannot be read ({type(error).__name__}); it must be a parquet file '
                f"or folder, or a folder with one sub-folder of images per class"
            ) from None
    return found


def _local_arguments(path: Path, setting: str) -> dict[str, Any]:
    """Return the arguments of ``load_dataset`` for a local path."""
    if path.is_file():
        if path.suffix.lower() not in FILES:  # load_dataset would look for an unknown format on the hub
            raise DataError(f'{setting} = "{path}" is a file of another kind than {", ".join(FILES)}')
        return {"path": FILES[path.suffix.lower()], "data_files": {"train": str(path)}}
    parts = _image_folder_parts(path)
    if not parts:
        return {"path": str(path)}
    # Named here, not guessed by the library, which would take a class called "test" for a split.
    # drop_labels=False: a site whose images are all of one class still has that class.
    files = {name: f"{glob.escape(str(folder))}/**" for name, folder in parts.items()}
    return {"path": "imagefolder", "data_files": files, "drop_labels": False}


def _image_folder_parts(root: Path) -> dict[str, Path]:
    """Return an image folder's splits by name, or nothing when ``root`` holds no class folders."""
    parts = {name: root / name for name in TRAIN_NAMES + TEST_NAMES if _has_class_folders(root / name)}
    if any(name in parts for name in TRAIN_NAMES):
        return parts
    return {"train": root} if _has_class_folders(root) else {}


def _has_class_folders(folder: Path) -> bool:
    if not folder.is_dir() or any(_is_image(entry) for entry in folder.iterdir()):
        return False
    return any(_is_image(entry) for sub in folder.iterdir() if sub.is_dir() for entry in sub.iterdir())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in Image.registered_extensions() and path.is_file()


def _read_hub(name: str) -> datasets.DatasetDict:
    try:
        return datasets.load_dataset(name)
    except (ConnectionError, TimeoutError) as error:
        raise DataError(
            f'data = "{name}" is not a path on this machine, and the Hugging Face hub cannot be reached to '
            f"look for it there ({type(error).__name__}); go online once so that it is kept, or set data to "
            '"digits" or to a '
            f"local folder"
        ) from None
    except Exception as error:
        raise DataError(
            f'data = "{name}" is neither "digits" nor a path on this machine, and datasets.load_dataset '
            f"cannot read it from the Hugging Face hub ({type(error).__name__}); check the name"
        ) from None


@cache  # it is public and small, and read several times in a run
def _digits() -> datasets.Dataset:
    """Return scikit-learn's 1,797 handwritten digits, 8x8 grey; 0..16 becomes 0..255."""
    from sklearn.datasets import load_digits  # half a second, and only needed here

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in grey], "label": digits.target.tolist()},
        features=datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=[str(digit) for digit in range(10)])
        ),
    )
