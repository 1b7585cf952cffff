"""The markup of a dataset's report page, a jinja2 template: one file, no script, no address, light and dark.

Not here: what goes in (`report`), the style that all of genin's pages share (`benchmarks.report_template`).
"""

from genin.benchmarks.report import report_template

STYLE = (
    report_template.STYLE
    + """
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1.4rem 1.2rem; margin-top: 1.2rem; }
.tile { font-size: 0.8rem; line-height: 1.35; overflow-wrap: anywhere; color: var(--soft); }
.tile div { display: flex; gap: 4px; height: 6rem; margin-bottom: 0.4rem; }
.tile img { height: 6rem; max-width: 100%; border-radius: 5px; object-fit: contain; object-position: left; }
.tile b { display: block; font-weight: 560; color: var(--ink); }
.tile .none { width: 6rem; border: 1px dashed var(--rule); border-radius: 5px; }
"""
)

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: {{ report.kept }} pictures</title><style>{{ style | safe }}</style></head><body><main>
<h1>{{ report.kept }} pictures in {{ name }}</h1>
<p class="lead">{{ report.dropped | length }} dropped{% if report.captions_missing %};
{{ report.captions_missing }} have no caption yet{% endif %}. Licence: {{ report.licence }}.</p>
<dl class="facts">
{% set kinds = {"picture": "pictures", "page": "pages", "comic": "comics", "video": "videos"} %}
{% for kind, count in report.taken_from.items() %}
<div><dt>from {{ kinds[kind] }}</dt><dd>{{ count }}</dd></div>
{% endfor %}
{% for split, count in report.splits.items() %}<div><dt>{{ split }}</dt><dd>{{ count }}</dd></div>{% endfor %}
{% for size, count in (report.sizes.items() | list)[:6] %}
<div><dt>of {{ size | replace("x", "×") }}</dt><dd>{{ count }}</dd></div>
{% endfor %}
</dl>
<h2>What is in it</h2>
<div class="tiles">
{% for picture, caption in sample %}
<div class="tile"><div><img src="{{ picture }}" alt=""></div>{{ caption }}</div>
{% endfor %}
</div>
<h2>Captions</h2>
{% if tokens %}
<p>{{ distinct }} different ones, of {{ tokens.mean }} tokens on average and {{ tokens.max }} at most;
{{ tokens.over_limit }} are longer than the {{ tokens.limit }} that CLIP reads. From
{% for origin, count in report.captions_from.items() %}
{{ origin }}: {{ count }}{{ "" if loop.last else ", " }}
{%- endfor %}.</p>
<p class="soft">{% for word, count in words %}{{ word }} {{ count }}{{ "" if loop.last else " · " }}{% endfor %}</p>
{% else %}
<p>None. Write them beside the pictures, or: <code>genin data caption {{ name }}</code></p>
{% endif %}
{% if report.notes %}
<h2>Notes</h2>
<ul class="notes">{% for note in report.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endif %}
<h2>What was dropped</h2>
{% if reasons %}
<div class="scroll"><table><thead><tr><th class="text">reason</th><th>pictures</th></tr></thead><tbody>
{% for reason, count in reasons %}<tr><td>{{ reason }}</td><td>{{ count }}</td></tr>{% endfor %}
</tbody></table></div>
<div class="tiles">
{% for entry in shown %}
<div class="tile"><div>
{% if entry.picture %}<img src="{{ entry.picture }}" alt="">{% else %}<span class="none"></span>{% endif %}
{% if entry.like %}<img src="{{ entry.like }}" alt="what it is like">{% endif %}
</div><b>{{ entry.reason }}</b>{{ entry.path }}</div>
{% endfor %}
</div>
{% if more > 0 %}<p class="soft">{{ more }} more are listed in dataset.json.</p>{% endif %}
{% if unread %}
<ul class="notes">{% for entry in unread %}<li>{{ entry.path }}: {{ entry.reason }}</li>{% endfor %}</ul>
{% endif %}
{% else %}
<p>Nothing.</p>
{% endif %}
</main></body></html>
"""
