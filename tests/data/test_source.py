"""Sources: what is found where, columns, and classes by name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from fedpdiff.data.classes import class_names
from fedpdiff.data.columns import find_columns
from fedpdiff.data.reading import read, read_local
from fedpdiff.data.source import load_site, load_source
from fedpdiff.errors import ConfigError, DataError


def test_digits_are_all_there_in_eight_bits(run_config):
    source = load_source(run_config())
    assert len(source.train) == 1797
    assert source.test is None
    assert source.class_names == tuple("0123456789")
    image = np.asarray(source.train[0]["image"])
    assert image.shape == (8, 8)
    assert image.dtype == np.uint8
    assert {0, 255} <= set(np.unique(np.stack([np.asarray(i) for i in source.train[:50]["image"]])))


def test_parquet_folder_with_its_own_column_names_and_splits(run_config, rgb_parquet):
    source = load_source(run_config(data=rgb_parquet, channels=3, image_size=32))
    assert (len(source.train), len(source.test)) == (90, 12)
    assert source.class_names == ("plane", "car", "bird")
    assert {"image", "label", "source_row", "camera"} == set(source.train.column_names)
    assert source.train.features["label"].names == ["plane", "car", "bird"]


def test_single_parquet_file_is_a_training_set(run_config, rgb_parquet):
    source = load_source(run_config(data=f"{rgb_parquet}/train-00000-of-00001.parquet", channels=3))
    assert len(source.train) == 90
    assert source.test is None


def test_parquet_without_the_librarys_metadata(run_config, rgb_parquet, tmp_path):
    import pyarrow.parquet as pq

    table = pq.read_table(f"{rgb_parquet}/train-00000-of-00001.parquet").replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "bare.parquet")
    source = load_source(run_config(data=str(tmp_path / "bare.parquet"), channels=3))
    assert source.class_names == ("0", "1", "2")
    assert source.train[0]["image"].size == (32, 32)


def test_image_folder_without_splits(run_config, image_folder):
    source = load_source(run_config(data=image_folder("pets", dog=3, cat=2)))
    assert source.class_names == ("cat", "dog")
    assert source.train["label"][:] == [0, 0, 1, 1, 1]


def test_image_folder_with_splits(run_config, image_folder):
    image_folder("pets/test", cat=2, dog=1)
    image_folder("pets/train", cat=3, dog=4)
    source = load_source(run_config(data=str(Path(image_folder("pets/unused")))[: -len("/unused")]))
    assert (len(source.train), len(source.test)) == (7, 3)


def test_a_class_called_test_is_a_class(run_config, image_folder):
    """The library alone would take this sub-folder for a split."""
    source = load_source(run_config(data=image_folder("exams", test=2, homework=3)))
    assert source.class_names == ("homework", "test")
    assert len(source.train) == 5
    assert source.test is None


def test_brackets_in_a_path_are_no_pattern(run_config, image_folder):
    assert len(load_source(run_config(data=image_folder("[a] b*", cat=2, dog=1))).train) == 3


def test_three_sites_with_different_subsets_number_their_classes_alike(run_config, image_folder):
    config = run_config(classes="dog, cat, horse")
    sites = {
        "one": image_folder("one", cat=2, dog=1),
        "two": image_folder("two", horse=3),
        "three": image_folder("three", horse=1, cat=1),
    }
    labels = {name: load_site(config, path).train["label"][:] for name, path in sites.items()}
    assert labels == {"one": [1, 1, 0], "two": [2, 2, 2], "three": [1, 2]}


def test_a_sites_classes_follow_the_runs_data_where_classes_is_not_set(run_config, image_folder):
    site = image_folder("site", **{"7": 1, "2": 1})
    assert sorted(load_site(run_config(), site).train["label"][:]) == [2, 7]


def test_unknown_classes_are_refused_by_name(run_config, image_folder):
    site = image_folder("zoo", cat=1, emu=1, yak=1)
    with pytest.raises(DataError, match=r"zoo.*classes that the run does not: emu, yak.*cat, dog"):
        load_site(run_config(classes="cat,dog"), site)


def test_text_and_number_labels_are_names(run_config, tmp_path):
    picture = Image.new("L", (8, 8))
    features = datasets.Features(
        image=datasets.Image(), species=datasets.Value("string"), age=datasets.Value("int64")
    )
    rows = {"image": [picture] * 3, "species": ["yak", "emu", "yak"], "age": [10, 9, 9]}
    path = tmp_path / "animals.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    source = load_source(run_config(data=str(path), label_column="species"))
    assert (source.class_names, source.train["label"][:]) == (("emu", "yak"), [1, 0, 1])
    source = load_source(run_config(data=str(path), label_column="age"))
    assert (source.class_names, source.train["label"][:]) == (("9", "10"), [1, 0, 0])
    source = load_source(run_config(data=str(path), label_column="age", classes="8,9,10"))
    assert source.train["label"][:] == [2, 1, 1]


def test_columns_that_cannot_be_found_are_listed(run_config):
    columns = {"photo": [1.0], "kind": [2.0]}
    data = datasets.Dataset.from_dict(columns)
    with pytest.raises(DataError, match=r"image-column.*photo \(float64\), kind \(float64\)"):
        find_columns(data, run_config())
    with pytest.raises(DataError, match=r'label-column = "kin" is not a column.*kind'):
        find_columns(data, run_config(image_column="photo", label_column="kin"))
    with pytest.raises(DataError, match=r'"kind" holds float64 values'):
        find_columns(data, run_config(image_column="photo", label_column="kind"))


def test_rows_without_a_label_are_refused(run_config, tmp_path):
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    rows = {"image": [Image.new("L", (8, 8))] * 2, "label": ["a", None]}
    path = tmp_path / "unlabelled.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    with pytest.raises(DataError, match=r"1 rows have no label"):
        load_source(run_config(data=str(path)))


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./here", "~/there", "a/b/c"])
def test_a_path_that_does_not_exist_names_the_setting(path):
    with pytest.raises(DataError, match=r'^data = ".*looks like a path, but nothing is there'):
        read(path)
    with pytest.raises(DataError, match=r'^data-path = ".*does not exist'):
        read_local(path, "data-path")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ConnectionError("no route"), r"the Hugging Face hub cannot be reached.*\(ConnectionError\)"),
        (FileNotFoundError("no such"), r'neither "digits" nor a path.*\(FileNotFoundError\)'),
    ],
)
def test_a_hub_failure_is_one_sentence(monkeypatch, failure, message):
    def fail(name: str) -> None:
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=message) as caught:
        read("someone/images")
    assert caught.value.__suppress_context__  # no traceback of the library
    assert "\n" not in str(caught.value)


def test_an_unreadable_folder_says_what_it_may_hold(tmp_path):
    (tmp_path / "notes.xyz").write_text("nothing")
    with pytest.raises(DataError, match=r"cannot be read .*one sub-folder of images per class"):
        read_local(str(tmp_path), "data-path")


def test_a_local_file_of_another_kind_is_not_sought_on_the_hub(tmp_path):
    (tmp_path / "images.mnist").write_text("nothing")
    with pytest.raises(DataError, match=r"another kind than .parquet"):
        read_local(str(tmp_path / "images.mnist"), "data-path")


def test_nothing_of_a_local_source_stays_on_disk(run_config, rgb_parquet, tmp_path, monkeypatch):
    """Neither in the temporary folder nor in the library's cache."""
    scratch, cache = tmp_path / "scratch", tmp_path / "cache"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    source = load_source(run_config(data=rgb_parquet, channels=3))
    assert os.listdir(scratch) == []
    assert not cache.exists()
    assert source.train.cache_files == []
    assert source.train[3]["image"].size == (32, 32)


def test_coloured_digits_are_half_red_half_green(run_config):
    config = run_config(data_transform="colorize", channels=3)
    source = load_source(config)
    assert source.class_names == class_names(config)
    assert source.class_names[0] == "red 0"
    assert source.class_names[19] == "green 9"
    plain = load_source(run_config()).train
    colours, labels = np.array(source.train["colour"][:]), np.array(source.train["label"][:])
    digits = np.array(plain["label"][:])
    np.testing.assert_array_equal(labels, 10 * colours + digits)
    for digit in range(10):
        red = int((colours[digits == digit] == 0).sum())
        assert red - int((colours[digits == digit] == 1).sum()) in (0, 1)
    assert labels.tolist() == load_source(config).train["label"][:]
    assert labels.tolist() != load_source(config.model_copy(update={"seed": 2})).train["label"][:]


def test_colours_need_three_channels(run_config):
    with pytest.raises(ConfigError, match="channels"):
        load_source(run_config().model_copy(update={"data_transform": "colorize"}))
