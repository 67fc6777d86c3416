"""Uploads with anything changed in them: what is accepted is the honest upload, and the rest is not kept.

The path of a server: records are unpacked, the manifest and its certificate compared with what was agreed,
each shard checked and written, the upload checked as a whole.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.config import RunConfig
from fedpdiff.errors import FedpdiffError, MessageError
from fedpdiff.federation.agreement import Agreement, propose
from fedpdiff.federation.certificates import certificate_text, check_declared
from fedpdiff.federation.protocol import PhaseReport, ReleaseManifest, ShardManifest
from fedpdiff.federation.scores import PFDM_COLUMNS, from_metrics
from fedpdiff.federation.spool import Spool, check_manifest, rows_per_shard, shard_digest
from fedpdiff.privacy.certificate import make_certificate
from fedpdiff.privacy.gaussian_noise import SeededNoise
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.wire import encode
from fedpdiff.records import pack, unpack
from fedpdiff.types import LabelledImages, to_pixels
from tests.refusals.fuzzing import cases, mutated_text

pytestmark = pytest.mark.slow
HASH = "0123456789abcdef" * 4
NAMES = tuple("0123456789")
CONFIG = RunConfig.parse(
    {"epsilon": 10.0, "clip-rule": "fixed", "clip": 10.0, "centre": "none", "public-fraction": 0.2}
)


@pytest.fixture
def quick() -> None:
    """Nothing: no run is needed here."""


@dataclass(frozen=True)
class Honest:
    """An honest upload of 40 images, as it arrives in two messages."""

    agreement: Agreement
    release: RecordDict
    shard: RecordDict
    codes: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def honest() -> Honest:
    from tests.conftest import honest_facts

    rng = np.random.default_rng(1)
    pixels = to_pixels(_tensor(rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8))).numpy()
    labels = np.arange(40, dtype=np.int64) % 10
    agreement = propose(
        CONFIG, LabelledImages(_tensor(np.zeros((0, 1, 8, 8), np.uint8)), _tensor(labels[:0]))
    )
    mechanism = agreement.mechanism
    integers = release_integers(pixels, agreement.centre, mechanism.clip, mechanism.alpha_bar, SeededNoise(1))
    facts = honest_facts(agreement.request(CONFIG), integers, labels)
    manifest = ReleaseManifest(
        **mechanism.model_dump(),
        fingerprint=HASH,
        site="north",
        class_counts=[4] * 10,
        rows_per_shard=rows_per_shard(mechanism),
        shards=1,
        certificate=certificate_text(make_certificate(facts)),
    )
    codes = encode(integers, 8)
    shard = ShardManifest(site="north", shard=0, rows=40, sha256=shard_digest(codes, labels))
    return Honest(agreement, pack(manifest), pack(shard, {"codes": codes, "labels": labels}), codes, labels)


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


# -- the server ----------------------------------------------------------------------------------------------


def receive(honest: Honest, release: RecordDict, shard: RecordDict, root: Path) -> Spool:
    """Do with two messages what a server does; whatever is refused must have left no shard."""
    manifest, _, _ = unpack(release, ReleaseManifest)
    check_manifest(manifest, honest.agreement.mechanism, NAMES, HASH)
    check_declared(manifest, honest.agreement.request(CONFIG).settings())
    spool = Spool(root / "spool" / manifest.site, manifest)
    spool.create()
    try:
        described, arrays, _ = unpack(shard, ShardManifest, arrays=True)
        if described.shard != 0:
            raise MessageError("another shard")
        spool.accept(described, arrays)
    except FedpdiffError:
        assert not list(root.rglob("*shard*"))
        raise
    spool.finish()
    return spool


# -- what may arrive -----------------------------------------------------------------------------------------

values = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([0, 1, -1, 40, 41, 2**31, 2**62, 0.5, float("nan"), float("inf"), 1e308, 5e-324])
    | st.floats()
    | st.text(max_size=60)
    | st.binary(max_size=20)
    | st.lists(st.integers(-5, 2**62), max_size=12)
    | st.lists(st.text(max_size=5), max_size=4)
    | st.sampled_from(
        [HASH, "linear", "cosine", "secure", "seeded", "north", "../north", "a/b", "", "client-0"]
    )
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed_message(draw: st.DrawFn, content: RecordDict) -> None:
    """Change, drop or add a field of the message."""
    fields = dict(content["message"])
    key = draw(st.sampled_from([*sorted(fields), "shard"]) | st.text(max_size=12))
    if draw(st.booleans()) and key in fields:
        del fields[key]
    else:
        fields[key] = draw(values)
    content["message"] = ConfigRecord(fields)


@st.composite
def changed_certificate(draw: st.DrawFn, content: RecordDict) -> None:
    """Change a certificate somewhere inside, as JSON or as text."""
    fields = dict(content["message"])
    text = str(fields.get("certificate", ""))
    if draw(st.booleans()):
        fragments = st.text(max_size=6) | st.sampled_from(["{", "}", "[", '"', "1e999", "NaN", ",", ":", "0"])
        fields["certificate"] = draw(mutated_text(text, fragments))
    else:
        fields["certificate"] = json.dumps(draw(changed_tree(text)))
    content["message"] = ConfigRecord(fields)


@st.composite
def changed_tree(draw: st.DrawFn, text: str) -> Any:
    try:
        tree = place = json.loads(text)
    except (ValueError, RecursionError):
        return draw(json_values)
    while isinstance(place, dict) and place:
        key = draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or draw(st.booleans()):
            if draw(st.booleans()):
                place[key] = draw(json_values)
            else:
                del place[key]
            break
        place = place[key]
    return tree


@st.composite
def changed_array(draw: st.DrawFn, content: RecordDict) -> None:
    """Change what an array declares, or its bytes."""
    record = content.get("arrays")
    if not isinstance(record, ArrayRecord) or not record:
        return
    arrays = dict(record)
    name = draw(st.sampled_from(sorted(arrays)))
    array = arrays[name]
    dtype, shape, kind, data = array.dtype, tuple(array.shape), array.stype, array.data
    what = draw(st.integers(0, 6))
    if what == 0:
        dtype = draw(
            st.sampled_from(["uint8", "int64", "float32", "float64", "object", "|O", "V8", "", "<U1"])
        )
    elif what == 1:
        shape = draw(st.lists(st.integers(-2, 2**40), max_size=5).map(tuple))
    elif what == 2:
        kind = draw(st.sampled_from(["numpy.ndarray", "torch.tensor", ""]))
    elif what == 3:
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        data = data[:begin] + draw(st.binary(max_size=16)) + data[end:]
    elif what == 4:
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data = data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :]
    elif what == 5:
        made = draw(st.sampled_from([np.zeros(40, np.int64), np.zeros(2560, np.uint8), np.ones((40, 1))]))
        dtype, shape, kind, data = (made := Array(made)).dtype, tuple(made.shape), made.stype, made.data
    else:
        name = draw(st.text(max_size=8))
    arrays[name] = Array(dtype, shape, kind, data)
    content["arrays"] = ArrayRecord(arrays)


@st.composite
def changed_records(draw: st.DrawFn, content: RecordDict) -> None:
    """Drop, rename or add a record."""
    name = draw(st.sampled_from(sorted(content))) if content else "message"
    kept = content.pop(name, None)
    what = draw(st.integers(0, 3))
    if what == 0 and kept is not None:
        content[draw(st.sampled_from(["message", "arrays", "metrics", "refusal"]) | st.text(max_size=9))] = (
            kept
        )
    elif what == 1:
        content[name] = ConfigRecord(draw(st.dictionaries(st.text(max_size=8), values, max_size=3)))
    elif what == 2:
        content[name] = MetricRecord({"a": draw(st.integers(-9, 9) | st.floats())})


RELEASE: list[Callable[[RecordDict], st.SearchStrategy[None]]] = [
    changed_message, changed_certificate, changed_certificate, changed_records,
]  # fmt: skip
SHARD: list[Callable[[RecordDict], st.SearchStrategy[None]]] = [
    changed_message, changed_array, changed_array, changed_records,
]  # fmt: skip


@cases(2500)
@given(choices=st.data())
def test_what_is_accepted_is_the_honest_upload(honest: Honest, choices: st.DataObject) -> None:
    release, shard = copy.deepcopy(honest.release), copy.deepcopy(honest.shard)
    for content, ways in ((release, RELEASE), (shard, SHARD)):
        for _ in range(choices.draw(st.integers(0, 2))):
            way = choices.draw(st.sampled_from(ways))
            if "message" in content and isinstance(content["message"], ConfigRecord):
                choices.draw(way(content))
    with tempfile.TemporaryDirectory() as root:
        try:
            spool = receive(honest, release, shard, Path(root))
        except FedpdiffError as error:
            assert len(str(error)) < 10_000
            assert {path.name for path in Path(root).iterdir()} <= {"spool"}
            return
        values, labels = spool.read()
        assert (encode(np.round(values.numpy() * 4096).astype(np.int16), 8) == honest.codes).all()
        assert (labels.numpy() == honest.labels).all()
        assert spool.complete and spool.folder.parent == Path(root) / "spool"


def test_the_honest_upload_is_accepted(honest: Honest, tmp_path: Path) -> None:
    assert receive(honest, honest.release, honest.shard, tmp_path).complete


@cases(1000)
@given(
    fields=st.dictionaries(st.sampled_from(["site", "seconds", "gradient_steps", "x"]), values, max_size=4),
    metrics=st.dictionaries(
        st.text(max_size=10) | st.sampled_from(["minority/pfdm/frechet", "majority/local/recall"]),
        st.floats() | st.integers(-(2**63), 2**63 - 1) | st.lists(st.floats(), max_size=2),
        max_size=4,
    ),
)
def test_reports_with_anything_in_them(fields: dict[str, Any], metrics: dict[str, Any]) -> None:
    base = {"site": "north", "seconds": 1.0, "gradient_steps": 1}
    content = RecordDict({"message": ConfigRecord(base | fields), "metrics": MetricRecord(metrics)})
    try:
        _, _, numbers = unpack(content, PhaseReport, metrics=True)
        scores = from_metrics(numbers, PFDM_COLUMNS)
    except FedpdiffError as error:
        assert len(str(error)) < 3000
    else:
        assert sum(len(s.model_dump(exclude_none=True)) for g in scores.values() for s in g.values()) == len(
            metrics
        )
