"""Ways to spoil what an honest client sends; each takes the reply and returns what is sent in its place."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedpdiff.federation.spool import shard_digest
from fedpdiff.privacy.gaussian_noise import SecureNoise
from fedpdiff.privacy.mechanism import release_integers
from fedpdiff.privacy.wire import encode

Spoil = Callable[[Message], Message]
Arrays = dict[str, np.ndarray]
PIXELS = 64  # of an 8x8 grey image


# -- records and fields --------------------------------------------------------------------------------------


def with_fields(**fields: Any) -> Spoil:
    """Change fields of the message; None takes one out."""

    def spoil(reply: Message) -> Message:
        changed = dict(reply.content["message"]) | fields
        reply.content["message"] = ConfigRecord({k: v for k, v in changed.items() if v is not None})
        return reply

    return spoil


def with_records(**records: Any) -> Spoil:
    """Add or replace records."""

    def spoil(reply: Message) -> Message:
        for name, record in records.items():
            reply.content[name] = record
        return reply

    return spoil


def only_records(**records: Any) -> Spoil:
    """Send these records and nothing else."""

    def spoil(reply: Message) -> Message:
        reply.content = RecordDict(records)
        return reply

    return spoil


def refusing(message: str, kind: str = "DataError") -> Spoil:
    return only_records(refusal=ConfigRecord({"kind": kind, "message": message}))


def scores(**metrics: Any) -> Spoil:
    return with_records(metrics=MetricRecord({key.replace("__", "/"): v for key, v in metrics.items()}))


def certificate(change: Callable[[str], str]) -> Spoil:
    def spoil(reply: Message) -> Message:
        return with_fields(certificate=change(str(reply.content["message"]["certificate"])))(reply)

    return spoil


# -- arrays -------------------------------------------------------------------------------------------------


def file(
    data: bytes | Callable[[bytes], bytes],
    dtype: str = "uint8",
    shape: tuple[int, ...] | None = None,
    kind: str = "numpy.ndarray",
) -> Spoil:
    """Send codes as a stranger would write them: dtype, shape, kind and bytes need not agree."""

    def spoil(reply: Message) -> Message:
        sent = dict(reply.content["arrays"])
        honest = sent["codes"]
        written = data(honest.data) if callable(data) else data
        sent["codes"] = Array(dtype, honest.shape if shape is None else shape, kind, written)
        reply.content["arrays"] = ArrayRecord(sent)
        return reply

    return spoil


def arrays(change: Callable[[Arrays], None]) -> Spoil:
    """Change codes and labels in place; the hash is that of what is sent, so that it cannot be the cause."""

    def spoil(reply: Message) -> Message:
        sent = {name: array.numpy().copy() for name, array in reply.content["arrays"].items()}
        change(sent)
        reply.content["arrays"] = ArrayRecord({name: Array(array) for name, array in sent.items()})
        if {"codes", "labels"} <= set(sent):
            with_fields(sha256=shard_digest(sent["codes"], sent["labels"]))(reply)
        return reply

    return spoil


def codes(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    return arrays(lambda sent: sent.update(codes=change(sent["codes"])))


def labels(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    return arrays(lambda sent: sent.update(labels=change(sent["labels"])))


def images(change: Callable[[np.ndarray], Any], rows: slice = slice(None)) -> Spoil:
    """Replace images: their codes, one row each, by a function of the codes of all images."""

    def spoil(sent: Arrays) -> None:
        seen = sent["codes"].reshape(-1, PIXELS)
        seen[rows] = change(seen)

    return arrays(spoil)


def first_pixel_grey(codes: np.ndarray) -> np.ndarray:
    """Return codes with the first pixel of every image at mid-grey."""
    return np.where(np.arange(len(codes)) % PIXELS == 0, 127, codes).astype(np.uint8)


def release_of(alpha_bar: float, pixels: Callable[[int], np.ndarray] | None = None) -> Spoil:
    """Send another release of as many images: with its own noise, that of ``alpha_bar``."""

    def change(sent: Arrays) -> None:
        count = len(sent["labels"])
        shown = np.random.default_rng(1).uniform(-1, 1, (count, 1, 8, 8)) if pixels is None else pixels(count)
        centre = np.zeros((1, 8, 8))
        integers = release_integers(shown.astype(np.float32), centre, 5.0, alpha_bar, SecureNoise())
        sent["codes"] = encode(integers, 8)

    return arrays(change)


def header(dtype: str, shape: tuple[int, ...], body: bytes = b"") -> bytes:
    """Return what ``numpy.save`` would write for an array that is not there."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + body


def zip_bomb() -> bytes:
    """Return a few kB that unpack to 64 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("codes.npy", header("|u1", (2**26,)) + bytes(2**26))
    return file.getvalue()


class Executed:
    """What a pickle would run when it is read: it leaves a file."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.trace, "w")


def pickled(trace: str) -> bytes:
    """Return an ``.npy`` file of one object, whose reading would leave ``trace``."""
    return header("|O", (1,), pickle.dumps(Executed(trace)))
