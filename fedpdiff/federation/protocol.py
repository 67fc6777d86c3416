"""The messages of a run: every field, its type and its range. Nothing else is accepted on either side."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PROTOCOL = "fedpdiff/1"
SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
LONGEST_CERTIFICATE = 2**18
_SHA256 = r"^[0-9a-f]{64}$"


class ProtocolModel(BaseModel):
    """Base of all messages: unknown fields, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, fields: Any) -> Any:
        """Say that first: a message of another version differs in much else."""
        spoken = fields.get("protocol", PROTOCOL) if isinstance(fields, dict) else PROTOCOL
        if spoken != PROTOCOL:
            raise ValueError(
                f"the other side speaks {str(spoken)[:40]!r}, this one {PROTOCOL!r}; install the same "
                "version of fedpdiff on both sides"
            )
        return fields


class Mechanism(ProtocolModel):
    """The release that server and client agree on; the client recomputes what follows from it.

    Attributes
    ----------
    t0, alpha_bar
        Forward steps, and the signal left after them (privacy is accounted from ``alpha_bar``).
    clip
        Radius C of the ball around the public centre.
    delta
        delta of the statement.
    noise
        ``secure``, or ``seeded`` in a simulation that is NOT PRIVATE.
    wire_bits
        Bits per value that cross the network.
    """

    t0: int = Field(ge=1)
    alpha_bar: float = Field(gt=0, lt=1)
    schedule: Literal["linear", "cosine"]
    diffusion_steps: int = Field(ge=1)
    clip: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    noise: Literal["secure", "seeded"]
    wire_bits: Literal[8, 4, 2]
    image_shape: list[int] = Field(min_length=3, max_length=3)


class Instruction(ProtocolModel):
    """What every instruction of the server carries."""

    protocol: Literal["fedpdiff/1"] = "fedpdiff/1"
    fingerprint: str = Field(pattern=_SHA256)


class ReleaseInstruction(Instruction, Mechanism):
    """Asks a client to make (or re-read) its release; the centre travels beside it as an array."""

    class_names: list[str] = Field(min_length=1)


class ShardInstruction(Instruction):
    """Asks for one shard of the release."""

    shard: int = Field(ge=0)


class Reply(ProtocolModel):
    """What every reply of a client carries."""

    protocol: Literal["fedpdiff/1"] = "fedpdiff/1"
    site: str = Field(pattern=SITE_NAME)


class ReleaseManifest(Reply, Mechanism):
    """Describes a release before its first shard is sent.

    Attributes
    ----------
    number
        Partition number of a simulated client; absent in deployment.
    class_counts
        Images per class; labels and counts are public in PFDM.
    rows_per_shard, shards
        How the upload is divided.
    certificate
        JSON, as :func:`~fedpdiff.privacy.certificate.make_certificate` made it; empty for seeded noise.
    """

    fingerprint: str = Field(pattern=_SHA256)
    number: int | None = Field(default=None, ge=0)
    class_counts: list[int] = Field(min_length=1)
    rows_per_shard: int = Field(ge=1)
    shards: int = Field(ge=1)
    certificate: str = Field(max_length=LONGEST_CERTIFICATE)

    @property
    def images(self) -> int:
        """Number of images of the upload."""
        return sum(self.class_counts)


class ShardManifest(Reply):
    """Describes the shard it comes with."""

    shard: int = Field(ge=0)
    rows: int = Field(ge=1)
    sha256: str = Field(pattern=_SHA256)


class PhaseReport(Reply):
    """Says that a phase was done, and what it took."""

    seconds: float = Field(ge=0)
    gradient_steps: int = Field(ge=0)


class RoundInstruction(Instruction):
    """Asks a client to train for one round; the weights travel beside it as arrays.

    Attributes
    ----------
    round
        From 1; 0 asks for a model of the client's own, trained from the first weights.
    parts
        Parts of the network that this client trains.
    """

    round: int = Field(ge=0)
    parts: list[Literal["down", "mid", "up"]] = Field(max_length=3)


class JoinManifest(Reply):
    """Says who takes part in a run without releases.

    Attributes
    ----------
    number
        Partition number of a simulated client; absent in deployment.
    class_counts
        Images per class.
    """

    fingerprint: str = Field(pattern=_SHA256)
    number: int | None = Field(default=None, ge=0)
    class_counts: list[int] = Field(min_length=1)

    @property
    def images(self) -> int:
        """Number of the client's images."""
        return sum(self.class_counts)


class JoinInstruction(Instruction):
    """Asks a client to take part in a run without releases."""

    class_names: list[str] = Field(min_length=1)


class RoundReport(PhaseReport):
    """Says that a round was done; the trained weights travel beside it."""

    round: int = Field(ge=0)


class Refusal(ProtocolModel):
    """A client's answer when it cannot or will not do what it was asked."""

    kind: str = Field(max_length=64)
    message: str = Field(max_length=4000)
