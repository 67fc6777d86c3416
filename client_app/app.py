"""The ClientApp: one handler per phase. What the handlers return leaves this client, and nothing else."""

from __future__ import annotations

import os

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client_app.answer import answer, any_tasks, pfdm_tasks, round_tasks
from fedpdiff.federation.protocol import (
    Instruction,
    JoinInstruction,
    PhaseReport,
    ReleaseInstruction,
    RoundInstruction,
    ShardInstruction,
)
from fedpdiff.records import pack

# Without this, Ray hides the GPUs from clients that were given no share of one.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

app = ClientApp()


@app.train("release")
def release(message: Message, context: Context) -> Message:
    """Make the one noisy release of this client's images, or find it, and describe it."""
    return answer(
        message,
        context,
        ReleaseInstruction,
        pfdm_tasks,
        lambda tasks, instruction, arrays: pack(tasks.release(instruction, arrays)),
        arrays=True,
    )


@app.train("upload")
def upload(message: Message, context: Context) -> Message:
    """Send one shard of the release from disk."""
    return answer(
        message,
        context,
        ShardInstruction,
        pfdm_tasks,
        lambda tasks, instruction, arrays: pack(*tasks.shard(instruction.shard)),
    )


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """Train the personal denoiser, which stays here."""
    return answer(
        message,
        context,
        Instruction,
        pfdm_tasks,
        lambda tasks, instruction, arrays: pack(tasks.personalize()),
    )


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who takes part in a run without releases."""
    return answer(
        message,
        context,
        JoinInstruction,
        round_tasks,
        lambda tasks, instruction, arrays: pack(tasks.join(instruction)),
    )


@app.train("round")
def train_round(message: Message, context: Context) -> Message:
    """Train one round; the weights that the method exchanges leave, where the site's policy allows it."""
    return answer(
        message,
        context,
        RoundInstruction,
        round_tasks,
        lambda tasks, instruction, arrays: pack(*tasks.train_round(instruction, arrays)),
        arrays=True,
    )


@app.evaluate("sample")
def sample(message: Message, context: Context) -> Message:
    """Sample with both halves; a real site returns scores only if its policy says so."""

    return answer(
        message,
        context,
        Instruction,
        any_tasks,
        lambda tasks, instruction, arrays: _report(*tasks.sample(arrays)),
        arrays=True,
    )


def _report(report: PhaseReport, metrics: dict[str, float]) -> RecordDict:
    return pack(report, metrics=metrics or None)
