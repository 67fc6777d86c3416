"""The folder that is published: model, card, certificates, classes, licence, and hashes of them all."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from fedpdiff.errors import ConfigError
from fedpdiff.publishing.card import model_card
from fedpdiff.publishing.gate import Publishable, publishable
from fedpdiff.publishing.licence import Licence

FORMAT = "fedpdiff-publication/1"
MANIFEST = "publication.json"


def publish(run: Path, out: Path, licence: str = "") -> Publishable:
    """Write a run's global model with everything that may be said about it.

    Parameters
    ----------
    run
        The run folder.
    out
        Folder to be made.
    licence
        As :meth:`~fedpdiff.publishing.licence.Licence.of` takes it.

    Raises
    ------
    ConfigError
        When the folder is there already, cannot be made, or the licence is none.
    RunError, PrivacyError
        When the run must not be published; see :func:`~fedpdiff.publishing.gate.publishable`.
    """
    stated = Licence.of(licence)
    if out.exists():
        raise ConfigError(
            f"--out {out} is there already; what was published is never overwritten: give another"
        )
    public = publishable(run)
    part = out.with_name(f".{out.name}.unfinished")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(part, public, stated)
        part.rename(out)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror})") from error
    return public


def _write(folder: Path, public: Publishable, licence: Licence) -> None:
    public.model.save_pretrained(folder)
    _forget_where_it_was(folder / "network" / "config.json")
    (folder / "certificates").mkdir()
    for number, upload in enumerate(public.uploads, 1):
        _write_json(folder / "certificates" / f"party-{number}.json", upload.certificate)
    _write_json(folder / "classes.json", public.results.class_names)
    if licence.text:
        (folder / "LICENSE").write_text(licence.text, "utf-8")
    (folder / "README.md").write_text(model_card(public, licence), "utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    _write_json(folder / MANIFEST, {"format": FORMAT, "sha256": hashes})


def _forget_where_it_was(config: Path) -> None:
    """Drop the folder that diffusers read the network from and notes in its description."""
    found = json.loads(config.read_text("utf-8"))
    _write_json(config, {key: value for key, value in found.items() if key != "_name_or_path"})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
