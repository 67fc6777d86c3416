"""What one client, and the pooled parts, hold."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from fedpdiff.config import NodeConfig
from fedpdiff.data import partition
from fedpdiff.data.classes import absent_classes, class_groups
from fedpdiff.data.client import load_client
from fedpdiff.data.public import load_all_private, load_public, load_test
from fedpdiff.errors import ConfigError, DataError


def _node(partition: int, number: int) -> NodeConfig:
    return NodeConfig.parse({"partition-id": partition, "num-partitions": number})


def test_simulated_clients_and_the_pooled_parts(run_config):
    config = run_config()
    clients = [load_client(config, _node(k, 2)) for k in range(2)]
    assert clients[0].majority == clients[1].minority == (0, 1, 2, 3, 4)
    assert clients[1].majority == clients[0].minority == (5, 6, 7, 8, 9)
    assert clients[0].class_names == tuple("0123456789")
    pooled = load_all_private(config)
    torch.testing.assert_close(pooled.images, torch.cat([client.train.images for client in clients]))
    torch.testing.assert_close(load_test(config).images, clients[0].test.images)
    assert len(pooled) + len(load_test(config)) + len(load_public(config)) == 1797


def test_a_worker_divides_once_for_all_its_clients_and_anew_for_another_run(run_config, monkeypatch):
    calls = []
    real = partition.divide
    monkeypatch.setattr(partition, "divide", lambda *given: calls.append(given) or real(*given))
    config, other = run_config(seed=71), run_config(seed=72)
    first = [load_client(config, _node(k, 2)).train.images for k in (0, 1, 0)]
    assert len(calls) == 1
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0][:50], first[1][:50])
    assert not torch.equal(load_client(other, _node(0, 2)).train.images[:50], first[0][:50])
    assert len(calls) == 2


def test_ten_rgb_clients_of_another_size(run_config, rgb_parquet):
    config = run_config(data=rgb_parquet, clients=10, partitioner="iid", channels=3, image_size=16)
    client = load_client(config, _node(9, 10))
    assert client.train.images.shape == (7, 3, 16, 16)
    assert len(client.test) == 12
    assert client.class_names == ("plane", "car", "bird")


def test_no_public_images_are_allowed(run_config):
    config = run_config(public_fraction=0.0, clip_rule="fixed", centre="none")
    assert load_public(config).images.shape == (0, 1, 8, 8)


def test_the_wrong_number_of_nodes_says_what_to_pass(run_config):
    with pytest.raises(ConfigError, match=r"--federation-config 'num-supernodes=2'.*clients=10"):
        load_client(run_config(), _node(0, 10))


def _site(folder: str) -> NodeConfig:
    return NodeConfig.parse(
        {"data-path": folder, "state-dir": "/tmp/state", "policy": "/p", "site-name": "a"}
    )


def test_a_deployed_site_reads_its_own_folder(run_config, image_folder):
    folder = image_folder("site", cat=10, dog=4)
    client = load_client(run_config(classes="cat,dog,emu"), _site(folder))
    assert client.train.counts(3) == [7, 3, 0]
    assert client.test.counts(3) == [3, 1, 0]
    assert (client.majority, client.minority) == ((0,), (1,))
    assert load_client(run_config(classes="cat,dog,emu", seed=9), _site(folder)).train.counts(3) == [7, 3, 0]


def test_a_deployed_sites_broken_file_names_the_site(run_config, image_folder):
    folder = image_folder("site", cat=3)
    with open(f"{folder}/cat/001.png", "wb") as file:
        file.write(b"no picture")
    with pytest.raises(DataError, match=r"^data-path = .*row 1 "):
        load_client(run_config(classes="cat"), _site(folder))


def test_groups_by_count():
    assert class_groups([10, 6, 5, 0]) == ((0, 1), (2,))
    assert class_groups([]) == ((), ())
    assert absent_classes([10, 6, 5, 0]) == (3,)


def test_with_no_minority_images_the_other_classes_are_absent(run_config):
    config = run_config(partitioner_settings="minority_images = 0")
    client = load_client(config, _node(0, 2))
    assert client.majority == (0, 1, 2, 3, 4)
    assert client.minority == ()
    assert client.absent == (5, 6, 7, 8, 9)
    assert load_client(run_config(), _node(0, 2)).absent == ()


def test_a_node_may_be_anything_with_these_attributes(run_config):
    node = SimpleNamespace(simulated=True, partition_id=1, num_partitions=2, data_path="")
    assert len(load_client(run_config(), node).train) > 0


@pytest.mark.skipif("FEDPDIFF_MNIST" not in os.environ, reason="FEDPDIFF_MNIST names no folder with MNIST")
def test_mnist_from_a_local_folder(run_config):
    config = run_config(data=os.environ["FEDPDIFF_MNIST"], max_images=2000, image_size=16)
    client = load_client(config, _node(0, 2))
    assert client.train.images.shape[1:] == (1, 16, 16)
    assert len(load_all_private(config)) == 2000
    assert len(client.test) == 10000
