"""What a server must not accept from its clients: each of these is left out with its cause, the others go on.

One run of the whole ServerApp has two honest clients and every client of the table. (Clients that fail, stay
silent or come late, and the simplest lies: tests/apps/server/test_spoilers.py.)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from fedpdiff.config import RunConfig
from fedpdiff.results import Refusal, Results
from tests.apps.conftest import SMALL, FakeGrid, stand_in
from tests.refusals import spoiled as bad

pytestmark = pytest.mark.slow

NAN, INF = float("nan"), float("inf")
HONEST = 2
FIRST = slice(1)
TRACE = "/tmp/fedpdiff-a-pickle-was-executed"
FORGED = "no\n2026-01-01 INFO : client-9 \x1b[32mwas accepted\x1b[0m \u202etpecca\u200b"


@dataclass(frozen=True)
class Case:
    """A client that is honest but for one message, and the words that its refusal must hold."""

    name: str
    message: str
    spoil: bad.Spoil
    words: str

    @property
    def phase(self) -> str:
        return {"train.release": "upload", "train.upload": "upload", "train.personalize": "training"}.get(
            self.message, "sampling"
        )


def release(name: str, spoil: bad.Spoil, words: str) -> Case:
    return Case(name, "train.release", spoil, words)


def upload(name: str, spoil: bad.Spoil, words: str) -> Case:
    return Case(name, "train.upload", spoil, words)


def training(name: str, spoil: bad.Spoil, words: str) -> Case:
    return Case(name, "train.personalize", spoil, words)


def sampling(name: str, spoil: bad.Spoil, words: str) -> Case:
    return Case(name, "evaluate.sample", spoil, words)


MESSAGES = [
    release("a radius that is no number", bad.with_fields(clip=NAN), "clip: Input should be a finite number"),
    release("an infinite radius", bad.with_fields(clip=INF), "clip: Input should be a finite number"),
    release("a text for a number", bad.with_fields(t0="675"), "t0: Input should be a valid integer"),
    release("an unknown key", bad.with_fields(colour="red"), "colour: Extra inputs are not permitted"),
    release("a forged line as a key", bad.with_fields(**{FORGED: 1}), r"INFO : client-9 \x1b[32mwas"),
    release("a missing key", bad.with_fields(delta=None), "delta: Field required"),
    release("a name that climbs folders", bad.with_fields(site="../../evil"), "site: String should match"),
    release("an absolute path as a name", bad.with_fields(site="/etc/evil"), "site: String should match"),
    release("a name of two lines", bad.with_fields(site="a\nb"), "site: String should match"),
    release("a name that is too long", bad.with_fields(site="a" * 65), "site: String should match"),
    release("the number of another", bad.with_fields(number=0), "only client-0 may"),
    release("a record too many", bad.with_records(images=ConfigRecord({})), "holds the records ['images', "),
    release("a record of another kind", bad.only_records(message=MetricRecord({"t0": 1})), "a MetricRecord"),
    release("no record", bad.only_records(), "holds the records []"),
    release("a refusal with a forged line", bad.refusing(FORGED), r"no; 2026-01-01 INFO : client-9 \x1b[32m"),
    release("a refusal that writes backwards", bad.refusing("a\u202eb\u2066c"), r"a\u202eb\u2066c"),
    release("a refusal that is too long", bad.refusing("x" * 4001), "message: String should have at most"),
    release("a refusal of markup", bad.refusing("<script>alert(1)</script>"), "<script>alert(1)</script>"),
    release("other code", bad.with_fields(fingerprint="0" * 64), "runs other code (fingerprint 000000000000"),
]

MECHANISMS = [
    release("another radius", bad.with_fields(clip=11.0), "declares clip = 11.0, but"),
    release("another signal level", bad.with_fields(alpha_bar=0.5), "declares alpha_bar = 0.5, but"),
    release("another schedule", bad.with_fields(schedule="cosine"), "declares schedule = 'cosine', but"),
    release("another delta", bad.with_fields(delta=1e-3), "declares delta = 0.001, but"),
    release("noise that can be repeated", bad.with_fields(noise="seeded"), "declares noise = 'seeded', but"),
    release("fewer bits", bad.with_fields(wire_bits=2), "declares wire_bits = 2, but 8 was agreed"),
    release(
        "three channels", bad.with_fields(image_shape=[3, 8, 8]), "declares image_shape = [3, 8, 8], but"
    ),
    release("another size", bad.with_fields(image_shape=[1, 9, 9]), "declares image_shape = [1, 9, 9], but"),
    release("another number of classes", bad.with_fields(class_counts=[9] * 9), "must be 10 numbers"),
    release("negative counts", bad.with_fields(class_counts=[-1] * 10), "must be 10 numbers of at least 0"),
    release(
        "no images", bad.with_fields(class_counts=[0] * 10), "must be 10 numbers of at least 0, not all 0"
    ),
    release("counts beyond reason", bad.with_fields(class_counts=[2**62] * 10), "declares 1 shards of"),
    release("shards beyond reason", bad.with_fields(shards=2**62), f"declares {2**62} shards of"),
    release("other shards", bad.with_fields(rows_per_shard=1), "shards of 1 rows"),
    release("no certificate", bad.with_fields(certificate=""), "the certificate is no JSON"),
    release("a certificate that is no object", bad.with_fields(certificate="[]"), "is no JSON object"),
    release("a certificate of brackets", bad.with_fields(certificate="[" * 200_000), "no JSON, or damaged"),
    release("a certificate with NaN", bad.with_fields(certificate='{"clip": NaN}'), "NaN is not a finite"),
    release(
        "a certificate that is too long", bad.with_fields(certificate=" " * 2**19), "certificate: String"
    ),
    release(
        "a certificate of less epsilon",
        bad.certificate(lambda c: json.dumps(json.loads(c) | {"epsilon": 0.1})),
        "false certificate: epsilon is 0.1",
    ),
    release(
        "a certificate of other counts",
        bad.certificate(lambda c: json.dumps(json.loads(c) | {"class_counts": {"0": 1}})),
        "sends a false certificate",
    ),
]

ARRAYS = [
    upload("floating point codes", bad.codes(lambda c: c.astype(np.float32)), "codes are float32"),
    upload("codes of NaN", bad.codes(lambda c: np.full(len(c), NAN, np.float32)), "codes are float32"),
    upload("infinite codes", bad.codes(lambda c: np.full(len(c), INF, np.float32)), "codes are float32"),
    upload("codes of 64 bits", bad.codes(lambda c: c.astype(np.float64)), "of 'float64'; only"),
    upload("a tensor of another library", bad.file(bytes, kind="torch.tensor"), "is 'torch.tensor' of"),
    upload("a pickle", bad.file(bad.pickled(TRACE), "object", (1,)), "of 'object'; only"),
    upload("a pickle called numbers", bad.file(bad.pickled(TRACE), shape=(1,)), "not of the dtype and shape"),
    upload("a zip bomb", bad.file(bad.zip_bomb(), shape=(2**26,)), "not of the dtype and shape"),
    upload("no bytes", bad.file(b""), "not of the dtype and shape that it declares"),
    upload("a shape with nothing behind it", bad.file(bytes, shape=(2**40,)), "declares more than"),
    upload("a header of another shape", bad.file(bad.header("|u1", (9,), b"9" * 9)), "not of the dtype and"),
    upload("a header of another dtype", bad.file(bad.header("<f4", (1,), b"1234")), "not of the dtype and"),
    upload("a negative shape", bad.file(bytes, shape=(-1,)), "has an impossible shape"),
    upload("a cut file", bad.file(lambda data: data[:-1]), "not of the dtype and shape"),
    upload("a file with a tail", bad.file(lambda data: data + b"!"), "not of the dtype and shape"),
    upload("a truncated shard", bad.codes(lambda c: c[:-1]), "codes are uint8 of shape"),
    upload("an oversized shard", bad.codes(lambda c: np.tile(c, 2)), "codes are uint8 of shape"),
    upload("codes in rows", bad.codes(lambda c: c.reshape(-1, 64)), "codes are uint8 of shape"),
    upload("a code that no release has", bad.codes(lambda c: np.maximum(c, 255)), "the code 255"),
    upload("no labels", bad.arrays(lambda sent: sent.pop("labels")), "holds ['codes'], but must hold"),
    upload("an array too many", bad.arrays(lambda sent: sent.update(x=sent["codes"])), "must hold codes and"),
    upload("a class that is not there", bad.labels(lambda v: np.full_like(v, 10)), "from 0 to 9"),
    upload("a negative class", bad.labels(lambda v: v - 10), "from 0 to 9"),
    upload("labels of NaN", bad.labels(lambda v: np.full(len(v), NAN, np.float32)), "labels must be int64"),
    upload("labels of bytes", bad.labels(lambda v: v.astype(np.uint8)), "labels must be int64"),
    upload("too few labels", bad.labels(lambda v: v[:-1]), "labels must be int64"),
    upload("counts that disagree", bad.labels(np.zeros_like), "declares class_counts ="),
    upload("labels in another order", bad.labels(lambda v: np.sort(v)[::-1].copy()), "sent other bytes than"),
    upload("a wrong hash", bad.with_fields(sha256="f" * 64), "do not have the declared SHA-256"),
    upload("other rows", bad.with_fields(rows=1), "and 1 rows, but"),
    upload("another's shard", bad.with_fields(site="client-0"), "declares site 'client-0'"),
    upload("another shard", bad.with_fields(shard=7), "shard 0 was asked for, not 7"),
]

NOISE = [
    upload("too little noise", bad.release_of(0.9), "less noise"),
    upload("hardly any noise", bad.release_of(0.9999), "less noise"),
    upload("half the noise", bad.images(lambda seen: seen // 2 + 63), "less noise"),
    upload("constant images", bad.images(lambda seen: 127), "the same noisy image twice"),
    upload("one image for all", bad.images(lambda seen: seen[:1]), "the same noisy image twice"),
    upload("one image twice", bad.images(lambda seen: seen[1:2], FIRST), "the same noisy image twice"),
    upload("one noise twice", bad.images(lambda seen: seen[1:2] ^ 1, FIRST), "noise between two images"),
    upload("one image without noise", bad.images(lambda seen: np.arange(96, 160), FIRST), "in one image"),
    upload("one pixel without noise", bad.codes(bad.first_pixel_grey), "less noise at one pixel"),
    upload("another release, honestly noised", bad.release_of(0.01), "other bytes than its certificate"),
]

REPORTS = [
    training("a time that is no number", bad.with_fields(seconds=NAN), "seconds: Input should be a finite"),
    training(
        "a time before the beginning", bad.with_fields(seconds=-1.0), "seconds: Input should be greater"
    ),
    training(
        "a personal model", bad.with_records(arrays=ArrayRecord({"w": Array(np.zeros(3))})), "['arrays', "
    ),
    sampling(
        "a score that is no number", bad.scores(minority__pfdm__accuracy=NAN), "must be a finite number"
    ),
    sampling("an infinite score", bad.scores(minority__pfdm__frechet=INF), "must be a finite number"),
    sampling("a list of scores", bad.scores(minority__pfdm__frechet=[1.0]), "must be a finite number"),
    sampling("a negative distance", bad.scores(minority__pfdm__frechet=-1.0), "minority/pfdm/frechet: Input"),
    sampling(
        "a score of a forged name", bad.scores(**{f"minority__pfdm__{FORGED}": 1.0}), "minority/pfdm/no"
    ),
    sampling("a flood of scores", bad.scores(**{f"score-{n}": 1.0 for n in range(1000)}), "there are 1"),
]

CASES = [*MESSAGES, *MECHANISMS, *ARRAYS, *NOISE, *REPORTS]


@dataclass(frozen=True)
class Finished:
    """A run that is over: its folder, its results and the lines it logged."""

    folder: Path
    results: Results
    lines: list[str]

    def refusal(self, case: Case) -> Refusal:
        number = CASES.index(case) + HONEST
        (found,) = [r for r in self.results.refused if r.site in (f"client-{number}", f"node {100 + number}")]
        return found


def behaviour(case: Case, number: int) -> Any:
    """Return how a client behaves: as the third simulated client under another name, but for one message."""

    def behave(message: Message, reply: Message) -> Message:
        kind = message.metadata.message_type
        who = {"site": f"client-{number}"} | ({"number": number} if kind == "train.release" else {})
        bad.with_fields(**who)(reply)
        return case.spoil(reply) if kind == case.message else reply

    return behave


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Run the ServerApp once, to its end, with all clients."""
    folder = tmp_path_factory.mktemp("refusals")
    changes = {"run-dir": str(folder / "run"), "clients": 3, "max-images": 150, "centralised": False}
    config = RunConfig.parse(SMALL | changes | {"partitioner": "iid"}).flat()
    nodes = {
        100 + number: {"partition-id": min(number, HONEST), "num-partitions": 3}
        for number in range(HONEST + len(CASES))
    }
    grid = FakeGrid(config, nodes)
    grid.behaviour = {
        100 + number: behaviour(case, number) for number, case in enumerate(CASES, start=HONEST)
    }
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("flwr")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(folder, patch)
        log.addHandler(handler)
        results = grid.run_app()
        log.removeHandler(handler)
    yield Finished(folder / "run", results, lines)


