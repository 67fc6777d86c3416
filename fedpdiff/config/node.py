"""The settings of one client, given to it by whoever runs it."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from fedpdiff.config.settings import Settings, setting

_ABSOLUTE = r"^(/[^\x00-\x1f\x7f]*)?$"  # control characters in a path are a mistake, or somebody's trick


class NodeConfig(Settings):
    """Node config of a client: a simulated one by its partition, a real one by its data path or its outbox.

    Attributes
    ----------
    data_path
        Folder or file with this site's own images; set in deployment only.
    state_dir
        Folder for the release and the personal model; must outlive the process.
    policy
        This site's own policy file: what may be asked of its images and what may leave.
    witness
        File that notices a ledger restored from an old backup, best on another disk or machine than the state
        folder; "" = ``witness.json`` in the state folder.
    outbox, inbox
        Sealed mode, instead of data path, state folder and policy: the folder that ``fedpdiff release`` fills
        and the one where the global half is put. The process has nothing else of the site.
    site_name
        Name under which the server and the reports know this site.
    partition_id, num_partitions
        Which of how many partitions a simulated client holds (from Flower).
    """

    data_path: str = setting("", "an absolute path", pattern=_ABSOLUTE)
    state_dir: str = setting("", "an absolute path", pattern=_ABSOLUTE)
    policy: str = setting("", "an absolute path", pattern=_ABSOLUTE)
    witness: str = setting("", "an absolute path", pattern=_ABSOLUTE)
    outbox: str = setting("", "an absolute path", pattern=_ABSOLUTE)
    inbox: str = setting("", "an absolute path", pattern=_ABSOLUTE)
    site_name: str = setting(
        "",
        "1 to 64 letters, digits, dots, hyphens or underscores, a letter or digit first",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$",
    )
    partition_id: int | None = setting(None, "a whole number of at least 0", ge=0)
    num_partitions: int | None = setting(None, "a whole number of at least 1", ge=1)

    @property
    def simulated(self) -> bool:
        """Whether this is a simulated client: one without a data path or an outbox of its own."""
        return not self.data_path and not self.sealed

    @property
    def sealed(self) -> bool:
        """Whether this process serves an outbox and has no data."""
        return bool(self.outbox)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.sealed:
            problems = self._sealed_problems()
        else:
            problems = self._simulation_problems() if self.simulated else self._deployment_problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _sealed_problems(self) -> list[str]:
        given = {
            "data-path": self.data_path,
            "state-dir": self.state_dir,
            "policy": self.policy,
            "witness": self.witness,
        }
        problems = [
            f'{key} = "{value}": must not be set together with outbox: this process serves the outbox only, '
            "and nothing private may be within its reach"
            for key, value in given.items()
            if value
        ]
        needed = {"inbox": self.inbox, "site-name": self.site_name}
        return problems + [
            f'{key} = "": must be set together with outbox, in --node-config'
            for key, value in needed.items()
            if not value
        ]

    def _deployment_problems(self) -> list[str]:
        return [
            f'{key} = "": must be set together with data-path, in --node-config'
            for key, value in (
                ("state-dir", self.state_dir),
                ("policy", self.policy),
                ("site-name", self.site_name),
            )
            if not value
        ]

    def _simulation_problems(self) -> list[str]:
        if self.partition_id is None or self.num_partitions is None:
            return [
                'data-path = "": must be set for a real client, with state-dir, policy and site-name, as in '
                '--node-config \'data-path="/data" state-dir="/state" policy="/policy.toml" site-name="a"\' '
                "(simulated clients have partition-id and num-partitions from Flower instead)"
            ]
        if self.partition_id >= self.num_partitions:
            return [
                f"partition-id = {self.partition_id}: must be below num-partitions = {self.num_partitions}"
            ]
        return []
