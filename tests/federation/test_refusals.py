"""What a real site's refusal tells: the limit and the wish, no path of its machine, nothing of its images."""

from __future__ import annotations

import pytest

from fedpdiff.errors import ConfigError, DataError, MessageError, PrivacyError, RunError
from fedpdiff.federation.refusals import refusal

NODE = {
    "data-path": "/srv/north clinic/images",
    "state-dir": "/srv/north clinic/state",
    "policy": "/srv/north clinic/policy.toml",
    "site-name": "north",
}
DECLINED = "the site declined; its own log says why"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('policy = "/srv/north clinic/policy.toml" cannot be read', 'policy = "<policy>" cannot be read'),
        ("no /srv/north clinic/state/release/ledger", "no <state-dir>"),
        ("see /home/ann/x.txt, and ~/y or ~ann/z", "see <path>, and <path> or <path>"),
        ("it is (/tmp/a) or '/tmp/b': '/tmp/c'", "it is (<path>) or '<path>': '<path>'"),
        (
            "epsilon = 3 / 4 of and/or fedpdiff/1, a </b> / c",
            "epsilon = 3 / 4 of and/or fedpdiff/1, a </b> / c",
        ),
    ],
)
def test_paths_stay_at_the_site(text: str, told: str) -> None:
    for kind in (ConfigError, MessageError, PrivacyError):
        declined = refusal(kind(text), NODE, simulated=False, working=False)
        assert (declined.kind, declined.message) == (kind.__name__, told)


@pytest.mark.parametrize(
    ("error", "working"),
    [(DataError("class cat"), False), (RunError("x"), False), (ConfigError('network: unknown "name"'), True)],
)
def test_what_may_quote_the_sites_own_files_is_not_told(error: Exception, working: bool) -> None:
    declined = refusal(error, NODE, simulated=False, working=working)
    assert (declined.kind, declined.message) == (type(error).__name__, DECLINED)
    assert refusal(error, {}, simulated=True, working=working).message == str(error)


def test_other_libraries_words_are_not_told() -> None:
    error = OSError("private")
    assert refusal(error, NODE, False, True).message == "OSError; this site's log says more"
    assert refusal(error, {}, True, True).message == "OSError: private"


def test_refusals_fit_into_their_message() -> None:
    for simulated in (True, False):
        for error in (PrivacyError("x" * 9000), ValueError("x" * 9000)):
            assert len(refusal(error, NODE, simulated, False).message) <= 4000
