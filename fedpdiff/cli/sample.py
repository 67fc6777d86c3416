"""``fedpdiff sample``: images from a global and a personal half."""

from __future__ import annotations

import argparse
from pathlib import Path

_COLUMNS = 32  # of the picture; the npz holds all


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "sample",
        help="sample images with a global and a personal half",
        description="Sample images with both halves: samples.npz (images uint8 N x C x H x W, labels) and "
        "samples.png, one class per row. Works offline.",
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sample and write.

    Raises
    ------
    ConfigError, DataError
        When a number or class is not possible, or the two halves are not readable or not of one run.
    """
    import torch
    from PIL import Image

    from fedpdiff.diffusion.pipeline import PFDMPipeline
    from fedpdiff.errors import ConfigError
    from fedpdiff.federation.networks import choose_device
    from fedpdiff.federation.sampling import save_samples
    from fedpdiff.report.grids import tile
    from fedpdiff.rng import torch_generator
    from fedpdiff.types import LabelledImages, to_uint8

    if args.n < 1:
        raise ConfigError(f"-n {args.n}: must be at least 1")
    pipeline = PFDMPipeline.from_pretrained(args.global_dir, args.personal_dir, choose_device(args.device))
    names = pipeline.personal.config.class_names
    wanted = [name.strip() for name in args.classes.split(",")] if args.classes else list(names)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"--classes {', '.join(unknown)}: must be of {', '.join(names)}")
    labels = sorted(names.index(wanted[k % len(wanted)]) for k in range(args.n))
    generator = None if args.seed is None else torch_generator(args.seed, "sample")
    found = pipeline(labels, args.steps, generator=generator, output_type="pt").images
    samples = LabelledImages(to_uint8(found * 2 - 1), torch.tensor(labels))
    save_samples(args.out_dir, "samples", samples)
    by_class = {k: samples.of_classes([k]).images.numpy() for k in sorted(set(labels))}
    columns = min(_COLUMNS, max(len(images) for images in by_class.values()))
    Image.fromarray(tile(by_class, list(by_class), columns)).save(args.out_dir / "samples.png")
    print(f"{args.n} images: {args.out_dir.resolve() / 'samples.png'} and samples.npz")
    return 0
