"""The page's template (Jinja2, autoescaped). A module, because Flower's app bundle carries no HTML files."""

from __future__ import annotations

from fedpdiff.report.attack_template import ATTACKS, TABLES_MACRO

STYLE = """
:root { --ink: #22262b; --soft: #5b626a; --line: #dfe3e7; --wash: #f6f7f9; --blue: #0062a8; --warn: #8a4b00; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); text-rendering: optimizeLegibility;
  font: 1.0625rem/1.6 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; }
main { max-width: 68rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1, h2, h3, .kicker, table, figcaption, .tiles, summary, .banner {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.kicker { color: var(--soft); font-size: .875rem; letter-spacing: .02em; margin: 0 0 .6rem; }
h1 { font-size: clamp(1.6rem, 1.1rem + 2vw, 2.35rem); line-height: 1.2; font-weight: 650;
  letter-spacing: -.015em; margin: 0 0 1.6rem; max-width: 24em; text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3.2rem 0 .8rem; letter-spacing: -.005em; }
h3 { font-size: 1rem; line-height: 1.3; margin: 2rem 0 .5rem; }
p, ul { max-width: 42em; margin: 0 0 1em; hyphens: manual; }
ul { padding-left: 1.2em; } li { margin-bottom: .35em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 0 2rem;
  margin: 0 0 2rem; padding: 0; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
.tiles div { padding: 1rem 0; } .tiles dt { font-size: .8125rem; color: var(--soft); }
.tiles dd { margin: .1rem 0 0; font-size: 1.5rem; font-weight: 600; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: .8125rem; font-weight: 400; letter-spacing: 0; color: var(--soft);
  line-height: 1.4; }
figure { margin: 1.4rem 0 1.8rem; } figure img { width: 100%; height: auto; display: block; }
figure div { overflow-x: auto; } .client img, .hero img { min-width: 44rem; }
figcaption { font-size: .875rem; color: var(--soft); margin-top: .5rem; max-width: 50em; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9375rem; line-height: 1.45;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
th, td { padding: .4rem 1.4rem .4rem 0; vertical-align: baseline; }
td.n, th.n { text-align: right; white-space: nowrap; }
tbody tr { border-bottom: 1px solid var(--line); }
td small { color: var(--soft); } .pfdm { font-weight: 650; color: var(--blue); }
.banner { border: 2px solid #b3261e; color: #7d1a14; background: #fdf3f2; padding: 1rem 1.2rem;
  margin: 0 0 1.8rem;  font-weight: 600; line-height: 1.45; }
.warning { border-left: 3px solid var(--warn); padding: .2rem 0 .2rem 1rem; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
.facts td, .facts th { font-size: .875rem; } .facts th { font-weight: 400; color: var(--soft); }
.facts td { overflow-wrap: anywhere; }
.found td { overflow-wrap: normal; } .found .short:nth-child(n+3) { white-space: nowrap; }
.roc img { max-width: 36rem; } .epsilon img { max-width: 44rem; }
.answers td.n, .answers th.n { min-width: 6.5rem; } .answers td:first-child { max-width: 34em; }
.answers td.n { white-space: normal; max-width: 12em; } .answers td { padding-bottom: .6rem; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .875rem; }
@media print { main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""

_MACROS = """
{% macro shown(figure) %}
<figure class="{{ figure.kind }}"><div><img src="{{ figure.source }}" alt="{{ figure.caption }}"></div>
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endmacro %}
{% macro who(run) %}
{% if run.participants %}<p>Took part: {{ run.participants | join(", ") }}.</p>{% endif %}
{% if run.refused %}<p>Left out:</p>
<ul>{% for r in run.refused %}
<li><strong>{{ r.site }}</strong>, in {{ r.phase }}: {{ r.reason }}</li>
{% endfor %}</ul>
{% else %}<p>Nobody was left out.</p>{% endif %}
{% endmacro %}
{% macro picture(kind) %}
{% for figure in figures if figure.kind == kind %}
{{ shown(figure) }}
{% endfor %}
{% endmacro %}
{% macro facts(rows) %}
<div class="scroll"><table class="facts"><tbody>
{% for name, value in rows %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</tbody></table></div>
{% endmacro %}
"""

_OPENING = """
<p class="kicker">fedpdiff · {{ run_name }} · seed {{ results.seed }}</p>
{% if privacy.banner %}<p class="banner" role="alert">{{ privacy.banner }}</p>{% endif %}
<h1>{{ headline }}</h1>
<dl class="tiles">
{% if pfdm %}<div><dt>Minority gap closed</dt><dd>{{ results.gap_closed_mean | percent }}
<small>0 %: training alone. 100 %: training on everybody’s images</small></dd></div>
<div><dt>Privacy of one image's pixels</dt><dd>ε = {{ results.privacy.get("epsilon") | epsilon }}
<small>at δ = {{ results.privacy.get("delta", "–") }}
{%- if privacy.banner %}; void here{% elif privacy.warning %}; nearly empty{% endif %}</small></dd></div>
{% else %}<div><dt>Guarantee for images</dt><dd>none<small>{{ results.server_sees }}</small></dd></div>
{% endif %}
{% if results.bytes_up %}<div><dt>Upload per client</dt><dd>{{ results.bytes_up | max | bytes }}
<small>{% if pfdm %}once; {% endif %}{{ results.bytes_down | max | bytes }} down</small></dd></div>
{% endif %}
{% if seconds is not none %}<div><dt>Time</dt><dd>{{ seconds | duration }}
<small>{{ results.clients | length }} clients</small></dd></div>{% endif %}
</dl>
{% for figure in figures if figure.kind == "hero" %}{% if loop.first %}
{{ shown(figure) }}
{% endif %}{% endfor %}
"""

_RESULTS = """
{% if methods %}
<h2>Results</h2>
<p>Frechet distance to real test images of the same classes, lower is better; the percentage is the share of
images that a classifier recognises as the class that was asked for. Minority classes are those a client has
few images of
{%- if results.clients | selectattr("groups.absent", "defined") | list %}
, absent those it has none of{% endif %}.
<em>Local-only</em> is what it makes from its own images, <em>{{ results.method_title }}</em>
what it makes together with the others.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">client</th><th scope="col">classes</th>
{% for _, label in methods %}<th scope="col" class="n">{{ label }}</th>{% endfor %}
<th scope="col" class="n">gap closed</th></tr></thead>
<tbody>
{% for client in results.clients %}{% set place = loop.index0 %}
{% for group in groups if group in client.groups %}
<tr><th scope="row">{{ client.name }}</th><td>{{ group }}</td>
{% set scores = client.groups[group] %}
{% for method, _ in methods %}
<td class="n">{% if method in scores %}{% set s = scores[method] %}
<span{% if method == results.method %} class="pfdm"{% endif %}>{{ s.frechet | number }}</span>
<small>{{ s.accuracy | percent }}</small>
{% else %}–{% endif %}</td>
{% endfor %}
<td class="n">{% if group == "minority" and place < results.gap_closed | length %}
{{ results.gap_closed[place] | percent }}{% endif %}</td>
</tr>
{% endfor %}{% endfor %}
</tbody></table></div>
{{ picture("distances") }}
{% if pfdm %}<p>The <em>oracle hand-off</em> lets the personal model refine real uploads instead of the global
model’s samples: what it gains over PFDM, the global model lacks.</p>{% endif %}
<p><em>Centralised</em> is one model trained on everybody’s clean images, without any privacy. The <em>real
floor</em> is the distance of other real images, which no model can be expected to beat. A dash means too few
images for a number{% if pfdm %}; for the gap closed, (local-only − PFDM) / (local-only − centralised), also
that the denominator is not above its spread over {{ results.gap_spread_over }}{% endif %}.
Distances are in {{ results.feature_space }}.</p>
{% endif %}
{% for note in results.notes %}<p>{{ note }}</p>
{% endfor %}{% if signatures %}
<h2>What went wrong, and what to change</h2>
<ul>{% for line in signatures %}<li>{{ line }}</li>
{% endfor %}</ul>
{% endif %}
{% if figures | selectattr("kind", "equalto", "client") | list %}
<h2>What each client makes</h2>
<p>The first samples of every class, not the best.{% if pfdm %} Between local-only and PFDM stands what is
handed over to the personal network, as far as the first stage can see it: its last estimate of the image.
{% endif %}</p>
{{ picture("client") }}
{% endif %}
"""

_PRIVACY = """
<h2>What the privacy statement means</h2>
<p>{{ privacy.promise }}</p>
{% if privacy.strength %}<p>{{ privacy.strength }}</p>{% endif %}
{% if privacy.warning %}<p class="warning">{{ privacy.warning }}</p>{% endif %}
<p>Not protected:</p>
<ul>{% for item in privacy.not_protected %}<li>{{ item }}</li>{% endfor %}</ul>
{{ facts(privacy.facts) }}
"""

_CERTIFICATES = """
<h2>Certificates</h2>
{% if results.release_noise == "seeded" and pfdm %}
<p>There is none: the noise of this run was simulated, so no upload guarantees anything.</p>
{% elif results.certificates %}
<p>With its upload each site states what it guarantees for every one of its images. A certificate counts as
verified if all its numbers follow from its settings when they are computed again, and if its hash fits the
bytes that the server received. That shows that nothing was misstated or exchanged; that the site made its
noise as stated rests on the code that the site ran.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">site</th><th scope="col" class="n">images</th>
<th scope="col" class="n">ε, this upload</th><th scope="col" class="n">ε, all uploads of an image</th>
<th scope="col" class="n">ε, one person</th><th scope="col">hash of the release</th>
<th scope="col">verified</th></tr></thead>
<tbody>
{% for c in results.certificates %}
<tr><th scope="row">{{ c.site }}</th><td class="n">{{ c.images }}</td>
<td class="n">{{ c.epsilon | epsilon }}<small> at δ = {{ c.delta }}</small></td>
<td class="n">{{ c.epsilon_total | epsilon }}<small> {{ c.noisings }}×</small></td>
<td class="n">{% if c.most_images_of_a_person is none %}not counted{% else %}
{{ c.epsilon_of_that_person | epsilon }}<small> {{ c.most_images_of_a_person }} images</small>{% endif %}</td>
<td><code>{{ (c.sha256 or "–")[:12] }}</code></td><td>{{ "yes" if c.verified else "NO" }}</td></tr>
{% endfor %}
</tbody></table></div>
<p><em>This upload</em>: one noisy copy of an image. <em>All uploads of an image</em>: with every noisy copy
of it that the site ever made, here and in other runs. <em>One person</em>: the person with most released
images, where the site counts persons. The whole certificates lie in <code>server/spool/</code> of the run
folder; <code>fedpdiff verify</code> checks them again.</p>
{% elif not pfdm %}
<p>There is none: no noisy copies were uploaded.</p>
{% else %}
<p>This run has none, so its privacy statement rests on the settings alone.</p>
{% endif %}
{% if deleted %}<p>Deleted since, with certificate and models kept:</p>
<ul>{% for d in deleted %}<li>{{ d.words }}</li>
{% endfor %}</ul>
<p>Models that were trained on a deleted upload keep its influence. What anyone can learn from them about an
image in it is bounded by its certificate.</p>{% endif %}
"""

_RUN = """
<h2>How the run went</h2>
{{ who(results) }}
{% if again %}<p>Ran out of the GPU’s memory, and worked again with no other client on it:
{{ again | join(", ") }}. A smaller <code>gpu-clients</code> or <code>batch-size</code> avoids that.</p>
{% endif %}
{{ picture("timeline") }}
{{ picture("losses") }}
{% if results.bytes_up %}
<div class="scroll"><table><thead><tr><th scope="col">client</th><th scope="col" class="n">sent up</th>
<th scope="col" class="n">received</th></tr></thead><tbody>
{% for client in results.clients %}<tr><th scope="row">{{ client.name }}</th>
<td class="n">{{ results.bytes_up[loop.index0] | bytes }}</td>
<td class="n">{{ results.bytes_down[loop.index0] | bytes }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
{% if settings %}<details><summary>Settings</summary>{{ facts(settings) }}</details>{% endif %}
{% if environment %}<details><summary>Environment</summary>{{ facts(environment) }}</details>{% endif %}
<footer>Made by <code>fedpdiff report</code> from the files in the run folder.
PFDM: Patel et al., arXiv 2504.00952.</footer>
"""

_FAILURE = """
<p class="kicker">fedpdiff · {{ run_name }}</p>
<h1>This run did not finish.</h1>
<p class="banner" role="alert">{{ reason }}</p>
<h2>Who came</h2>
{{ who(run) }}
{% if settings %}<details open><summary>Settings</summary>{{ facts(settings) }}</details>{% endif %}
"""


def _document(body: str) -> str:
    return f"""{_MACROS}{TABLES_MACRO}<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fedpdiff · {{{{ run_name }}}}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


PAGE = _document(f"{_OPENING}{_RESULTS}{_PRIVACY}{ATTACKS}{_CERTIFICATES}{_RUN}")
FAILURE_PAGE = _document(_FAILURE)
