"""Private, public, test and every client's images never share a row, whatever the partitioner."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpdiff.data.partition import BUILT_IN, divide
from fedpdiff.data.source import Source, load_source
from fedpdiff.data.splits import split_site, split_source, stratified
from fedpdiff.errors import DataError

SETTINGS = {
    "iid": "",
    "dirichlet": "alpha = 0.3",
    "pathological": "num_classes_per_partition = 2",
    "shard": "num_shards_per_partition = 2",
    "natural-id": 'partition_by = "writer"',
    "majority-minority": "minority_images = 8",
}


def _rows(dataset) -> set[int]:
    rows = dataset["source_row"][:]
    assert len(rows) == len(set(rows))
    return set(rows)


def _digits(run_config, writers: int = 4) -> Source:
    source = load_source(run_config())
    writer = np.arange(len(source.train)) % writers
    return Source(source.train.add_column("writer", writer), None, source.class_names)


def test_every_built_in_partitioner_is_tested():
    assert set(SETTINGS) == set(BUILT_IN)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("max_images", [0, 600])
def test_public_test_and_every_clients_images_are_disjoint(run_config, name, max_images):
    config = run_config(
        partitioner=name, partitioner_settings=SETTINGS[name], clients=4, max_images=max_images
    )
    source = _digits(run_config)
    splits = split_source(source, config)
    parts = {"public": _rows(splits.public), "test": _rows(splits.test)}
    parts |= {f"client {k}": _rows(part) for k, part in enumerate(divide(splits.private, config))}
    assert all(parts.values())
    for (one, rows), (other, others) in combinations(parts.items(), 2):
        assert not rows & others, f"{one} and {other} share rows"


def test_the_proof_would_notice_a_public_image_with_a_client(run_config):
    """The mutation that the test above must catch: public images that stay in the private part."""
    config = run_config(partitioner="iid", partitioner_settings="")
    source = _digits(run_config)
    public = _rows(split_source(source, config).public)
    leaky = split_source(source, config.model_copy(update={"public_fraction": 0.0}))
    assert any(public & _rows(part) for part in divide(leaky.private, config))


def test_a_sources_own_test_split_is_the_test_split(run_config, rgb_parquet):
    config = run_config(data=rgb_parquet, channels=3)
    splits = split_source(load_source(config), config)
    assert len(splits.test) == 12
    assert splits.test[0]["image"].tobytes() == load_source(config).test[0]["image"].tobytes()
    assert len(splits.public) == 18
    assert len(splits.private) == 72


def test_sizes_and_proportions(run_config):
    config = run_config(max_images=500)
    splits = split_source(load_source(config), config)
    assert len(splits.test) == round(0.3 * 1797)
    assert len(splits.public) == round(0.2 * (1797 - len(splits.test)))
    assert len(splits.private) == 500
    for part in (splits.test, splits.public, splits.private):
        shares = np.bincount(part["label"][:], minlength=10) / len(part)
        assert np.abs(shares - 0.1).max() < 0.01


def test_the_seed_decides_and_repeats(run_config):
    source = load_source(run_config())
    first, again, other = (split_source(source, run_config(seed=seed)) for seed in (1, 1, 2))
    assert first.private["source_row"][:] == again.private["source_row"][:]
    assert _rows(first.public) != _rows(other.public)


def test_nothing_left_for_the_clients_is_an_error(run_config):
    source = load_source(run_config())
    few = Source(source.train.select([0]), source.train.select([1]), source.class_names)
    with pytest.raises(DataError, match=r"no image is left for the clients.*public-fraction = 0.6"):
        split_source(few, run_config(public_fraction=0.6))


def test_a_site_holds_out_the_same_images_in_every_run(run_config):
    source = load_source(run_config())
    train, test = split_site(source, 0.3)
    assert not _rows(train) & _rows(test)
    assert _rows(train) | _rows(test) == set(range(1797))
    assert test["source_row"][:] == split_site(source, 0.3)[1]["source_row"][:]


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_stratified_draws_every_classs_share(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(labels))
    count = round(share * len(labels))
    taken, left = stratified(labels, rows, count, np.random.default_rng(seed))
    assert len(taken) == count
    assert sorted([*taken, *left]) == rows.tolist()
    for label, size in enumerate(counts):
        exact = size * count / max(len(labels), 1)
        assert abs((labels[taken] == label).sum() - exact) < 1 + 1e-9
