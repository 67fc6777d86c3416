from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.data.client import load_client
from fedpdiff.data.public import load_public
from fedpdiff.diffusion.denoiser import to_arrays
from fedpdiff.federation.agreement import propose
from fedpdiff.federation.networks import Trainer
from fedpdiff.federation.protocol import (
    Instruction,
    ReleaseInstruction,
    ReleaseManifest,
    ShardInstruction,
    ShardManifest,
)
from fedpdiff.federation.spool import Spool, check_manifest
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.metrics.feature_training import train_feature_network
from fedpdiff.records import pack, unpack
from fedpdiff.runfolder import RunFolder

DIGITS = [str(digit) for digit in range(10)]
PRIVATE = "a private detail"


class Client:
    """One client, and a server's instructions to it."""

    def __init__(self, ask: Callable[..., RecordDict], run: dict[str, Any], node: dict[str, Any]) -> None:
        self._ask = ask
        self.run, self.node = run, node
        self.config, self.node_config = RunConfig.parse(run), NodeConfig.parse(node)
        self.agreement = propose(self.config, load_public(self.config))
        self.data = load_client(self.config, self.node_config)

    def release(self, **changes: Any) -> RecordDict:
        fields = self.agreement.mechanism.model_dump() | self._code() | {"class_names": DIGITS} | changes
        content = pack(ReleaseInstruction.model_validate(fields), {"centre": self.agreement.centre})
        return self.ask(content, "train.release")

    def upload(self, shard: int = 0) -> RecordDict:
        return self.ask(pack(ShardInstruction(shard=shard, **self._code())), "train.upload")

    def personalize(self) -> RecordDict:
        return self.ask(pack(Instruction(**self._code())), "train.personalize")

    def sample(self) -> RecordDict:
        return self.ask(pack(Instruction(**self._code()), self.weights()), "evaluate.sample")

    def weights(self) -> dict[str, np.ndarray]:
        """Return an untrained global half and a feature network."""
        trainer = Trainer(self.config, self.agreement.mechanism, self.agreement.centre, tuple(DIGITS))
        half = to_arrays(trainer.empty_global_half())
        features = train_feature_network(self.data.test, 10, 1).to_arrays()
        weights = {f"global/{name}": array for name, array in half.items()}
        return weights | {f"features/{name}": array for name, array in features.items()}

    def all_actions(self) -> dict[str, RecordDict]:
        sent = {"release": self.release(), "upload": self.upload()}
        if self.node_config.simulated:
            self.spool(sent)
        return sent | {"personalize": self.personalize(), "sample": self.sample()}

    def spool(self, sent: dict[str, RecordDict]) -> Spool:
        """Do what the server does with a release and its one shard."""
        manifest, _, _ = unpack(sent["release"], ReleaseManifest)
        check_manifest(manifest, self.agreement.mechanism, tuple(DIGITS), code_fingerprint())
        spool = Spool(RunFolder.of(self.config, 0).spool(manifest.site), manifest)
        spool.create()
        spool.accept(*unpack(sent["upload"], ShardManifest, arrays=True)[:2])
        spool.finish()
        return spool

    def ask(self, content: RecordDict, message_type: str) -> RecordDict:
        return self._ask(content, message_type, self.run, self.node)

    def _code(self) -> dict[str, str]:
        return {"fingerprint": code_fingerprint()}

    @property
    def folder(self) -> Path:
        return Path(self.node.get("state-dir") or f"{self.run['run-dir']}/client-{self.node['partition-id']}")


@pytest.fixture
def make_client(
    ask: Any, settings: Any, site_folder: Any, site_policy: Any, tmp_path: Path
) -> Callable[..., Client]:
    def make(where: str, policy: dict[str, Any] | None = None, **changes: Any) -> Client:
        run = settings(**{"clip-rule": "fixed", "centre": "none", "epsilon": 50.0} | changes)
        node: dict[str, Any] = {"partition-id": 1, "num-partitions": 2}
        if where == "deployment":
            path = site_folder("north", range(10), 12)
            node = {"data-path": path, "state-dir": str(tmp_path / "state"), "site-name": "north"}
            node["policy"] = site_policy("north", **policy or {})
        return Client(ask, run, node)

    return make


@pytest.fixture(params=["simulation", "deployment"])
def client(request: pytest.FixtureRequest, make_client: Callable[..., Client]) -> Client:
    return make_client(request.param)
