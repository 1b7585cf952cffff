"""The report's page as a jinja2 template: one file, no script, no address, light and dark.

Kept as a module so that it is part of the package wherever the code is. Not here: what goes in (`report`).
"""

STYLE = """
:root { color-scheme: light dark; --sans: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  sans-serif; --paper: #fbfaf7; --card: #ffffff; --ink: #1d1c1a; --soft: #6f6b64; --rule: #e6e2da; --accent: #b4431f;
  --s1: #b4431f; --s2: #24618e; --s3: #4d7c3a; --s4: #8a5fa8; --s5: #b0822a; --s6: #5c6770; }
@media (prefers-color-scheme: dark) { :root { --paper: #151513; --card: #1d1d1a; --ink: #ece9e2; --soft: #a19c92;
  --rule: #33322d; --accent: #ef8a5f; --s1: #ef8a5f; --s2: #7ab6e3; --s3: #9ccb84; --s4: #c8a2e2; --s5: #e2b95f;
  --s6: #a7b1ba; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--sans);
  font-variant-numeric: tabular-nums; -webkit-font-smoothing: antialiased; }
main { max-width: 68rem; margin: 0 auto; padding: 4rem 1.5rem 5rem; }
h1 { font-size: clamp(1.9rem, 4.5vw, 2.9rem); line-height: 1.12; letter-spacing: -0.022em; font-weight: 650; margin: 0;
  max-width: 24ch; text-wrap: balance; }
h2 { font-size: 1.2rem; letter-spacing: -0.01em; font-weight: 620; margin: 4rem 0 0.35rem; }
summary { cursor: pointer; margin: 1.6rem 0 0.8rem; } summary h2 { display: inline; font-size: 1rem; }
p { margin: 0.4rem 0 0; max-width: 66ch; } .soft, figcaption { color: var(--soft); }
.lead { font-size: 1.12rem; color: var(--soft); margin-top: 1rem; }
.scroll { overflow-x: auto; margin: 1.1rem -0.25rem 0; padding: 0 0.25rem; }
dl.facts { display: flex; flex-wrap: wrap; gap: 0.4rem 3rem; margin: 2.4rem 0 0; padding: 1.4rem 0 0;
  border-top: 1px solid var(--rule); }
dl.facts div { display: flex; flex-direction: column-reverse; }
dl.facts dt { color: var(--soft); font-size: 0.86rem; } dl.facts dd { margin: 0; font-size: 1.75rem; font-weight: 600;
  letter-spacing: -0.02em; line-height: 1.3; }
table { border-collapse: collapse; width: 100%; font-size: 0.89rem; }
th, td { padding: 0.5rem 0.7rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 500; color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child, .text { text-align: left; } td:first-child { font-weight: 550; }
th:first-child, td:first-child { padding-left: 0; } th:last-child, td:last-child { padding-right: 0; }
tr.best td { color: var(--accent); }
.pictures { width: auto; min-width: 100%; } .pictures th, .pictures td { border: 0; padding: 0 0 0.6rem 0.6rem; }
.pictures th[scope=row] { text-align: left; vertical-align: middle; white-space: normal; width: 11rem; min-width: 9rem;
  padding: 0 0.8rem 0.6rem 0; color: var(--ink); font-weight: 600; line-height: 1.3; }
.pictures th[scope=row] span { display: block; color: var(--soft); font-weight: 400; font-size: 0.82rem;
  margin-top: 0.15rem; }
.pictures img { display: block; width: 100%; min-width: 7rem; aspect-ratio: 1; border-radius: 6px; }
.pictures .caption { white-space: normal; text-align: left; vertical-align: top; color: var(--soft); font-size: 0.78rem;
  line-height: 1.4; font-weight: 400; }
figure { margin: 1.1rem 0 0; } figure svg { width: 100%; height: auto; display: block; min-width: 36rem; }
.stages { display: grid; grid-template-columns: minmax(9rem, auto) 1fr auto; gap: 0.55rem 1.1rem; align-items: center;
  margin-top: 1.1rem; font-size: 0.89rem; }
.stages .bar { display: flex; height: 0.8rem; border-radius: 4px; overflow: hidden; gap: 2px; }
.stages .bar i, .key i { display: block; background: var(--colour); } .stages .time { text-align: right; }
.key { display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; margin-top: 0.9rem; color: var(--soft); font-size: 0.86rem; }
.key span { display: flex; align-items: center; gap: 0.45rem; } .key i { width: 0.75rem; height: 0.75rem;
  border-radius: 3px; }
.notes { font-size: 0.86rem; color: var(--soft); padding-left: 1.1rem; } .notes li { margin-top: 0.25rem; }
.machine { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1.6rem; margin: 1.1rem 0 0;
  font-size: 0.89rem; } .machine dt { color: var(--soft); } .machine dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 4.5rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); color: var(--soft);
  font-size: 0.84rem; }
@media (max-width: 40rem) { main { padding-top: 2.5rem; } dl.facts { gap: 0.8rem 2rem; }
  .machine, .stages { grid-template-columns: 1fr; gap: 0.15rem; } .machine dd, .stages .time { margin-bottom: 0.6rem;
  text-align: left; } }
@media print { body { background: none; } main { padding: 0; max-width: none; } h2 { break-after: avoid; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<header>
<h1>{{ title }}</h1>
{% if lead %}<p class="lead">{{ lead }}</p>{% endif %}
{% if facts %}<dl class="facts">
{% for value, name in facts %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}</dl>{% endif %}
</header>
{% for grid in grids %}
<section>
{% if grid.folded %}<details><summary><h2>{{ grid.title }}</h2></summary>
{% else %}<h2>{{ grid.title }}</h2>{% endif %}

<div class="scroll"><table class="pictures">
{% for row in grid.rows %}<tr><th scope="row">{{ row.label }}<span>{{ row.detail }}</span></th>
{% for picture in row.pictures %}
<td><img src="{{ picture }}" alt="{{ row.label }}: {{ grid.captions[loop.index0] }}"></td>
{% endfor %}</tr>
{% endfor %}<tr><td></td>{% for caption in grid.captions %}<td class="caption">{{ caption }}</td>{% endfor %}</tr>
</table></div>
{% if grid.folded %}</details>{% endif %}

</section>
{% endfor %}
{% if plot %}
<section>
<h2>Quality against latency</h2>
<p class="soft">{{ plot_title }}; lower and further left is better.</p>
<figure class="scroll">{{ plot }}</figure>
</section>
{% endif %}
{% for name, svg in plots %}
<section><h2>{{ name }}</h2><figure class="scroll">{{ svg }}</figure></section>
{% endfor %}
{% if table %}
<section>
<h2>Measured</h2>
<p class="soft">One picture at a time; percentiles over {{ runs }} pictures.
Cold start is from starting a process to its first picture.</p>
<div class="scroll"><table>
<thead><tr>{% for name in table.names %}
<th{% if loop.index0 in table.left %} class="text"{% endif %}>{{ name }}</th>
{% endfor %}</tr></thead>
<tbody>{% for cells in table.rows %}<tr{% if loop.index0 == table.best %} class="best"{% endif %}>
{% for cell in cells %}<td{% if loop.index0 in table.left %} class="text"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
</section>
<section>
<h2>Where the time goes</h2>
<div class="key">{% for name, colour in stages %}
<span><i style="--colour: var({{ colour }})"></i>{{ name }}</span>
{% endfor %}</div>
<div class="stages">{% for bar in bars %}
<div>{{ bar.label }}</div>
<div class="bar">{% for width, colour, hint in bar.parts %}
<i style="width: {{ width }}%; --colour: var({{ colour }})" title="{{ hint }}"></i>
{% endfor %}</div>
<div class="time">{{ bar.time }}</div>
{% endfor %}
</div>
</section>
{% endif %}
{% if evaluations %}
<section>
<h2>Picture quality</h2>
<p class="soft">{{ evaluations_note }}</p>
<div class="scroll"><table>
<thead><tr>{% for name in evaluations.names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for cells in evaluations.rows %}<tr>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
</section>
{% endif %}
{% if machine %}
<section>
<h2>Machine and method</h2>
<dl class="machine">
{% for name, value in machine %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl>
</section>
{% endif %}
{% if notes %}
<section>
<h2>Not available</h2>
<ul class="notes">{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
</section>
{% endif %}
<footer>Made by genin {{ version }}.</footer>
</main>
</body>
</html>
"""
