"""Tables, figures and one page about a sweep, from its result files alone."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedpdiff.report.sweep_figures import draw_sweep
from fedpdiff.report.sweep_map import advice_error, map_markdown, map_table, read_map
from fedpdiff.report.sweep_map_figure import draw_map
from fedpdiff.report.sweep_rows import read_sweep_rows
from fedpdiff.report.sweep_table import cells, header, remarks, sweep_csv, sweep_latex, sweep_markdown
from fedpdiff.report.template import STYLE
from fedpdiff.runfolder import write_text

_PAGE = """{% macro figure(caption, source, width) %}
<figure><div><img alt="{{ caption }}" style="width: {{ width }}px" src="{{ source }}"></div>
<figcaption>{{ caption }}</figcaption></figure>
{% endmacro %}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fedpdiff · {{ name }}</title>
<style>{{ style }}
main { max-width: 92rem; } td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 20rem; } figure img { max-width: 100%; }
</style></head><body><main>
<p class="kicker">fedpdiff · {{ name }}</p>
<h1>{{ sweep.description or name }}</h1>
{% if map_figure %}{{ figure(*map_figure) }}{% endif %}
<p>Mean ± standard deviation over seeds, each the mean over clients. Frechet distance to real test images:
lower is better. Oracle hand-off: that of rare classes when real uploads are handed over. Gap closed: share of
the way from local-only to centralised, for rare classes. Utility: share of real test images recognised by a
classifier trained on the samples alone; fairness gap: its difference between majority and minority classes.
Traffic: the most of any client.</p>
<div class="scroll"><table>
<thead><tr>{% for title in header %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead><tbody>
{% for row in cells %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% if remarks %}<h2>What the numbers say</h2>
<ul>{% for remark in remarks %}<li>{{ remark }}</li>
{% endfor %}</ul>{% endif %}
{% if map_rows %}<h2>Where collaborating pays</h2>
<p>Gain: share of local-only’s distance of rare classes that PFDM takes away; expected: by
<code>fedpdiff advise</code>, from the settings alone. Oracle hand-off: the same when real uploads are handed
over; at best: what theory allows.</p>
<div class="scroll"><table>
<thead><tr>{% for title in map_rows[0] %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead><tbody>
{% for row in map_rows[1:] %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<ul>{% for line in map_error %}<li>{{ line }}</li>
{% endfor %}</ul>{% endif %}
{% if figures %}<h2>Figures</h2>{% endif %}
{% for one in figures %}{{ figure(*one) }}{% endfor %}
<h2>What the server sees, and what is guaranteed</h2>
<ul>{% for row in sweep.rows | unique(attribute="method") %}
<li><strong>{{ row.title }}</strong>: {{ row.server_sees }}.
Guarantee: {{ guarantees[row.method] | join("; ") }}.</li>
{% endfor %}</ul>
<footer>Made by <code>fedpdiff report</code> from the files in the sweep's folder.</footer>
</main></body></html>
"""


def write_sweep_report(folder: Path) -> Path:
    """Write ``sweep.md``, ``sweep.tex``, ``sweep.csv``, the figures and ``sweep.html`` into a sweep's folder.

    Raises
    ------
    RunError
        When the folder is not a sweep's, or no run of it has finished.
    """
    sweep = read_sweep_rows(folder)
    map_cells = read_map(sweep)
    write_text(folder / "sweep.md", sweep_markdown(sweep) + map_markdown(map_cells))
    write_text(folder / "sweep.tex", sweep_latex(sweep))
    write_text(folder / "sweep.csv", sweep_csv(sweep))
    drawn_map = draw_map(map_cells, folder / "figures" / "map.png")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    guarantees: dict[str, list[str]] = {}
    for row in sweep.rows:
        said = guarantees.setdefault(row.method, [])
        said += [row.guarantee] * (row.guarantee not in said)
    text = environment.from_string(_PAGE).render(
        name=folder.resolve().name,
        style=Markup(STYLE),
        sweep=sweep,
        header=header(sweep),
        cells=cells(sweep),
        remarks=remarks(sweep),
        map_figure=_inlined(*drawn_map) if drawn_map else None,
        figures=[_inlined(*pair) for pair in draw_sweep(sweep, folder / "figures")],
        map_rows=map_table(map_cells) if map_cells else [],
        map_error=advice_error(map_cells),
        guarantees=guarantees,
    )
    write_text(folder / "sweep.html", text)
    return folder / "sweep.html"


def _inlined(path: Path, caption: str) -> tuple[str, str, int]:
    """Return caption, source and width in CSS pixels, of which figures have half as many as of their own."""
    data = path.read_bytes()
    width = int.from_bytes(data[16:20], "big") // 2  # a PNG's first chunk begins with it
    return caption, f"data:image/png;base64,{base64.b64encode(data).decode()}", width
