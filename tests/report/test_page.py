"""report.html: self-contained, safe with names from the network, honest about privacy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedpdiff.errors import RunError
from fedpdiff.report import page
from fedpdiff.report.page import headline, write_report
from fedpdiff.results import Refusal, Results

Build = Callable[..., Path]


class Outline(HTMLParser):
    """Collects tags, what they load and whether each tag is closed."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out where only words are looked at: they take seconds."""
    monkeypatch.setattr(page, "draw_figures", lambda run: [])


def change(folder: Path, **values: object) -> None:
    results = Results.read(folder)
    Results.model_validate({**results.model_dump(), **values}).write(folder)


def read(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_a_complete_run_gives_one_self_contained_page(run_folder: Build) -> None:
    folder = run_folder()
    text = read(folder)
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert not {"script", "link", "iframe"} & set(outline.tags)
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(outline.images) == 6  # one hero, two clients, distances, timeline, losses
    for image in outline.images:
        assert str(image["src"]).startswith("data:image/png;base64,")
        assert image["alt"]
    assert "55 %" in text and "ε = 50" in text
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {f"{name}-{k}.png" for name in ("hero", "client") for k in (0, 1)} | {
        "distances.png",
        "losses.png",
        "timeline.png",
    }
    assert not list(folder.rglob("*.tmp"))


def test_results_json_alone_is_enough(run_folder: Build) -> None:
    folder = run_folder()
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "results.json":
            entry.unlink()
    assert "Results" in read(folder)
    assert (folder / "results.md").is_file()


def test_a_moved_folder_gives_the_same_page(run_folder: Build, tmp_path: Path) -> None:
    first = read(run_folder("one"))
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "one")
    assert read(tmp_path / "elsewhere" / "one") == first


def test_no_results_no_report(run_folder: Build) -> None:
    folder = run_folder()
    (folder / "results.json").unlink()
    with pytest.raises(RunError, match=r"has no results\.json.*config\.json"):
        write_report(folder)


def test_damaged_samples_are_named(run_folder: Build) -> None:
    folder = run_folder()
    (folder / "client-1" / "samples" / "pfdm.npz").write_bytes(b"not an archive")
    with pytest.raises(RunError, match=r"client-1/samples/pfdm\.npz is damaged"):
        write_report(folder)


@pytest.mark.filterwarnings("error")
def test_names_from_the_network_are_text_and_nothing_else(run_folder: Build) -> None:
    bad = "<script>alert(1)</script> $\\frac$ {{ 7*7 }} \N{PILE OF POO} 医院"
    folder = run_folder(name=bad, config={bad: bad})
    refused = Refusal(site=bad, phase=bad, reason=bad)
    change(folder, refused=[refused], notes=[bad], class_names=[bad] * 10, feature_space=bad)
    text = read(folder)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "49" not in re.findall(r"alert\(1\)[^<]*", text)[0]


@pytest.mark.usefixtures("no_figures")
def test_seeded_noise_is_stamped_not_private(run_folder: Build) -> None:
    folder = run_folder()
    assert "NOT PRIVATE" not in read(folder)
    change(folder, release_noise="seeded")
    assert "NOT PRIVATE" in read(folder)
    assert "NOT PRIVATE" in (folder / "results.md").read_text()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(("epsilon", "warned"), [(20.0, False), (20.1, True)])
def test_a_large_epsilon_is_called_weak(run_folder: Build, epsilon: float, warned: bool) -> None:
    text = read(run_folder(epsilon=epsilon))
    assert ("promises very little" in text) == warned
    assert "one image" in text


@pytest.mark.usefixtures("no_figures")
def test_no_epsilon_is_no_protection(run_folder: Build) -> None:
    folder = run_folder()
    change(folder, privacy={})
    assert "not protected" in read(folder)


