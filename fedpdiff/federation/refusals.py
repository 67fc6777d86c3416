"""What a client says when it declines: enough for the server to act on, nothing of a real site's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedpdiff.errors import ConfigError, FedpdiffError, MessageError, PrivacyError, is_full
from fedpdiff.federation.protocol import Refusal

_LONGEST = 4000
_DECLINED = "the site declined; its own log says why"
# An absolute path, or one in the home folder; not the "/" of a fraction, of "fedpdiff/1" or of "and/or".
_NAMES = r"/[^\s\"'<>|;,()\[\]]+"
_PATH = re.compile(rf"(?<![\w/<])(?:~\w*)?{_NAMES}")


def refusal(error: Exception, node: Mapping[str, Any], simulated: bool, working: bool) -> Refusal:
    """Return the reply of a client that cannot or will not do what it was asked.

    A simulated client tells everything. A real site tells which wish its settings, its policy or the protocol
    did not allow, without any path of its machine; errors that come from its images, or that come up while
    it works on them, stay in its own log.

    Parameters
    ----------
    error
        What happened.
    node
        The node settings as they were given.
    simulated
        Whether they are those of a simulated client.
    working
        Whether settings and policy were read already, and the error came up in the work itself: settings that
        are wrong only then may quote a file of the site.
    """
    if not isinstance(error, FedpdiffError):
        detail = f": {error}" if simulated else "; this site's log says more"
        what = "its disk is full" if is_full(error) else type(error).__name__
        return Refusal(kind="UnexpectedError", message=f"{what}{detail}"[:_LONGEST])
    kind = type(error).__name__
    if simulated:
        return Refusal(kind=kind, message=str(error)[:_LONGEST])
    told = isinstance(error, MessageError | PrivacyError) or (isinstance(error, ConfigError) and not working)
    return Refusal(kind=kind, message=_without_paths(str(error), node)[:_LONGEST] if told else _DECLINED)


def _without_paths(text: str, node: Mapping[str, Any]) -> str:
    """Return text with the site's own paths replaced by the settings that name them, and others left out."""
    own = {value: key for key, value in node.items() if isinstance(value, str) and value.startswith("/")}
    for path in sorted(own, key=len, reverse=True):  # a path may hold blanks, and lie within another one
        text = re.sub(rf"{re.escape(path)}(?:{_NAMES})?", f"<{own[path]}>", text)
    return _PATH.sub("<path>", text)
