"""Data folders that are refused, each in words that name the cause and neither show nor name an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.data.client import load_client
from fedpdiff.errors import DataError
from tests.refusals import folders
from tests.refusals.folders import TRACE, adds, encoded, links, load, only, only_file, picture, tabled


@dataclass(frozen=True)
class Refused:
    """A change to a folder with the classes cat (3 images) and dog (1), and the words of the error."""

    name: str
    change: folders.Change
    words: str


PHOTO = encoded(Image.effect_noise((64, 64), 90), "JPEG")
GREY = encoded(Image.effect_noise((64, 64), 90))
FLOATS = encoded(Image.new("F", (8, 8)), "TIFF")
LARGE = encoded(Image.new("I", (8, 8), 70_000), "TIFF")
POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
ELSEWHERE = "file_name,label\ncat/0.png,cat\n../elsewhere/cat/secret.png,cat\n"
NOWHERE = "file_name,label\ncat/0.png,cat\ncat/9.png,cat\n"
AT_AN_ADDRESS = {"bytes": None, "path": "http://127.0.0.1:9/1.png"}
NO_IMAGE = {"bytes": b"private", "path": None}

REFUSED = [
    Refused("a text called an image", adds("cat/z.png", "a private text"), "row 3 (from 0) is no image, or"),
    Refused("an empty file", adds("cat/z.png", b""), "the image in row 3 (from 0) is no image, or none of"),
    Refused("a JPEG cut short", adds("cat/z.jpg", PHOTO[: len(PHOTO) // 2]), "row 3 (from 0) cannot be"),
    Refused("a damaged PNG", adds("cat/z.png", GREY[:500] + b"?" + GREY[501:]), "row 3 (from 0) cannot be"),
    Refused("PostScript", adds("cat/z.eps", POSTSCRIPT), "is no image"),
    Refused("PostScript called a PNG", adds("cat/z.png", POSTSCRIPT), "is no"),
    Refused(
        "an image bomb", adds("cat/z.png", lambda: folders.png_of_zeros(2**15)), "more than 67,108,864 pixels"
    ),
    Refused(
        "a large image bomb",
        adds("cat/z.png", lambda: folders.png_of_zeros(2**13 + 8)),
        "more than 67,108,864",
    ),
    Refused("floating point", adds("cat/z.tiff", FLOATS), "has the mode F"),
    Refused("32-bit numbers", adds("cat/z.tiff", LARGE), "beyond 16"),
    Refused(
        "a class that the run has not", adds("emu/1.png", encoded(picture())), "does not: emu; the run's"
    ),
    Refused("a link to a file elsewhere", links("cat/z.png", "cat/secret.png"), "has 1 links that lead out"),
    Refused("a link to a folder elsewhere", links("emu", "cat"), "has 1 links that lead out of it or to a"),
    Refused("a link to nothing", links("cat/z.png", "nothing.png"), "has 1 links that lead out of it"),
    Refused("a link to everything", links("root", "/"), "has 1 links that lead out of it or to a folder"),
    Refused("an archive", folders.archive, "holds archives (.bin); unpack them or take them out"),
    Refused("a pipe", folders.pipe, "holds 1 entries that are neither files nor folders"),
    Refused(
        "metadata that names files elsewhere", adds("metadata.csv", ELSEWHERE), "names 1 images by paths"
    ),
    Refused("metadata that names no file", adds("metadata.csv", NOWHERE), "names 1 images by paths"),
    Refused(
        "a table that names files elsewhere",
        tabled(["elsewhere/cat/secret.png"], ["cat"]),
        "names 1 images by",
    ),
    Refused("a table that names an address", tabled([AT_AN_ADDRESS], ["cat"]), "names 1 images by"),
    Refused("a table of bytes that are no image", tabled([NO_IMAGE], ["cat"]), "row 0 (from 0) is no image"),
    Refused("a table without an image", tabled([None], ["cat"]), "the image in row 0 (from 0) is missing"),
    Refused("a table without a label", tabled([NO_IMAGE] * 2, ["cat", None]), "1 rows have no label"),
    Refused("labels between classes", tabled([NO_IMAGE], [0.5]), 'the label column "label" holds'),
    Refused("a table bomb", folders.squeezed_table, "at most 100 times its size is read"),
    Refused("a cut table", folders.cut_table, "cannot be read"),
    Refused("an empty table", only_file("train.parquet", b""), "cannot be read"),
    Refused("brackets called JSON", only_file("train.json", "[" * 10**5), "cannot be read"),
    Refused("a loading script alone", only_file("site.py", f"open('{TRACE}', 'w')"), "cannot be read"),
    Refused("nothing", only(), "cannot be read (EmptyDatasetError); it must be a parquet file or folder, or"),
    Refused("classes without images", only("cat", "dog"), "cannot be read (EmptyDatasetError)"),
    Refused("images without classes", folders.flat, "label-column is not set and no column looks right"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_folder_is_refused_with_its_cause(case: Refused, site: Path) -> None:
    case.change(site)
    with pytest.raises(DataError) as error:
        load(site)
    told = str(error.value)
    assert case.words in told
    assert "private" not in told and "secret" not in told  # neither what files hold nor how they are called
    assert len(told.splitlines()) == 1
    assert not Path(TRACE).exists()
    assert not list(site.parent.rglob("escaped*"))


@pytest.mark.parametrize("path", ["/nowhere", "/" + "x" * 5000, "/a" * 3000])
def test_a_path_that_cannot_be_one_is_refused_in_words(path: str) -> None:
    with pytest.raises(DataError, match=r"does not exist; give the absolute path"):
        load(Path(path))


@pytest.mark.parametrize("data", ["~a-user-that-is-not-there/x", "/" + "x" * 5000, "../../x", "C:\\images"])
def test_a_runs_path_that_cannot_be_one_is_refused_in_words(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "deeper")  # what lies beside the checkout is not known
    node = NodeConfig.parse({"partition-id": 0, "num-partitions": 2})
    with pytest.raises(DataError, match=r"^data = .*looks like a path, but nothing is there"):
        load_client(RunConfig.parse({"data": data}), node)
