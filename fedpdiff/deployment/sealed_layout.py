"""Whether a sealed site is sealed: what either side's user of the operating system can open and write.

What counts is the separation, not the code: see "Sealed mode" in docs/privacy.md.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from fedpdiff.deployment.findings import Finding
from fedpdiff.privacy.verify import verify_release

_READ, _WRITE, _ENTER = 4, 2, 1


def network_side(outbox: Path, inbox: Path) -> list[Finding]:
    """Check the two folders as the user who talks to the network, who is the one that runs this.

    Parameters
    ----------
    outbox, inbox
        As in the site's settings.
    """
    user = os.geteuid()
    if user == 0:
        mend = "give the network side a user of its own (useradd --system), and run this as that user"
        return [Finding("problem", "sealed", "this user is root, who can open everything", mend)]
    if not os.path.isdir(outbox):  # False also where it cannot be reached
        mend = f"the private side makes it: fedpdiff release --outbox {outbox}"
        found = [Finding("problem", "outbox", f"{outbox} is not there, or cannot be entered", mend)]
    elif outbox.stat().st_uid == user and os.statvfs(outbox).f_flag & os.ST_RDONLY:
        mend = "right where containers keep the two sides apart: only these two folders may be mounted here"
        found = [
            _release(outbox),
            Finding("note", "outbox", f"{outbox} is of the same user, read-only", mend),
        ]
    elif outbox.stat().st_uid == user:
        mend = "let the private side, another user, make it; images and ledger must not be this user's"
        found = [Finding("problem", "outbox", f"{outbox} belongs to the user of the network side", mend)]
    elif _can(outbox, os.W_OK):
        mend = f"chmod 755 {outbox}"
        found = [Finding("problem", "outbox", f"the network side can write to {outbox}", mend)]
    else:
        found = [_release(outbox)]
    if not os.path.isdir(inbox) or not _can(inbox, os.R_OK | os.W_OK | os.X_OK):
        mend = f"as root: install -d -o {_name(user)} {inbox}"
        found.append(Finding("problem", "inbox", f"{inbox} cannot be written by {_name(user)}", mend))
    elif os.path.isdir(outbox) and not may(outbox.stat().st_uid, inbox, _READ | _ENTER):
        mend = f"chmod 755 {inbox}"
        found.append(Finding("problem", "inbox", f"{inbox} cannot be read by the private side", mend))
    else:
        found.append(Finding("ok", "inbox", f"{inbox} is this user's to write"))
    return found


def private_side(state: Path, data: Path, policy: Path, outbox: Path, inbox: Path) -> list[Finding]:
    """Check as the user who holds the images that the network side's user, the inbox's owner, has no way in.

    Parameters
    ----------
    state, data, policy
        The private side's state folder, its images and its policy.
    outbox, inbox
        The folders between the two sides.
    """
    if not os.path.isdir(inbox):
        mend = f"as root: install -d -o USER {inbox}, with the user of the network side"
        return [Finding("problem", "inbox", f"{inbox} is not there, or cannot be entered", mend)]
    user = inbox.stat().st_uid
    if user in (0, state.stat().st_uid):
        mend = f"give the network side a user of its own, and the inbox to it: chown USER {inbox}"
        return [
            Finding("problem", "sealed", f"{inbox} belongs to {_name(user)}, who can open the images", mend)
        ]
    found = [*_opened(user, "images", data), *_opened(user, "state folder", state)]
    for what, path in (("policy", policy), ("outbox", outbox)):
        if os.path.exists(path) and (may(user, path, _WRITE) or _may_replace(user, path)):
            mend = f"chmod go-w {path} {path.parent}"
            found.append(Finding("problem", "sealed", f"{_name(user)} can change the {what} {path}", mend))
    if os.path.isdir(outbox) and not may(user, outbox, _READ | _ENTER):
        mend = f"chmod 755 {outbox}, and let others enter the folders above it"
        found.append(Finding("problem", "outbox", f"{_name(user)} cannot read {outbox}", mend))
    closed = f"{_name(user)}, of the network side, can open neither images nor state folder"
    return found or [Finding("ok", "sealed", closed)]


def _opened(user: int, what: str, path: Path) -> list[Finding]:
    """Say when a user can open a private folder or file."""
    if not os.path.exists(path):
        said = f"{path} ({what}) is not there, or cannot be entered"
        return [Finding("problem", "sealed", said, "run this as the user who holds the images")]
    if may(user, path, _READ) or (path.is_dir() and may(user, path, _ENTER)):
        mend = f"chmod {'700' if path.is_dir() else '600'} {path}"
        return [Finding("problem", "sealed", f"{_name(user)} can open the {what} {path}", mend)]
    if _has_list(path):
        said = f"{path} ({what}) has an access control list"
        return [Finding("note", "sealed", said, f"look at getfacl {path}")]
    return []


def may(user: int, path: Path, wanted: int) -> bool:
    """Return whether the permission bits let a user do ``wanted`` with a path, and reach it.

    Parameters
    ----------
    user
        A user id; its groups are looked up.
    path
        Must exist; links are followed.
    wanted
        4 = read, 2 = write, 1 = enter, or their sum.
    """
    groups = _groups(user)
    resolved = path.resolve()
    return all(_bits(user, groups, parent) & _ENTER for parent in resolved.parents) and (
        _bits(user, groups, resolved) & wanted == wanted
    )


def _may_replace(user: int, path: Path) -> bool:
    folder = path.resolve().parent
    own_only = folder.stat().st_mode & stat.S_ISVTX  # as in /tmp: each user replaces his own files only
    return may(user, folder, _WRITE | _ENTER) and not (own_only and folder.stat().st_uid != user)


def _bits(user: int, groups: set[int], path: Path) -> int:
    status = path.stat()
    if user == 0:
        return 7
    if status.st_uid == user:
        return status.st_mode >> 6 & 7
    if status.st_gid in groups:
        return status.st_mode >> 3 & 7
    return status.st_mode & 7


def _groups(user: int) -> set[int]:
    try:
        account = pwd.getpwuid(user)
    except KeyError:  # a number without an account, as in containers
        return {user}
    return {account.pw_gid, *(group.gr_gid for group in grp.getgrall() if account.pw_name in group.gr_mem)}


def _can(path: Path, wanted: int) -> bool:
    return os.access(path, wanted, effective_ids=os.access in os.supports_effective_ids)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _has_list(path: Path) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except (OSError, AttributeError):
        return False


def _release(outbox: Path) -> Finding:
    try:
        problems = verify_release(outbox)
    except OSError as error:
        problems = [f"cannot be read ({type(error).__name__})"]
    if problems:
        mend = "on the private side, run fedpdiff release again"
        return Finding("problem", "outbox", f"{outbox}: {'; '.join(problems[:2])}", mend)
    return Finding("ok", "outbox", f"{outbox} holds a verified release, and this user can only read it")
