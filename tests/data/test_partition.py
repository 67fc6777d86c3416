"""Partitioners: by name with keywords, ours, a user's own file, and what their errors say."""

from __future__ import annotations

import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from fedpdiff.data.majority_minority import MajorityMinorityPartitioner
from fedpdiff.data.partition import divide, make_partitioner
from fedpdiff.data.source import load_source
from fedpdiff.data.splits import split_source
from fedpdiff.errors import ConfigError, DataError

EXAMPLES = Path(__file__).parents[2] / "simulations" / "partitioners"


@pytest.fixture(scope="module")
def private():
    from fedpdiff.config import RunConfig

    config = RunConfig.parse({})
    return split_source(load_source(config), config).private


def _counts(parts) -> np.ndarray:
    return np.array([np.bincount(part["label"][:], minlength=10) for part in parts])


def test_majority_minority_for_two_clients(run_config, private):
    counts = _counts(divide(private, run_config()))
    assert (counts[0, 5:] == 8).all()
    assert (counts[1, :5] == 8).all()
    np.testing.assert_array_equal(counts.sum(axis=0), np.bincount(private["label"][:]))


@pytest.mark.parametrize("clients", [1, 3, 4, 10])
def test_majority_minority_owners_follow_the_formula(run_config, private, clients):
    config = run_config(clients=clients, partitioner_settings="minority_images = 2, majority_images = 30")
    counts = _counts(divide(private, config))
    for label in range(10):
        owner = label * clients // 10
        expected = [30 if client == owner else 2 for client in range(clients)]
        assert counts[:, label].tolist() == expected


@pytest.mark.parametrize("clients", [2, 4, 32])
def test_clusters_share_their_classes_and_all_images_are_divided(run_config, private, clients):
    config = run_config(clients=clients, partitioner_settings="minority_images = 2, clusters = 2")
    parts = divide(private, config)
    counts, half = _counts(parts), clients // 2
    assert (counts[:half, 5:] == 2).all() and (counts[half:, :5] == 2).all()
    for own in (counts[:half, :5], counts[half:, 5:]):
        assert (own > 2).all() and (own.max(axis=0) - own.min(axis=0) <= 1).all()
    rows = np.concatenate([part["source_row"][:] for part in parts])
    assert sorted(rows) == sorted(private["source_row"][:])


def test_majority_minority_refuses_what_cannot_be(run_config, private):
    for clusters, clients, message in (
        (3, 2, "clusters = 3 must be at most clients = 2"),
        (-1, 2, "clusters = -1"),
    ):
        with pytest.raises(DataError, match=message):
            make_partitioner(run_config(clients=clients, partitioner_settings=f"clusters = {clusters}"))
    with pytest.raises(DataError, match="too few for 2 at each of 32 clients"):
        divide(private, run_config(clients=64, partitioner_settings="minority_images = 2, clusters = 2"))
    with pytest.raises(DataError, match=r"clients = 11 must be at most the number of classes, 10"):
        divide(private, run_config(clients=11))
    settings = "minority_images = 60"
    with pytest.raises(DataError, match=r'the class "0" has \d+ images.*too few for 60.*minority_images'):
        divide(private, run_config(partitioner_settings=settings))
    with pytest.raises(DataError, match=r"minority_images = -1 must be"):
        make_partitioner(run_config(partitioner_settings="minority_images = -1"))


def test_majority_minority_leaves_absent_classes_absent():
    features = datasets.Features(label=datasets.ClassLabel(names=["a", "b", "c"]))
    data = datasets.Dataset.from_dict({"label": [0] * 5 + [2] * 5}, features=features)
    partitioner = MajorityMinorityPartitioner(2, minority_images=1)
    partitioner.dataset = data
    assert [partitioner.load_partition(k)["label"][:] for k in range(2)] == [[0, 0, 0, 0, 2], [0, 2, 2, 2, 2]]


def test_the_seed_repeats_and_decides(run_config, private):
    for name in ("dirichlet", "majority-minority", "pathological"):
        rows = []
        for seed in (1, 1, 2):
            parts = divide(private, run_config(partitioner=name, seed=seed))
            rows.append([sorted(part["source_row"][:]) for part in parts])
        assert rows[0] == rows[1] != rows[2]


def test_iid_parts_are_alike(run_config, private):
    """Contiguous parts of the private images, which come in random order: no client lacks a class."""
    assert _counts(divide(private, run_config(partitioner="iid", clients=5))).min() > 5


def test_ten_clients_by_dirichlet(run_config, private):
    parts = divide(private, run_config(partitioner="dirichlet", clients=10))
    assert len(parts) == 10
    assert sum(len(part) for part in parts) == len(private)


