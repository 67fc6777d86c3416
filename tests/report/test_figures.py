"""Figures: the right image in the right place, phases from events, and nothing drawn from nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from fedpdiff.report import charts, figures, grids
from fedpdiff.report.run_files import RunFiles
from fedpdiff.results import Group, Results

Build = Callable[..., Path]


def test_rows_are_classes_and_columns_samples() -> None:
    images = {k: np.full((3, 1, 8, 8), 10 * k, dtype=np.uint8) for k in (1, 4)}
    images[4][1] = 200
    picture = grids.tile(images, (4, 1, 7), columns=4)
    step = picture.shape[0] // 3
    centres = picture[step // 2 :: step, step // 2 :: step, 0]
    assert centres.tolist() == [[40, 200, 40, 255], [10, 10, 10, 255], [255] * 4]  # nothing: white


def test_colour_images_keep_their_channels() -> None:
    image = np.zeros((1, 3, 16, 16), dtype=np.uint8)
    image[0, 0] = 90
    assert grids.tile({0: image}, (0,), 1)[5, 5].tolist() == [90, 0, 0]


def test_small_images_are_enlarged_without_smoothing() -> None:
    image = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)[None, None]
    picture = grids.tile({0: image}, (0,), 1)
    assert picture.shape[0] >= 64
    assert set(np.unique(picture)) == {0, 255}


def test_minority_classes_come_first(run_folder: Build) -> None:
    run = RunFiles.read(run_folder())
    client = run.results.clients[0]
    rows = grids._rows(client, {"pfdm": run.samples(0, "pfdm")})
    assert [(part.group, part.classes) for part in rows] == [
        ("minority", (5, 6, 7, 8, 9)),
        ("majority", (0, 1, 2, 3, 4)),
    ]


def test_classes_without_images_are_drawn_as_well(run_folder: Build) -> None:
    run = RunFiles.read(run_folder())
    client = run.results.clients[0]
    classes: dict[Group, list[int]] = {"majority": [0, 1, 2, 3, 4], "minority": [5, 6], "absent": [7, 8, 9]}
    asked = client.model_copy(update={"classes": classes})
    rows = grids._rows(asked, {"pfdm": run.samples(0, "pfdm")})
    assert [part.group for part in rows] == ["minority", "absent", "majority"]
    only = client.model_copy(update={"classes": {**classes, "minority": []}})
    path = grids.hero(run, only, run.folder / "figures" / "hero.png")
    assert path
    with Image.open(path) as picture:
        three = picture.height
    path = grids.hero(run, asked, run.folder / "figures" / "hero.png")
    assert path
    with Image.open(path) as picture:
        assert picture.height > 1.4 * three  # five rows


def test_grids_are_readable_files(run_folder: Build) -> None:
    run = RunFiles.read(run_folder())
    client = run.results.clients[1]
    before = dict(matplotlib.rcParams)
    for draw in (grids.client_grid, grids.hero):
        path = draw(run, client, run.folder / "figures" / "grid.png")
        with Image.open(path) as picture:
            assert picture.width > 1500
            assert len(np.unique(np.asarray(picture.convert("L")))) > 100
    assert dict(matplotlib.rcParams) == before


def test_one_group_of_classes_gets_a_figure_of_the_same_width(run_folder: Build, tmp_path: Path) -> None:
    """The legend of all methods needs it."""
    results = Results.read(run_folder())
    one = [
        client.model_copy(update={"groups": {"majority": client.groups["majority"]}})
        for client in results.clients
    ]
    widths = []
    for found in (results, results.model_copy(update={"clients": one})):
        path = charts.distances(found, tmp_path / "distances.png")
        assert path
        with Image.open(path) as picture:
            widths.append(picture.width)
    assert widths[0] == widths[1]


def test_nothing_to_draw_gives_no_file(run_folder: Build, tmp_path: Path) -> None:
    folder = run_folder()
    run = RunFiles.read(folder)
    nobody = run.results.clients[0].model_copy(update={"client": 9})
    assert grids.client_grid(run, nobody, tmp_path / "a.png") is None
    assert grids.hero(run, nobody, tmp_path / "a.png") is None
    assert charts.losses([], tmp_path / "a.png") is None
    assert charts.timeline([], tmp_path / "a.png") is None
    empty = run.results.model_copy(update={"clients": []})
    assert charts.distances(empty, tmp_path / "a.png") is None
    assert not (tmp_path / "a.png").exists()


def event(who: str, phase: str, state: str, time: float) -> dict:
    return {"who": who, "phase": phase, "state": state, "time": time, "done": 0, "total": 0, "loss": None}


def test_phases_that_overlap_repeat_or_never_end() -> None:
    events = [
        event("server", "upload", "start", 0),
        event("client-0", "training", "start", 1),
        event("server", "upload", "end", 2),
        event("server", "upload", "start", 3),
        event("client-0", "training", "progress", 4),
        event("server", "upload", "end", 5),
    ]
    assert charts.phase_spans(events) == [
        ("server", "upload", 0, 2),
        ("client-0", "training", 1, 4),
        ("server", "upload", 3, 5),
    ]


def test_of_many_clients_the_first_are_drawn_and_the_page_says_so(
    run_folder: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("hero", "client_grid"):
        monkeypatch.setattr(grids, name, lambda run, client, path: path)
    run = RunFiles.read(run_folder())
    many = run.results.model_copy(update={"clients": run.results.clients * 20})
    drawn = figures.draw_figures(replace(run, results=many))
    assert [one.kind for one in drawn].count("hero") == charts.MAX_CLIENTS
    captions = {one.kind: one.caption for one in drawn}
    for kind in ("distances", "timeline"):
        assert captions[kind].endswith(f"The first {charts.MAX_CLIENTS} of 40 clients.")
    few = {one.kind: one.caption for one in figures.draw_figures(run)}
    assert not any("clients." in caption and "first" in caption for caption in few.values())
