"""A coordinator's request as a file for its sites: settings, mechanism, public centre, class names."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from fedpdiff.config import RunConfig
from fedpdiff.config.settings import Value
from fedpdiff.errors import ConfigError, MessageError
from fedpdiff.federation.agreement import Agreement, check_request, propose
from fedpdiff.federation.protocol import Mechanism, ProtocolModel
from fedpdiff.runfolder import write_json

# Folders of the coordinator's machine, of no use on another one.
_LOCAL = {"run-dir": "", "partitioner-path": "", "partitioner": "iid"}


class _File(ProtocolModel):
    """The file as JSON; ``centre`` is little-endian float32 of ``mechanism.image_shape``, in base64."""

    format: Literal["fedpdiff-request/1"] = "fedpdiff-request/1"
    settings: dict[str, bool | int | float | str]
    mechanism: Mechanism
    class_names: list[str] = Field(min_length=1)
    centre: str


@dataclass(frozen=True)
class RunRequest:
    """What a coordinator asks sites for; all of it is public.

    Parameters
    ----------
    config
        The run's settings.
    agreement
        The release that follows from them.
    class_names
        The run's classes in order.
    """

    config: RunConfig
    agreement: Agreement
    class_names: tuple[str, ...]

    @classmethod
    def make(cls, config: RunConfig) -> RunRequest:
        """Derive the request from the settings, as the server does at the start of a run.

        Raises
        ------
        PrivacyError
            When no release reaches the budget, or the noise is to be seeded.
        DataError
            When the public images cannot be read.
        """
        # Heavy, and not needed to read a request: a sealed site does so for every shard it sends.
        from fedpdiff.data.classes import class_names
        from fedpdiff.data.public import load_public

        names = class_names(config)
        settings: dict[str, Value] = {**config.flat(), **_LOCAL}
        if config.data_transform == "none" and not any("," in name for name in names):
            settings["classes"] = ",".join(names)  # so that a site need not read the run's data to know them
        agreement = propose(config, load_public(config))
        check_request(agreement.mechanism, agreement.centre, config, simulated=False)
        return cls(RunConfig.parse(settings), agreement, names)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self._file())

    def to_bytes(self) -> bytes:
        """Return what :meth:`save` writes."""
        return (json.dumps(self._file(), indent=2) + "\n").encode()

    def _file(self) -> dict[str, Any]:
        centre = np.ascontiguousarray(self.agreement.centre, "<f4")
        file = _File(
            settings=self.config.flat(),
            mechanism=self.agreement.mechanism,
            class_names=list(self.class_names),
            centre=base64.b64encode(centre.tobytes()).decode(),
        )
        return file.model_dump()

    @classmethod
    def load(cls, path: Path) -> RunRequest:
        """Read a request and check that its release is the one that its settings describe.

        Raises
        ------
        MessageError
            When it cannot be read or is damaged.
        PrivacyError
            When it asks for another release than its settings, or for seeded noise.
        """
        try:
            file = _File.model_validate_json(path.read_bytes())
            centre = np.frombuffer(base64.b64decode(file.centre, validate=True), "<f4")
            centre = centre.reshape(file.mechanism.image_shape).astype(np.float32)
            config = RunConfig.parse(file.settings)
        except OSError as error:
            raise MessageError(
                f"the request {path} cannot be read ({type(error).__name__}); the coordinator makes one with "
                "fedpdiff request"
            ) from None
        except (ValidationError, ValueError, ConfigError) as error:
            raise MessageError(f"{path} is no request, or damaged: {_short(error)}") from None
        check_request(file.mechanism, centre, config, simulated=False)
        return cls(config, Agreement(file.mechanism, centre), tuple(file.class_names))


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return str(error)[:500]