def test_natural_ids_need_their_column_and_their_number(run_config, private):
    def config(**changes):
        return run_config(partitioner="natural-id", **changes)

    with pytest.raises(ConfigError, match="needs partition_by"):
        divide(private, config())
    with pytest.raises(DataError, match=r'partition_by = "writer" is not a column of the data; it has: '):
        divide(private, config(partitioner_settings='partition_by = "writer"'))
    named = private.add_column("writer", np.arange(len(private)) % 3)
    by_writer = 'partition_by = "writer"'
    with pytest.raises(DataError, match=r"makes 3 partitions of this data, but clients = 2; set clients = 3"):
        divide(named, config(partitioner_settings=by_writer))
    parts = divide(named, config(partitioner_settings=by_writer, clients=3))
    assert [set(part["writer"][:]) for part in parts] == [{0}, {1}, {2}]


def test_unknown_keywords_are_refused_with_the_known_ones(run_config):
    config = run_config(partitioner="dirichlet", partitioner_settings="alfa = 1")
    with pytest.raises(ConfigError, match=r"does not take alfa; it takes: partition_by, alpha, min_part"):
        make_partitioner(config)
    config = run_config(partitioner="dirichlet", partitioner_settings="num_partitions = 3")
    with pytest.raises(ConfigError, match=r"does not take num_partitions.*clients is the number"):
        make_partitioner(config)
    with pytest.raises(ConfigError, match=r"does not take minority_images; it takes: nothing"):
        make_partitioner(run_config(partitioner="iid", partitioner_settings="minority_images = 8"))


def test_what_a_partitioner_refuses_is_reported_with_a_hint(run_config, private):
    with pytest.raises(ConfigError, match=r'"dirichlet" refuses partitioner-settings = "alpha = -1.0"'):
        divide(private, run_config(partitioner="dirichlet", partitioner_settings="alpha = -1.0"))
    settings = "alpha = 0.01, min_partition_size = 100"
    config = run_config(partitioner="dirichlet", partitioner_settings=settings, clients=10)
    with pytest.warns(UserWarning), pytest.raises(DataError, match=r"among 10 clients: .*alpha.*\(change"):
        divide(private, config)


def test_the_documented_example_is_loaded_from_its_folder(run_config, private):
    config = run_config(
        partitioner="by_ink:ByInk",
        partitioner_path=str(EXAMPLES),
        partitioner_settings="mixing = 0.1",
        clients=3,
    )
    before = list(sys.path)
    parts = divide(private, config)
    ink = [np.mean([np.asarray(image).mean() for image in part["image"]]) for part in parts]
    assert ink == sorted(ink)
    assert sum(len(part) for part in parts) == len(private)
    assert sys.path == before
    assert "by_ink" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"Mine is no subclass of .*it has: none"),
        ("raise OSError('no scanner')", r"importing the module mine fails with OSError: no scanner"),
        (
            "from flwr_datasets.partitioner import Partitioner\nclass Yours(Partitioner): pass",
            r"it has: Yours$",
        ),
    ],
)
def test_a_wrong_file_of_ones_own(run_config, private, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        divide(private, run_config(partitioner="mine:Mine", partitioner_path=str(tmp_path)))


def test_a_missing_file_of_ones_own(run_config, private, tmp_path):
    with pytest.raises(ConfigError, match=r"partitioner-path = .* has no file sub/mine.py"):
        divide(private, run_config(partitioner="sub.mine:Mine", partitioner_path=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"importing the module nowhere_at_all fails with ModuleNotFound"):
        divide(private, run_config(partitioner="nowhere_at_all:Mine"))


OWN = """
from flwr_datasets.partitioner import Partitioner
class Mine(Partitioner):
    def __init__(self, num_partitions, rows=3):
        super().__init__()
        self.rows = rows
    num_partitions = 2
    def load_partition(self, partition_id):
        return self.dataset.select(range(self.rows))
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [("rows = 0", "gives client 0 no images"), ("", "hands out 3 images more than once")],
)
def test_empty_and_overlapping_partitions_are_refused(run_config, private, tmp_path, settings, message):
    (tmp_path / "mine.py").write_text(OWN)
    config = run_config(
        partitioner="mine:Mine", partitioner_path=str(tmp_path), partitioner_settings=settings
    )
    with pytest.raises(DataError, match=message):
        divide(private, config)


def test_the_documented_example_is_the_file():
    page = (EXAMPLES.parents[1] / "docs" / "data.md").read_text()
    assert f"```python\n{(EXAMPLES / 'by_ink.py').read_text()}```" in page


def test_the_documented_numbers(run_config, private):
    folder = str(EXAMPLES)
    config = run_config(
        clients=3,
        partitioner="by_ink:ByInk",
        partitioner_path=folder,
        partitioner_settings="mixing = 0.1",
    )
    parts = divide(private, config)
    ink = [round(float(np.mean([np.asarray(image).mean() for image in part["image"]])), 1) for part in parts]
    assert [len(part) for part in parts] == [336, 335, 335]
    assert ink == [68.8, 77.3, 86.8]
