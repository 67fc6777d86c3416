"""From an instruction to a reply: check it, do the task, decline in plain words when it cannot be done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from flwr.app import Context, Message, RecordDict

from fedpdiff.config import NodeConfig, RunConfig
from fedpdiff.errors import ConfigError, FedpdiffError, MessageError, PrivacyError, is_full
from fedpdiff.federation.client import ClientTasks
from fedpdiff.federation.protocol import Instruction, Refusal
from fedpdiff.federation.sealed import SealedTasks
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.records import pack_refusal, unpack

log = logging.getLogger("flwr")

Asked = TypeVar("Asked", bound=Instruction)
Tasks = ClientTasks | SealedTasks
Task = Callable[[Tasks, Asked, dict[str, np.ndarray]], RecordDict]


def answer(
    message: Message, context: Context, model: type[Asked], task: Task[Asked], arrays: bool = False
) -> Message:
    """Do ``task`` and reply with its records, or with a refusal that names the cause.

    A refusal never carries more than a real site may tell: errors about data stay in the site's own log.
    """
    simulated = False  # until the node settings say so
    try:
        node = NodeConfig.parse(context.node_config)
        simulated = node.simulated
        instruction, values, _ = unpack(message.content, model, arrays=arrays)
        _check_code(instruction)
        config = RunConfig.parse(context.run_config)
        tasks: Tasks = SealedTasks(config, node) if node.sealed else ClientTasks(config, node, context.run_id)
        return Message(content=task(tasks, instruction, values), reply_to=message)
    except FedpdiffError as error:
        log.error("%s", error)
        refusal = _refusal(error, simulated)
    except Exception as error:
        log.exception("the disk is full: make room" if is_full(error) else "unexpected error")
        detail = f": {error}" if simulated else "; this site's log says more"
        what = "its disk is full" if is_full(error) else type(error).__name__
        refusal = Refusal(kind="UnexpectedError", message=f"{what}{detail}"[:4000])
    return Message(content=pack_refusal(refusal), reply_to=message)


def _check_code(instruction: Instruction) -> None:
    ours = code_fingerprint()
    if instruction.fingerprint != ours:
        raise MessageError(
            f"this client runs other code than the server (fingerprint {ours[:12]}, server "
            f"{instruction.fingerprint[:12]}); install the same version, and start the SuperLink from an "
            "empty folder: its workers import from there first"
        )


def _refusal(error: FedpdiffError, simulated: bool) -> Refusal:
    if not simulated and not isinstance(error, ConfigError | MessageError | PrivacyError):
        return Refusal(kind=type(error).__name__, message="the site declined; its own log says why")
    return Refusal(kind=type(error).__name__, message=str(error)[:4000])