CERTIFICATE = {
    "site": "clinic-7",
    "images": 481,
    "epsilon": 8.774,
    "delta": 1e-5,
    "noisings": 2,
    "epsilon_total": 13.492,
    "sha256": "0123456789abcdef" * 4,
    "verified": True,
}


@pytest.mark.usefixtures("no_figures")
def test_certificates_are_listed(run_folder: Build) -> None:
    folder = run_folder()
    assert "rests on the settings alone" in read(folder)
    person = {"most_images_of_a_person": 4, "epsilon_of_that_person": 28.5}
    other = {**CERTIFICATE, "site": "<b>evil</b>", "verified": False, **person}
    change(folder, certificates=[CERTIFICATE, other])
    text = read(folder)
    assert "rests on the settings alone" not in text
    rows = [" ".join(re.sub("<[^>]+>", " ", row).split()) for row in re.findall(r"<tr>.*?</tr>", text, re.S)]
    numbers = "481 8.774 at δ = 1e-05 13.492 2×"
    assert f"clinic-7 {numbers} not counted 0123456789ab yes" in rows
    assert f"&lt;b&gt;evil&lt;/b&gt; {numbers} 28.5 4 images 0123456789ab NO" in rows


@pytest.mark.usefixtures("no_figures")
def test_simulated_noise_has_no_certificates(run_folder: Build) -> None:
    folder = run_folder()
    without = {"site": "client-0", "images": 12, "verified": False}
    change(folder, release_noise="seeded", certificates=[without])
    assert "There is none: the noise of this run was simulated" in read(folder)


@pytest.mark.usefixtures("no_figures")
def test_refused_sites_are_named_with_phase_and_reason(run_folder: Build) -> None:
    folder = run_folder()
    change(folder, refused=[Refusal(site="clinic-7", phase="upload", reason="noise too small")])
    text = read(folder)
    assert "clinic-7" in text and "noise too small" in text and "Nobody was left out" not in text


@pytest.mark.parametrize(
    ("pfdm", "words"), [(3.0, "closer to real"), (9.0, "further from real"), (None, "too few images")]
)
def test_the_headline_says_gain_or_loss(run_folder: Build, pfdm: float | None, words: str) -> None:
    assert words in headline(Results.read(run_folder(pfdm=pfdm)))


@pytest.mark.usefixtures("no_figures")
def test_of_classes_without_images_it_says_what_share_is_right(run_folder: Build) -> None:
    folder = run_folder()
    found = Results.read(folder).clients
    assert "those it has none of" not in read(folder)
    absent = [{"local": {"accuracy": 0.02}, "pfdm": {"accuracy": share}} for share in (0.8, 0.9)]
    clients = [
        {
            **client.model_dump(),
            "groups": {"majority": client.model_dump()["groups"]["majority"], "absent": one},
        }
        for client, one in zip(found, absent, strict=True)
    ]
    change(folder, clients=clients)
    text = read(folder)
    assert "no image of, 85 % of the samples are right; alone 2 %." in text
    assert "absent those it has none of" in text


@pytest.mark.usefixtures("no_figures")
def test_a_run_without_numbers_still_has_a_page(run_folder: Build) -> None:
    folder = run_folder()
    clients = [{"client": 0, "name": "a", "groups": {"majority": {"pfdm": {}}}}]
    change(folder, clients=clients, gap_closed=[None], gap_closed_mean=None, bytes_up=[0], bytes_down=[0])
    text = read(folder)
    assert "too few images of rare classes" in text


@pytest.mark.usefixtures("no_figures")
def test_a_deployment_keeps_its_scores_and_still_has_a_page(run_folder: Build) -> None:
    folder = run_folder()
    change(folder, clients=[{"client": 0, "name": "clinic"}], gap_closed=[None], gap_closed_mean=None)
    text = read(folder)
    assert "scores stay with the clients" in text
    assert "<h2>Results" not in text
    assert (folder / "results.md").read_text().startswith("- Privacy")
