"""The ClientApp: one handler per phase. What the handlers return leaves this client, and nothing else."""

from __future__ import annotations

import os

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client_app.answer import Tasks, answer
from fedpdiff.federation.protocol import Instruction, ReleaseInstruction, ShardInstruction
from fedpdiff.federation.uploads import Arrays
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
        lambda tasks, instruction, arrays: pack(*tasks.shard(instruction.shard)),
    )


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """Train the personal denoiser, which stays here."""
    return answer(message, context, Instruction, lambda tasks, instruction, arrays: pack(tasks.personalize()))


@app.evaluate("sample")
def sample(message: Message, context: Context) -> Message:
    """Sample with both halves; a real site returns scores only if its policy says so."""

    def task(tasks: Tasks, instruction: Instruction, arrays: Arrays) -> RecordDict:
        report, metrics = tasks.sample(arrays)
        return pack(report, metrics=metrics or None)

    return answer(message, context, Instruction, task, arrays=True)
