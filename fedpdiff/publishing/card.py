"""The model card: what the model is, what is promised about the images behind it, and what is not."""

from __future__ import annotations

import json

from fedpdiff.privacy.cautions import budget_cautions
from fedpdiff.privacy.certificate_words import NOT_PROTECTED, TRUST
from fedpdiff.privacy.statement import ADJACENCY, UNIT
from fedpdiff.publishing.gate import PooledUpload, Publishable
from fedpdiff.publishing.licence import Licence

_TAGS = ("diffusion", "federated-learning", "differential-privacy", "pfdm", "arxiv:2504.00952")

_CARD = """\
---
{head}
---

# Global half of a two-stage image model, trained on noisy copies alone

This is the *global denoiser* of PFDM (Patel et al., [arXiv 2504.00952](https://arxiv.org/abs/2504.00952)):
parties that may not share their images each uploaded one noisy copy of every image, once, and this model
was trained on those copies, with their class labels, and on nothing else. It makes the coarse structure of
an image, from pure noise down to noise level {hand_off} of {steps}. The fine detail below that level comes
from a *personal denoiser*, which every party trains on its own images and keeps. Without one, this model
makes no finished images.

## Use

```python
from fedpdiff import PFDMPipeline

pipe = PFDMPipeline.from_pretrained("this/folder", "your/personal/half")
images = pipe(class_labels=[{example}] * 4).images
```

The personal half must have been trained for the same classes, image size, noise schedule and level.

| | |
|---|---|
| images | {channels} channel{plural}, {height} x {width} |
| classes | {count}: {classes} |
| data | {data} |
| trained on | {images} noisy copies from {sites} |
| noise level of the copies | t0 = {t0} of {steps} ({schedule} schedule), clipped to C = {clip:.4g} |
| chain, objective | {kind}, {objective} |
| made by | fedpdiff |

## Privacy

For each party, in the words of its certificate, one beside the other in `certificates/`:

{statements}

- Unit: {unit}. Adjacency: {adjacency}.
- Trust: {trust}.
- This model was computed from those copies, so all of it holds for the model, and for everything made with
  it, whatever anyone knows besides.
{cautions}
{rows}

Before this folder was written, every certificate was computed again from its settings and compared with the
bytes of the upload{deleted}.

**What is not protected:**

{not_protected}
- personal denoisers: none is in this folder, and whoever publishes one publishes what it learnt from images

## Limits

That a copy was made as its certificate says rests on the code and the machine that made it. The model may
show the biases and mistakes of the images behind it, which this card does not describe. {licence}
"""


def model_card(public: Publishable, licence: Licence) -> str:
    """Return ``README.md`` in the form of a model card."""
    config, uploads = public.model.config, public.uploads
    gone = sum(upload.deleted for upload in uploads)
    deleted = f" ({gone} of {len(uploads)}: compared earlier, deleted since)" if gone else ""
    channels, height, width = config.image_shape
    return _CARD.format(
        head=_head(licence),
        hand_off=config.hand_off,
        steps=config.diffusion_steps,
        example=json.dumps(config.class_names[0], ensure_ascii=False),
        channels=channels,
        plural="s" if channels > 1 else "",
        height=height,
        width=width,
        count=len(config.class_names),
        classes=", ".join(_plain(name) for name in config.class_names),
        data=_data(uploads),
        images=sum(upload.certificate["n_images"] for upload in uploads),
        sites=f"{len(uploads)} part{'ies' if len(uploads) > 1 else 'y'}",
        t0=config.t0,
        schedule=config.schedule,
        clip=config.clip,
        kind=config.kind,
        objective=config.objective,
        statements="\n".join(f"> {number}. {text}" for number, text in enumerate(_statements(uploads), 1)),
        unit=UNIT,
        adjacency=ADJACENCY,
        trust=TRUST,
        cautions=_cautions(uploads),
        rows=_table(uploads),
        deleted=deleted,
        not_protected="\n".join(f"- {line}" for line in NOT_PROTECTED),
        licence=licence.words,
    )


def _head(licence: Licence) -> str:
    lines = [
        *licence.head,
        "library_name: fedpdiff",
        "pipeline_tag: unconditional-image-generation",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in _TAGS),
    ]
    return "\n".join(lines)


def _plain(name: str) -> str:
    """Return a class name that cannot change the page: names come from folders and files."""
    return "".join(character if character.isprintable() else " " for character in name).replace("|", r"\|")


def _data(uploads: list[PooledUpload]) -> str:
    if any(upload.simulated for upload in uploads):
        return "a simulation: one data set was divided among the parties"
    return "each party's own images, which nobody else has seen"


def _statements(uploads: list[PooledUpload]) -> list[str]:
    return [str(upload.certificate["statement"]) for upload in uploads]


def _cautions(uploads: list[PooledUpload]) -> str:
    stated = [upload.certificate for upload in uploads]
    found = [
        f"- {caution}"
        for one in stated
        for caution in budget_cautions(one["composition"]["epsilon_total"], one["delta"], one["n_images"])
    ]
    return "\n".join([*dict.fromkeys(found), ""])


def _table(uploads: list[PooledUpload]) -> str:
    names = (
        "certificate",
        "images",
        "epsilon, one copy of an image",
        "delta",
        "epsilon, all copies of an image (how many)",
        "most images of one person",
        "epsilon, that person",
    )
    rows = [_row(number, upload) for number, upload in enumerate(uploads, 1)]
    return "\n".join([f"| {' | '.join(names)} |", "|---" * len(names) + "|", *rows])


def _row(number: int, upload: PooledUpload) -> str:
    stated, persons = upload.certificate, upload.certificate["persons"]
    total = stated["composition"]
    cells = [
        f"party-{number}.json",
        f"{stated['n_images']}",
        f"{stated['epsilon']:.3f}",
        f"{stated['delta']!r}",
        f"{total['epsilon_total']:.3f} ({total['noisings_per_image']})",
        f"{persons['most_images']}" if persons else "not counted",
        f"{persons['epsilon']:g}" if persons else "–",
    ]
    return f"| {' | '.join(cells)} |"
