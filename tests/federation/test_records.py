"""Messages as Flower records: there and back unchanged, and everything else refused with one exception."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpdiff.errors import MessageError
from fedpdiff.federation.protocol import (
    LONGEST_CERTIFICATE,
    Instruction,
    PhaseReport,
    Refusal,
    ReleaseInstruction,
    ReleaseManifest,
    ShardInstruction,
    ShardManifest,
)
from fedpdiff.records import pack, pack_refusal, unpack

HASH = "0123456789abcdef" * 4
MECHANISM = {
    "t0": 675,
    "alpha_bar": 0.01,
    "schedule": "linear",
    "diffusion_steps": 1000,
    "clip": 10.0,
    "delta": 1e-5,
    "noise": "secure",
    "wire_bits": 8,
    "image_shape": [1, 8, 8],
}
MESSAGES = [
    Instruction(fingerprint=HASH),
    ShardInstruction(fingerprint=HASH, shard=3),
    ReleaseInstruction.model_validate(MECHANISM | {"fingerprint": HASH, "class_names": ["cat", "dog"]}),
    ReleaseManifest.model_validate(
        MECHANISM
        | {"fingerprint": HASH, "site": "a", "class_counts": [3, 0, 2], "rows_per_shard": 4, "shards": 2}
        | {"certificate": '{"epsilon": 8.774, "unit": "one image"}\n'}
    ),
    ReleaseManifest.model_validate(
        MECHANISM
        | {"fingerprint": HASH, "site": "client-0", "number": 0, "class_counts": [9]}
        | {"rows_per_shard": 16, "shards": 1, "certificate": ""}
    ),
    ShardManifest(site="site-a", shard=0, rows=4, sha256=HASH),
    PhaseReport(site="site_b.2", seconds=1.5, gradient_steps=10),
]
ARRAYS = {
    "codes": np.arange(6, dtype=np.uint8),
    "labels": np.array([1, -2], np.int64),
    "weights": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
npy = Array(np.zeros((2, 3), np.float32)).data


def with_array(array: Array) -> RecordDict:
    content = pack(MESSAGES[0], {})
    content["arrays"] = ArrayRecord({"x": array})
    return content


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_survives(message: Any) -> None:
    arrived, arrays, metrics = unpack(pack(message), type(message))
    assert (arrived, arrays, metrics) == (message, {}, {})


def test_arrays_and_metrics_survive() -> None:
    content = pack(MESSAGES[5], ARRAYS, {"minority/pfdm/frechet": 2.5})
    message, arrays, metrics = unpack(content, ShardManifest, arrays=True, metrics=True)
    assert message == MESSAGES[5]
    assert metrics == {"minority/pfdm/frechet": 2.5}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype and array.flags.writeable
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


def test_arrays_that_are_not_contiguous_survive() -> None:
    transposed = ARRAYS["weights"].T
    _, arrays, _ = unpack(pack(MESSAGES[0], {"w": transposed}), Instruction, arrays=True)
    np.testing.assert_array_equal(arrays["w"], transposed)


def test_metrics_may_be_missing() -> None:
    assert unpack(pack(MESSAGES[6]), PhaseReport, metrics=True)[2] == {}


def test_a_refusal_is_raised_in_its_own_words() -> None:
    refusal = pack_refusal(Refusal(kind="DataError", message="no images"))
    with pytest.raises(MessageError, match="DataError: no images"):
        unpack(refusal, PhaseReport)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "../evil"}, "site"),
        ({"site": "a\n"}, "site"),
        ({"site": ""}, "site"),
        ({"site": "a" * 65}, "site"),
        ({"number": -1}, "number"),
        ({"t0": 0}, "t0"),
        ({"t0": 675.0}, "t0"),
        ({"t0": True}, "t0"),
        ({"t0": "675"}, "t0"),
        ({"alpha_bar": 1.0}, "alpha_bar"),
        ({"alpha_bar": float("nan")}, "alpha_bar"),
        ({"clip": float("inf")}, "clip"),
        ({"schedule": "quadratic"}, "schedule"),
        ({"noise": "none"}, "noise"),
        ({"wire_bits": 7}, "wire_bits"),
        ({"image_shape": [8, 8]}, "image_shape"),
        ({"class_counts": []}, "class_counts"),
        ({"fingerprint": HASH[:-1]}, "fingerprint"),
        ({"images": b"pixels"}, "images"),
        ({"certificate": ["8.774"]}, "certificate"),
        ({"certificate": " " * (LONGEST_CERTIFICATE + 1)}, "certificate"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], message: str) -> None:
    fields = dict(pack(MESSAGES[3])["message"]) | change
    with pytest.raises(MessageError, match=rf"ReleaseManifest: {message}"):
        unpack(RecordDict({"message": ConfigRecord(fields)}), ReleaseManifest)


@pytest.mark.parametrize("field", ["fingerprint", "site", "t0", "class_counts", "certificate"])
def test_missing_fields_are_named(field: str) -> None:
    fields = dict(pack(MESSAGES[3])["message"])
    del fields[field]
    with pytest.raises(MessageError, match=field):
        unpack(RecordDict({"message": ConfigRecord(fields)}), ReleaseManifest)


def test_oversized_text_is_refused() -> None:
    for fields in ({"kind": "x" * 65, "message": ""}, {"kind": "x", "message": "y" * 4001}):
        with pytest.raises(MessageError) as raised:
            unpack(RecordDict({"refusal": ConfigRecord(fields)}), PhaseReport)
        assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({}),
        RecordDict({"Message": pack(MESSAGES[6])["message"]}),
        RecordDict({**pack(MESSAGES[6]), "images": ConfigRecord({})}),
        RecordDict({**pack(MESSAGES[6]), "refusal": ConfigRecord({"kind": "x", "message": "y"})}),
        RecordDict({**pack(MESSAGES[6]), "metrics": MetricRecord({"a": 1})}),
        pack(MESSAGES[6], {"weights": ARRAYS["weights"]}),
        RecordDict({"message": MetricRecord({"seconds": 1.0})}),
        RecordDict({"refusal": MetricRecord({"seconds": 1.0})}),
    ],
)
def test_other_records_are_refused(content: RecordDict) -> None:
    with pytest.raises(MessageError):
        unpack(content, PhaseReport)


def test_arrays_must_come_when_expected() -> None:
    with pytest.raises(MessageError, match="must hold"):
        unpack(pack(MESSAGES[5]), ShardManifest, arrays=True)
    wrong = RecordDict({**pack(MESSAGES[5]), "arrays": MetricRecord({"a": 1})})
    with pytest.raises(MessageError, match="not an ArrayRecord"):
        unpack(wrong, ShardManifest, arrays=True)


@pytest.mark.parametrize(
    "array",
    [
        Array(np.zeros(3, np.float64)),
        Array(np.zeros(3, np.int32)),
        Array(np.array(["text"])),
        Array("float32", (2, 3), "torch.tensor", npy),
        Array("float32", (3, 2), "numpy.ndarray", npy),
        Array("int64", (2, 3), "numpy.ndarray", npy),
        Array("float32", (2, 3), "numpy.ndarray", npy[:-1]),
        Array("float32", (2, 3), "numpy.ndarray", npy + b"\0"),
        Array("float32", (2, 3), "numpy.ndarray", b""),
        Array("float32", (10**12,), "numpy.ndarray", b"\x93NUMPY\x01\x00" + b"\0" * 120),
        Array("float32", (-2, -3), "numpy.ndarray", npy),
        Array("float32", (0, 2**31 - 1, 2**31 - 1, 2**31 - 1), "numpy.ndarray", npy),
        Array("float32", (0, 2**70), "numpy.ndarray", npy),
        Array("float32", (1,) * 30_000, "numpy.ndarray", npy),
        Array("float32", (2, 3), "numpy.ndarray", b"PK\x03\x04 a zip file"),
        Array("float32", (2, 3), "numpy.ndarray", b"\x80\x04cos\nsystem\n"),
        Array("float32", (2, 3), "numpy.ndarray", npy.replace(b"'shape': (2, 3)", b"'shape': (((((")),
        Array("float32", (2, 3), "numpy.ndarray", npy.replace(b"False", b"True ")),
    ],
)
def test_arrays_that_are_not_what_they_declare_are_refused(array: Array) -> None:
    with pytest.raises(MessageError, match="array 'x'"):
        unpack(with_array(array), Instruction, arrays=True)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), [1.0, 2.0], 10**400], ids=lambda v: str(v)[:8]
)
def test_metrics_that_are_no_finite_numbers_are_refused(value: Any) -> None:
    content = RecordDict({**pack(MESSAGES[6]), "metrics": MetricRecord({"minority/pfdm/frechet": value})})
    with pytest.raises(MessageError, match="finite number"):
        unpack(content, PhaseReport, metrics=True)


# -- any record dict whatever --------------------------------------------------------------------------------

FIELDS = sorted({name for message in MESSAGES for name in type(message).model_fields} | {"kind", "message"})
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=80)
    | st.binary(max_size=20)
    | st.lists(st.integers(-5, 2000), max_size=4)
    | st.lists(st.text(max_size=5), max_size=4)
    | st.sampled_from([HASH, "linear", "secure", "site-a", "fedpdiff/1"])
)
config_records = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=10), scalars, max_size=16).map(
    ConfigRecord
)
metric_records = st.dictionaries(
    st.text(max_size=10), st.integers() | st.floats() | st.lists(st.floats(), max_size=3), max_size=3
).map(MetricRecord)
arrays = st.builds(
    Array,
    st.sampled_from(["uint8", "int64", "float32", "float64", "object", ""]),
    st.lists(st.integers(-2, 2**40), max_size=5).map(tuple),
    st.sampled_from(["numpy.ndarray", "torch.tensor", ""]),
    st.binary(max_size=200) | st.sampled_from([npy, npy[:100], b"PK\x03\x04", b"\x93NUMPY\x03\x00"]),
)
array_records = st.dictionaries(st.text(max_size=10), arrays, max_size=3).map(ArrayRecord)
record_dicts = st.dictionaries(
    st.sampled_from(["message", "arrays", "metrics", "refusal"]) | st.text(max_size=10),
    config_records | metric_records | array_records,
    max_size=4,
).map(RecordDict)
nearly_right = st.builds(
    lambda message, change: RecordDict({"message": ConfigRecord(dict(pack(message)["message"]) | change)}),
    st.sampled_from(MESSAGES),
    st.dictionaries(st.sampled_from(FIELDS), scalars, max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(
    content=record_dicts | nearly_right,
    model=st.sampled_from([type(message) for message in MESSAGES]),
    arrays=st.booleans(),
    metrics=st.booleans(),
)
def test_anything_else_is_refused_with_one_exception(
    content: RecordDict, model: Any, arrays: bool, metrics: bool
) -> None:
    try:
        message, values, numbers = unpack(content, model, arrays, metrics)
    except MessageError as error:
        assert len(str(error)) < 6000
    else:
        assert type(message) is model
        assert all(str(array.dtype) in ("uint8", "int64", "float32") for array in values.values())
        assert all(np.isfinite(number) for number in numbers.values())
