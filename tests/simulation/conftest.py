"""A Flower app of a few lines, for tests of the launcher."""

from __future__ import annotations

from pathlib import Path

import pytest

FILES = {
    "pyproject.toml": """
[project]
name = "small-app"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "server_app.app:app"
clientapp = "client_app.app:app"
[tool.flwr.app.config]
mode = "finish"
out = ""
""",
    "client_app/__init__.py": "",
    "client_app/app.py": """
import os
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.query()
def query(message, context):
    answer = ConfigRecord({"folder": os.getcwd(), "pid": os.getpid()})
    return Message(RecordDict({"answer": answer}), reply_to=message)
""",
    "server_app/__init__.py": "",
    "server_app/app.py": """
import json, os, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    mode, out = context.run_config["mode"], Path(context.run_config["out"])
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(0.2)
    if mode == "fail":
        raise RuntimeError("the server app went wrong")
    questions = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
    replies = [dict(reply.content["answer"]) for reply in grid.send_and_receive(questions, timeout=300)]
    (out / "replies.tmp").write_text(json.dumps(replies))
    os.replace(out / "replies.tmp", out / "replies.json")
    if mode == "hang":
        time.sleep(600)
""",
}


@pytest.fixture
def small_app(tmp_path: Path) -> Path:
    """Write the app and return its folder."""
    app = tmp_path / "app"
    for name, text in FILES.items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)
    return app
