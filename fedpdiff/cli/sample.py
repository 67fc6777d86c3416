"""``fedpdiff sample``: images from a global and a personal half."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_COLUMNS = 32  # of the picture; the npz holds all


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "sample",
        help="sample images with a global and a personal half",
        description="Sample images with both halves: samples.npz (images uint8 N x C x H x W, labels), "
        "written as they are made, and samples.png, one class per row. Works offline.",
    )
    for name, what in (
        ("global", "of the global half"),
        ("personal", "of the personal half"),
        ("out", "to write"),
    ):
        parser.add_argument(
            f"--{name}", dest=f"{name}_dir", type=Path, required=True, metavar="DIR", help=f"folder {what}"
        )
    parser.add_argument("-n", type=int, default=64, metavar="N", help="number of images; default 64")
    parser.add_argument(
        "--classes", metavar="A,B", help="classes by name, in equal numbers; default all of them"
    )
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="of both halves; default 40")
    parser.add_argument("--seed", type=int, metavar="N", help="for the same images again; default none")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N; a GPU samples in bfloat16"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sample and write.

    Raises
    ------
    ConfigError, DataError
        When a number or class is not possible, or the two halves are not readable or not of one run.
    """
    import torch

    from fedpdiff.diffusion.pipeline import PFDMPipeline
    from fedpdiff.errors import ConfigError
    from fedpdiff.federation.networks import choose_device, mixed_precision
    from fedpdiff.rng import torch_generator
    from fedpdiff.sample_file import SampleFile
    from fedpdiff.types import to_uint8

    if args.n < 1:
        raise ConfigError(f"-n {args.n}: must be at least 1")
    device = choose_device(args.device)
    pipeline = PFDMPipeline.from_pretrained(args.global_dir, args.personal_dir, device)
    config = pipeline.personal.config
    names = config.class_names
    wanted = [name.strip() for name in args.classes.split(",")] if args.classes else list(names)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"--classes {', '.join(unknown)}: must be of {', '.join(names)}")
    labels = torch.tensor(sorted(names.index(wanted[k % len(wanted)]) for k in range(args.n)))
    generator = None if args.seed is None else torch_generator(args.seed, "sample")
    batches = pipeline.batches(labels.tolist(), args.steps, generator=generator)
    shown: dict[int, list[np.ndarray]] = {label: [] for label in labels.unique().tolist()}
    with (
        SampleFile(args.out_dir / "samples.npz", labels, tuple(config.image_shape)) as file,
        mixed_precision("auto", device),
    ):
        remaining = iter(labels.tolist())
        for images in batches:
            pixels = to_uint8(images * 2 - 1)
            file.write(pixels)
            for image, label in zip(pixels.numpy(), remaining, strict=False):
                if len(shown[label]) < _COLUMNS:
                    shown[label].append(image.copy())
    _draw(shown, args.out_dir / "samples.png")
    print(f"{args.n} images: {args.out_dir.resolve() / 'samples.png'} and samples.npz")
    return 0


def _draw(shown: dict[int, list[np.ndarray]], path: Path) -> None:
    """Draw the classes' images, (C, H, W) each, one class per row."""
    import numpy as np
    from PIL import Image

    from fedpdiff.report.grids import tile

    by_class = {label: np.stack(images) for label, images in shown.items()}
    columns = max(len(images) for images in by_class.values())
    Image.fromarray(tile(by_class, list(by_class), columns)).save(path)
