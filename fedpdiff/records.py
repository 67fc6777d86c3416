"""The one place where fedpdiff's messages become Flower records and back."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import ValidationError

from fedpdiff.errors import MessageError
from fedpdiff.federation.protocol import ProtocolModel, Refusal

Model = TypeVar("Model", bound=ProtocolModel)

_DTYPES = ("uint8", "int8", "int64", "float32")
_MOST_DIMENSIONS = 8
_MOST_VALUES = 2**31
_LARGEST_METRIC = 1e30


def pack(
    model: ProtocolModel,
    arrays: Mapping[str, np.ndarray] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> RecordDict:
    """Return a record dict with the model, and with arrays and metrics where given."""
    records: dict[str, Any] = {"message": ConfigRecord(model.model_dump(exclude_none=True))}
    if arrays is not None:
        records["arrays"] = array_record(arrays)
    if metrics is not None:
        records["metrics"] = MetricRecord(dict(metrics))
    return RecordDict(records)


def array_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return arrays as a Flower record."""
    return ArrayRecord({name: Array(np.asarray(a, order="C")) for name, a in arrays.items()})


def pack_refusal(refusal: Refusal) -> RecordDict:
    """Return the record dict with which a client declines an instruction."""
    return RecordDict({"refusal": ConfigRecord(refusal.model_dump())})


def unpack(
    content: RecordDict, model: type[Model], arrays: bool = False, metrics: bool = False
) -> tuple[Model, dict[str, np.ndarray], dict[str, float]]:
    """Check a record dict against the expected message and return its parts.

    Parameters
    ----------
    model
        Class of the message.
    arrays, metrics
        Whether arrays must, and metrics may, come with it; nothing else may.

    Raises
    ------
    MessageError
        When a record is missing or not expected, a field, a dtype or a shape is wrong, or the sender
        declined.
    """
    if set(content) == {"refusal"}:
        refusal = _model("Refusal", content["refusal"], Refusal)
        raise MessageError(f"{refusal.kind}: {refusal.message}")
    expected = {"message"} | ({"arrays"} if arrays else set())
    allowed = expected | ({"metrics"} if metrics else set())
    if not expected <= set(content) <= allowed:
        raise MessageError(
            f"{model.__name__}: the message holds the records {_names(content)}, but must hold "
            f"{sorted(expected)}"
        )
    parsed = _model(model.__name__, content["message"], model)
    return (
        parsed,
        _arrays(model.__name__, content["arrays"]) if arrays else {},
        _metrics(model.__name__, content["metrics"]) if "metrics" in content else {},
    )


def _model(where: str, record: Any, model: type[Model]) -> Model:
    if not isinstance(record, ConfigRecord):
        raise MessageError(f"{where}: the record is a {type(record).__name__}, not a ConfigRecord")
    try:
        return model.model_validate(dict(record))
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise MessageError(f"{where}: {details}") from None


def _names(content: RecordDict) -> list[str]:
    return sorted(str(name)[:40] for name in content)[:10]


def _arrays(where: str, record: Any) -> dict[str, np.ndarray]:
    if not isinstance(record, ArrayRecord):
        raise MessageError(f"{where}: record 'arrays' is a {type(record).__name__}, not an ArrayRecord")
    return {name: _array(f"{where}: array {name[:40]!r}", array) for name, array in record.items()}


def _array(where: str, array: Array) -> np.ndarray:
    """Read an array by what it declares; the header that a stranger wrote is compared, never parsed."""
    if array.stype != "numpy.ndarray" or array.dtype not in _DTYPES:
        raise MessageError(
            f"{where} is {array.stype[:40]!r} of {array.dtype[:40]!r}; only numpy.ndarray of "
            f"{', '.join(_DTYPES)} is accepted"
        )
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise MessageError(f"{where} has an impossible shape")
    if math.prod(max(n, 1) for n in shape) > _MOST_VALUES:  # an empty array has other dimensions, too
        raise MessageError(f"{where} declares more than {_MOST_VALUES} values")
    header = _header(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    if not array.data.startswith(header) or len(array.data) != len(header) + size:
        raise MessageError(f"{where} is not of the dtype and shape that it declares")
    return np.frombuffer(array.data, dtype, offset=len(header)).reshape(shape).copy()


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Return what ``numpy.save`` writes before the values."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def _metrics(where: str, record: Any) -> dict[str, float]:
    if not isinstance(record, MetricRecord):
        raise MessageError(f"{where}: record 'metrics' is a {type(record).__name__}, not a MetricRecord")
    metrics = {}
    for name, value in record.items():
        if not isinstance(value, int | float) or not abs(value) < _LARGEST_METRIC:  # NaN fails as well
            raise MessageError(f"{where}: metric {name[:60]!r} must be a finite number")
        metrics[name] = float(value)
    return metrics
