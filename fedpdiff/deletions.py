"""Uploads that a server deleted: of each there remain its certificate and the fact, in ``deleted.json``."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpdiff.errors import RunError
from fedpdiff.runfolder import RunFolder, write_json

FILE_NAME = "deleted.json"
_KEPT = (FILE_NAME, "manifest.json", "certificate.json")

Reason = Literal["withdrawn", "expired"]


class Deletion(BaseModel):
    """What is kept of a deleted upload, beside manifest and certificate.

    Attributes
    ----------
    site
        Whose upload it was.
    reason
        ``withdrawn``: the site asked for it; ``expired``: it had been kept for the set time.
    time
        ISO 8601 in UTC.
    verified
        Whether, just before, its bytes were those of its certificate, and that was right in itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["fedpdiff-deletion/1"] = "fedpdiff-deletion/1"
    site: str = Field(min_length=1)
    reason: Reason
    time: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")
    verified: bool

    @classmethod
    def read(cls, spool: Path) -> Self | None:
        """Return what is known of the deletion of the upload in a spool; None when it was not deleted.

        Raises
        ------
        RunError
            When the file is damaged or of another format.
        """
        path = spool / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise RunError(
                f"{path} is damaged, or written by another version of fedpdiff; it says that an upload was "
                "deleted"
            ) from error

    @property
    def words(self) -> str:
        """The fact as a sentence."""
        why = "withdrawn by the site" if self.reason == "withdrawn" else "kept no longer than set"
        return f"the upload of {self.site} was deleted on {self.time[:10]} ({why})"


def delete_upload(spool: Path, site: str, reason: Reason, verified: bool) -> Deletion:
    """Delete the bytes of an upload and write that down; begun before and cut off, it is finished.

    Parameters
    ----------
    spool
        The upload's folder. Manifest and certificate stay.
    site, reason, verified
        As in :class:`Deletion`; what an earlier call wrote stays, but that ``expired`` becomes ``withdrawn``.
    """
    deletion = Deletion.read(spool)
    if deletion is None:
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        deletion = Deletion(site=site, reason=reason, time=time, verified=verified)
        write_json(spool / FILE_NAME, deletion.model_dump())
    elif reason == "withdrawn" and deletion.reason == "expired":
        deletion = deletion.model_copy(update={"reason": reason})
        write_json(spool / FILE_NAME, deletion.model_dump())
    for path in left_over(spool):
        path.unlink()
    return deletion


def left_over(spool: Path) -> list[Path]:
    """Return the files of an upload that a deletion deletes and that are still there."""
    return [path for path in spool.iterdir() if path.name not in _KEPT]


def deletions(run: Path) -> list[Deletion]:
    """Return all deletions in a run folder, by site.

    Raises
    ------
    RunError
        When a record is damaged.
    """
    spools = sorted(RunFolder(run).spool("-").parent.glob(f"*/{FILE_NAME}"))
    found = [Deletion.read(path.parent) for path in spools]
    return [deletion for deletion in found if deletion is not None]
