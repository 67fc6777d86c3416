"""The client's own policy: what may be asked of its images, by whom, and what may leave.

The server's wish never overrides it. It binds a hostile server only where locally installed code enforces it;
where the server ships the client's code, it guards against mistakes.
"""

from __future__ import annotations

import math
import tomllib
from decimal import ROUND_FLOOR, Context
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fedpdiff.config.settings import Settings, setting
from fedpdiff.errors import ConfigError, PrivacyError
from fedpdiff.privacy.accountant import epsilon_from_mu
from fedpdiff.privacy.request import ReleaseRequest

Schedule = Literal["linear", "cosine"]
_DELTA = 1e-5  # what requests ask for by default
_ENDLESS = 1e12  # a mu beyond what epsilon can be computed for, and beyond any sense
_NOTHING = "nothing was released"


class Policy(Settings):
    """The limits of one client.

    Attributes
    ----------
    format
        Of the file; a file without it is of the first.
    epsilon, delta
        Ceilings for one image, over all its noisings together (any settings, any run).
    schedules
        Noise schedules that may be asked for.
    coordinators
        Who may ask, by the run setting ``coordinator``; empty = anyone. A name, not a proof of identity.
    images_per_person
        Most images of one person that are ever released; 0 = not checked.
    person_column
        Column of the data that names the person shown; "" = none.
    image_column, label_column
        Columns that a run may name for images and labels; "" = it names none, and the only fitting one is
        found. Labels are sent in the clear: without this, a server could ask for any column as the label.
    methods
        Methods that may be run. Others than ``pfdm`` send weights that were trained on the images.
    metrics_may_leave
        Whether scores of samples, which come from private images outside the guarantee, are sent back.
    """

    format: Literal["fedpdiff-policy/1"] = setting(
        "fedpdiff-policy/1", '"fedpdiff-policy/1", the only format that this version reads'
    )
    epsilon: float = Field(gt=0, allow_inf_nan=False, description="a number above 0")
    delta: float = Field(gt=0, lt=1, description="a number above 0 and below 1")
    schedules: list[Schedule] = Field(description='a list with "linear", "cosine" or both')
    coordinators: list[str] = setting([], "a list of names; [] = anyone")
    images_per_person: int = setting(0, "a whole number of at least 0 (0 = not checked)", ge=0)
    person_column: str = setting("", 'a column name, or "" for none')
    image_column: str = setting("", 'a column name, or "" to find it')
    label_column: str = setting("", 'a column name, or "" to find it')
    methods: list[str] = setting(["pfdm"], 'a list of methods, such as ["pfdm"]')
    metrics_may_leave: bool = setting(False, "true or false")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.images_per_person and not self.person_column:
            raise ValueError(
                f'images-per-person = {self.images_per_person} with person-column = "": name the column that '
                "says who is shown, or set images-per-person to 0"
            )
        return self

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file.

        Raises
        ------
        ConfigError
            When it cannot be read, or a key is unknown, missing or wrong; the message names each.
        """
        try:
            with open(path, "rb") as file:
                found = tomllib.load(file)
        except OSError as error:
            raise ConfigError(
                f'policy = "{path}" cannot be read ({type(error).__name__}); fedpdiff policy --images N '
                "prints one to begin with"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f'policy = "{path}" is not TOML: {error}') from None
        try:
            return cls.parse(found)
        except ConfigError as error:
            lines = "\n".join(f"{Path(path).name}: {line}" for line in str(error).splitlines())
            raise ConfigError(lines) from None

    @classmethod
    def simulation(cls, epsilon: float, delta: float) -> Policy:
        """Return the policy of a simulated client: it allows once what its run asks for, and no more."""
        return cls(epsilon=epsilon, delta=delta, schedules=["linear", "cosine"], metrics_may_leave=True)

    def check_coordinator(self, name: str) -> None:
        """Refuse whoever may not ask.

        Raises
        ------
        PrivacyError
            Naming the limit.
        """
        if self.coordinators and name not in self.coordinators:
            raise PrivacyError(
                f'coordinator = "{name}" is not among the coordinators of this site\'s policy; {_NOTHING}. '
                "Set coordinator to a name that the site has agreed to, or ask the site to add it"
            )

    def check_method(self, method: str) -> None:
        """Refuse a method that the site has not agreed to: most send weights, without any guarantee.

        Raises
        ------
        PrivacyError
            Naming the limit.
        """
        if method not in self.methods:
            raise PrivacyError(
                f'method = "{method}" is not among the methods of this site\'s policy '
                f"({', '.join(self.methods) or 'none'}); nothing was trained and nothing was sent"
            )

    def check_columns(self, image_column: str, label_column: str) -> None:
        """Refuse a run that names other columns than the site does: which ones are sent is the site's choice.

        Raises
        ------
        PrivacyError
            Naming the limit.
        """
        for key, asked, allowed in (
            ("image-column", image_column, self.image_column),
            ("label-column", label_column, self.label_column),
        ):
            if asked != allowed:
                raise PrivacyError(
                    f'{key} = "{asked}" is not the {key} = "{allowed}" of this site\'s policy; {_NOTHING}'
                )

    def check_request(self, request: ReleaseRequest) -> None:
        """Refuse a request that no image may be released for, whatever was released before.

        Raises
        ------
        PrivacyError
            Naming the limit.
        """
        self.check_coordinator(request.coordinator)
        self.check_spent(request.schedule, request.mu, request.delta)

    def check_spent(self, schedule: str, mu: float, delta: float) -> None:
        """Refuse a release on whose images ``mu`` was spent, by all noisings together.

        Raises
        ------
        PrivacyError
            Naming the limit.
        """
        if schedule not in self.schedules:
            raise PrivacyError(
                f'schedule = "{schedule}" is not among the schedules of this site\'s policy '
                f"({', '.join(self.schedules)}); {_NOTHING}"
            )
        if not 0 < delta <= self.delta:  # a NaN fails this comparison as well
            raise PrivacyError(
                f"delta = {delta:g} is above the delta = {self.delta:g} of this site's policy; {_NOTHING}"
            )
        epsilon = epsilon_from_mu(mu, delta) if mu < _ENDLESS else math.inf
        if not epsilon <= self.epsilon:
            raise PrivacyError(
                f"with all its noisings together an image would reach epsilon = {epsilon:.4g} at delta = "
                f"{delta:g}, above the epsilon = {self.epsilon:g} of this site's policy; {_NOTHING}"
            )


def policy_template(images: int) -> str:
    """Return a policy file with comments, for a site with so many images.

    The proposed delta is min(1e-5, 1 / (10 n)); once released under, it should stay.

    Raises
    ------
    ConfigError
        When ``images`` is below 1.
    """
    if images < 1:
        raise ConfigError(f"--images is {images}, but must be the number of this site's images, at least 1")
    proposed = min(_DELTA, 1 / (10 * images))
    return _TEMPLATE.format(delta=_DELTA if proposed == _DELTA else _rounded_down(proposed), images=images)


def _rounded_down(delta: float) -> str:
    """Return ``delta`` with three digits, never more than it is."""
    return f"{float(Context(prec=3, rounding=ROUND_FLOOR).create_decimal(delta)):g}"


_TEMPLATE = """\
# What this site allows to be done with its images. Only the site changes this file; a server cannot.
# Give its absolute path as node setting: policy="/path/of/policy.toml".
format = "fedpdiff-policy/1"

# Most that the releases of one image may reveal, all of them together, now and later.
# The smaller, the more noise: above about 10 the guarantee is weak, above 20 it is nearly empty.
epsilon = 10.0

# Added to the factor e^epsilon, per image. Proposed for {images} images: 1 / (10 x images), at most 1e-5.
# Fix it once; it need not follow the number of images.
delta = {delta}

# Noise schedules that may be asked for.
schedules = ["linear", "cosine"]

# Who may ask (the run setting "coordinator"); [] = anyone. A name is no proof of identity.
coordinators = []

# Images of one person add up: with g images a person's mu is sqrt(g) times that of one image.
# Most images of one person that are ever released (0 = not checked), and the column that says who is shown.
images-per-person = 0
person-column = ""

# The columns that a run may name for images and for labels ("" = it names none and the fitting one is found).
# Labels are sent in the clear, so no run may choose another column as the label.
image-column = ""
label-column = ""

# The methods that may be run. All but "pfdm" send weights that were trained on the images, which gives the
# images no guarantee (docs/methods.md).
methods = ["pfdm"]

# Whether scores of this site's samples may be sent back. They come from the images, outside the guarantee.
metrics-may-leave = false
"""
