"""Node config: a simulated client has a partition, a real one its own data, and nothing in between."""

from __future__ import annotations

import pytest

from fedpdiff.config import NodeConfig
from fedpdiff.errors import ConfigError

REAL = {"data-path": "/data", "state-dir": "/state", "policy": "/policy.toml", "site-name": "hospital-1"}
SEALED = {"outbox": "/outbox", "inbox": "/inbox", "site-name": "hospital-1"}


def test_a_simulated_client() -> None:
    node = NodeConfig.parse({"partition-id": 0, "num-partitions": 2})
    assert node.simulated
    assert NodeConfig.parse(node.flat()) == node


def test_a_real_client() -> None:
    node = NodeConfig.parse(REAL)
    assert not node.simulated and not node.sealed
    assert NodeConfig.parse(node.flat()) == node


def test_a_sealed_client() -> None:
    node = NodeConfig.parse(SEALED)
    assert node.sealed and not node.simulated
    assert NodeConfig.parse(node.flat()) == node


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, 'data-path = "": must be set for a real client'),
        ({"partition-id": 2, "num-partitions": 2}, "partition-id = 2: must be below num-partitions = 2"),
        ({"partition-id": "0", "num-partitions": 2}, 'partition-id = "0": must be a whole number'),
        ({**REAL, "site-name": ""}, "site-name = .*must be set together with data-path"),
        ({**REAL, "site-name": "../up"}, 'site-name = "../up": must be 1 to 64 letters'),
        ({**REAL, "state-dir": "state"}, 'state-dir = "state": must be an absolute path'),
        ({**REAL, "policy": ""}, 'policy = "": must be set together with data-path'),
        ({**SEALED, "data-path": "/data"}, 'data-path = "/data": must not be set together with outbox'),
        ({**SEALED, "policy": "/p.toml"}, 'policy = "/p.toml": must not be set together with outbox'),
        ({**SEALED, "inbox": ""}, 'inbox = "": must be set together with outbox'),
        ({**SEALED, "site-name": ""}, 'site-name = "": must be set together with outbox'),
        ({**REAL, "datapath": "/x"}, "datapath: unknown setting, did you mean data-path?"),
    ],
)
def test_mistakes_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NodeConfig.parse(settings)
