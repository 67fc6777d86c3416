"""Tables, figures and one page about a sweep, from its result files alone."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from fedpdiff.report.sweep_figures import draw_sweep
from fedpdiff.report.sweep_rows import read_sweep_rows
from fedpdiff.report.sweep_table import cells, findings, header, sweep_csv, sweep_latex, sweep_markdown

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fedpdiff · {{ name }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #22262b; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; font-size: .85rem; } .scroll { overflow-x: auto; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid #dfe2e6; vertical-align: top; }
img { max-width: 100%; } figcaption { color: #4c5259; font-size: .9rem; } figure { margin: 1.5rem 0; }
</style></head><body>
<h1>{{ sweep.description or name }}</h1>
<p>Mean ± standard deviation over seeds, each the mean over clients; Frechet distance to real test images,
lower is better. Utility: share of real test images recognised by a classifier trained on the samples alone;
fairness gap: its difference between majority and minority classes.</p>
<div class="scroll"><table>
<thead><tr>{% for title in header %}<th>{{ title }}</th>{% endfor %}</tr></thead><tbody>
{% for row in cells %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% for finding in findings %}<p>{{ finding }}.</p>{% endfor %}
{% for name in sweep.unfinished %}<p>Not finished: {{ name }}.</p>{% endfor %}
{% for caption, source in figures %}<figure><img alt="{{ caption }}" src="{{ source }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
<h2>What the server sees</h2>
<ul>{% for row in sweep.rows | unique(attribute="method") %}
<li><strong>{{ row.title }}</strong>: {{ row.server_sees }}. Guarantee: {{ row.guarantee }}.</li>
{% endfor %}</ul>
<p>Made by <code>fedpdiff report</code> from the files in the sweep's folder.</p>
</body></html>
"""


def write_sweep_report(folder: Path) -> Path:
    """Write ``sweep.md``, ``sweep.tex``, ``sweep.csv``, the figures and ``sweep.html`` into a sweep's folder.

    Raises
    ------
    RunError
        When the folder is not a sweep's, or no run of it has finished.
    """
    sweep = read_sweep_rows(folder)
    for name, text in (
        ("sweep.md", sweep_markdown(sweep)),
        ("sweep.tex", sweep_latex(sweep)),
        ("sweep.csv", sweep_csv(sweep)),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    figures = [
        (caption, f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}")
        for path, caption in draw_sweep(sweep, folder / "figures")
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    page = folder / "sweep.html"
    page.write_text(
        environment.from_string(_PAGE).render(
            name=folder.resolve().name,
            sweep=sweep,
            header=header(sweep),
            cells=cells(sweep),
            findings=findings(sweep),
            figures=figures,
        ),
        encoding="utf-8",
    )
    return page