@pytest.fixture
def quick() -> None:
    """Nothing: the one run has its own stand-ins."""


def test_the_corpus_is_large() -> None:
    assert len(CASES) == len({case.name for case in CASES}) >= 80


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_client_is_left_out_with_its_cause(case: Case, finished: Finished) -> None:
    told = finished.refusal(case)
    assert told.phase == case.phase, told
    assert case.words in told.reason, told
    assert told.reason.isprintable() and len(told.reason) <= 1000
    number = CASES.index(case) + HONEST
    kept = list((finished.folder / "server" / "spool" / f"client-{number}").glob("shard*"))
    if case.message == "train.release" or "client-" not in told.site:
        assert kept == []


def test_the_others_go_on_and_nothing_of_theirs_is_lost(finished: Finished) -> None:
    results = finished.results
    assert results.participants == ["client-0", "client-1"]
    assert [c.site for c in results.certificates if c.site in results.participants] == results.participants
    assert all(c.verified for c in results.certificates if c.site in results.participants)
    for number in range(HONEST):
        assert list((finished.folder / "server" / "spool" / f"client-{number}").glob("shard*"))
        assert (finished.folder / f"client-{number}" / "state" / "personal" / "denoiser.json").is_file()
    assert len(results.refused) == len(CASES)
    assert not Path(TRACE).exists()
    assert not list(finished.folder.parent.rglob("evil*"))


def test_results_page_file_and_console_say_who_was_refused_and_why(finished: Finished) -> None:
    listed = json.loads((finished.folder / "participants.json").read_text())
    assert listed["participants"] == finished.results.participants
    assert listed["refused"] == [r.model_dump() for r in finished.results.refused]
    page = (finished.folder / "report.html").read_text()
    table = (finished.folder / "results.md").read_text()
    assert "Took part: client-0, client-1." in page and "Took part: client-0, client-1." in table
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    console = "\n".join(finished.lines)
    for refused in finished.results.refused:
        assert f"Left out: {refused.site} in {refused.phase}: {refused.reason}" in table
        assert f"{refused.site} is left out of {refused.phase}: {refused.reason}" in console
        assert f"<strong>{refused.site}</strong>, in {refused.phase}: " in page
    for text in (page, table, console):
        assert not {c for c in text if not c.isprintable()} - {"\n"}
        assert not [line for line in text.splitlines() if line.startswith("2026-01-01 INFO")]
