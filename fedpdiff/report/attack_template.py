"""The section of the page on attacks (Jinja2, autoescaped); it uses the macros of the page's template."""

from __future__ import annotations

ATTACKS = """
{% if attacks %}
<h2>What attackers found</h2>
{% if attacks.alarm %}<p class="banner" role="alert">{{ attacks.alarm }}</p>{% endif %}
<p{% if not attacks.works %} class="banner" role="alert"{% endif %}>{{ attacks.opening }}</p>
{% if attacks.works %}
<div class="scroll"><table class="answers">
<thead><tr><th scope="col">question</th><th scope="col" class="n">attack</th>
<th scope="col" class="n">guessing</th><th scope="col" class="n">allowed at most</th></tr></thead>
<tbody>
{% for answer in attacks.answers %}
<tr><td>{{ answer.question }}</td>
<td class="n">{{ answer.found }}</td><td class="n">{{ answer.guessing }}</td>
<td class="n">{{ answer.allowed }}</td></tr>
{% endfor %}
</tbody></table></div>
<p><em>Allowed at most</em> is what the guarantee leaves to any attack, for images as unlike each other as
the mechanism permits; <em>no limit</em> stands where there is no guarantee at all. What is not protected is
listed above.</p>
{{ picture("recovered") }}
{{ picture("levels") }}
<details><summary>All attacks, with confidence intervals</summary>
{{ picture("roc") }}
{{ picture("epsilon") }}
{{ tables(attacks.tables) }}
</details>
{% else %}
{{ tables(attacks.tables) }}
{% endif %}
{% for note in attacks.notes %}<p><small>{{ note }}</small></p>{% endfor %}
{% endif %}
"""

TABLES_MACRO = """
{% macro tables(some) %}
{% for table in some %}
<h3>{{ table.title }}</h3>
<div class="scroll"><table class="facts found">
<thead><tr>{% for cell in table.rows[0] %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows[1:] %}
<tr>{% for cell in row %}
<td{% if cell | length < 30 %} class="short"{% endif %}>{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p><small>{{ table.note }}</small></p>
{% endfor %}
{% endmacro %}
"""
