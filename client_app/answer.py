"""From an instruction to a reply: check it, do the task, decline in plain words when it cannot be done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from flwr.app import Context, Message, RecordDict

from fedpdiff.config import PFDM, NodeConfig, RunConfig
from fedpdiff.errors import FedpdiffError, MessageError, PrivacyError, is_full
from fedpdiff.federation.protocol import Instruction
from fedpdiff.federation.refusals import refusal
from fedpdiff.fingerprint import code_fingerprint
from fedpdiff.plain import plain_line
from fedpdiff.records import pack_refusal, unpack

log = logging.getLogger("flwr")

if TYPE_CHECKING:
    from fedpdiff.federation.client import ClientTasks
    from fedpdiff.federation.rounds import RoundTasks
    from fedpdiff.federation.sealed import SealedTasks

Asked = TypeVar("Asked", bound=Instruction)
Tasks = TypeVar("Tasks")
Open = Callable[[RunConfig, NodeConfig, int], Tasks]
Task = Callable[[Tasks, Asked, dict[str, np.ndarray]], RecordDict]


# What a kind of client needs is imported here: on a real site every message starts a new process.


def pfdm_tasks(config: RunConfig, node: NodeConfig, run_id: int) -> ClientTasks | SealedTasks:
    """Return a client's tasks in a run of PFDM."""
    if config.method != PFDM:
        raise MessageError(f'method = "{config.method}" makes no release, so none can be asked for')
    if node.sealed:
        from fedpdiff.federation.sealed import SealedTasks

        return SealedTasks(config, node)
    from fedpdiff.federation.client import ClientTasks

    return ClientTasks(config, node, run_id)


def round_tasks(config: RunConfig, node: NodeConfig, run_id: int) -> RoundTasks:
    """Return a client's tasks in a run that averages weights."""
    if config.method == PFDM:
        raise MessageError(f'method = "{PFDM}" has no rounds, so none can be asked for')
    if node.sealed:
        raise PrivacyError(
            f'method = "{config.method}" trains on the images at each request, which a sealed site never '
            f'does; nothing was trained and nothing was sent. Sealed sites take part in method = "{PFDM}"'
        )
    from fedpdiff.federation.rounds import RoundTasks

    return RoundTasks(config, node, run_id)


def any_tasks(config: RunConfig, node: NodeConfig, run_id: int) -> ClientTasks | SealedTasks | RoundTasks:
    """Return a client's tasks in a run of whichever method."""
    return (pfdm_tasks if config.method == PFDM else round_tasks)(config, node, run_id)


def answer(
    message: Message,
    context: Context,
    model: type[Asked],
    open_tasks: Open[Tasks],
    task: Task[Tasks, Asked],
    arrays: bool = False,
) -> Message:
    """Do ``task`` and reply with its records, or with a refusal that names the cause.

    A refusal never carries more than a real site may tell: errors about data stay in the site's own log.
    """
    simulated = working = False  # until the node settings say so, and all settings are read
    try:
        node = NodeConfig.parse(context.node_config)
        simulated = node.simulated
        instruction, values, _ = unpack(message.content, model, arrays=arrays)
        _check_code(instruction)
        config = RunConfig.parse(context.run_config)
        tasks = open_tasks(config, node, context.run_id)
        working = True
        return Message(content=task(tasks, instruction, values), reply_to=message)
    except FedpdiffError as error:
        log.error("%s", plain_line(str(error)))
        declined = refusal(error, context.node_config, simulated, working)
    except Exception as error:
        log.exception("the disk is full: make room" if is_full(error) else "unexpected error")
        declined = refusal(error, context.node_config, simulated, working)
    return Message(content=pack_refusal(declined), reply_to=message)


def _check_code(instruction: Instruction) -> None:
    ours = code_fingerprint()
    if instruction.fingerprint != ours:
        raise MessageError(
            f"this client runs other code than the server (fingerprint {ours[:12]}, server "
            f"{instruction.fingerprint[:12]}); install the same version, and start the SuperLink from an "
            "empty folder: its workers import from there first"
        )
