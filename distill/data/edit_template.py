"""The markup of the page on which captions are corrected: every picture above its caption, one file beside the dataset.

What is typed stays in the browser until "Save" hands over what was changed as a JSON Lines file, which `genin data edit --from`
reads. The page keeps unsaved words in the browser's own store, so a closed tab loses nothing.
"""

from genin.benchmarks.report import report_template

STYLE = (
    report_template.STYLE
    + """
.bar { position: sticky; top: 0; display: flex; gap: 1rem; align-items: center; padding: 0.9rem 0; background: var(--paper);
  border-bottom: 1px solid var(--rule); z-index: 1; }
.bar input { flex: 1; min-width: 8rem; } .bar span { color: var(--soft); font-size: 0.86rem; white-space: nowrap; }
input, textarea, button { font: inherit; font-size: 0.86rem; color: inherit; background: var(--card); padding: 0.45rem 0.6rem;
  border: 1px solid var(--rule); border-radius: 6px; width: 100%; }
button { width: auto; cursor: pointer; background: var(--accent); color: var(--paper); border: 0; font-weight: 560;
  padding: 0.5rem 1.1rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 2rem 1.4rem; margin-top: 1.6rem; }
.sheet img { width: 100%; height: 13rem; object-fit: contain; background: var(--card); border-radius: 6px; }
.sheet textarea { resize: vertical; min-height: 4.4rem; margin-top: 0.5rem; line-height: 1.4; }
.sheet label { display: grid; grid-template-columns: 6.5rem 1fr; align-items: center; gap: 0.5rem; margin-top: 0.35rem;
  font-size: 0.8rem; color: var(--soft); }
.sheet figure { margin: 0; } .sheet figcaption { font-size: 0.76rem; margin-top: 0.4rem; overflow-wrap: anywhere; }
.sheet figure.changed textarea, .sheet label.changed input { border-color: var(--accent); }
[hidden] { display: none; }
"""
)

SCRIPT = """
const sheet = document.querySelector('.sheet'), store = 'genin:' + location.pathname + document.title;
const fields = [...sheet.querySelectorAll('[data-column]')];
const rowOf = field => field.closest('figure');
let unsaved = {};
try { unsaved = JSON.parse(localStorage.getItem(store) || '{}'); } catch (error) { unsaved = {}; }
const key = field => rowOf(field).dataset.file + '/' + field.dataset.column;
const show = () => {
  const changed = fields.filter(field => field.value !== field.defaultValue);
  for (const field of fields) (field.tagName === 'TEXTAREA' ? rowOf(field) : field.parentElement)
    .classList.toggle('changed', field.value !== field.defaultValue);
  const missing = fields.filter(field => field.dataset.column === 'text' && !field.value.trim()).length;
  document.querySelector('#state').textContent = changed.length + ' changed, ' + missing + ' without a caption';
};
for (const field of fields) {
  const [was, now] = unsaved[key(field)] || [];
  if (was === field.defaultValue) field.value = now;  // words about another caption than this are out of date
}
sheet.addEventListener('input', event => {
  unsaved[key(event.target)] = [event.target.defaultValue, event.target.value];
  try { localStorage.setItem(store, JSON.stringify(unsaved)); } catch (error) { /* a full store: Save still works */ }
  show();
});
document.querySelector('#find').addEventListener('input', event => {
  const words = event.target.value.toLowerCase();
  for (const row of sheet.children) row.hidden = ![...row.querySelectorAll('[data-column]'), {value: row.dataset.source}]
    .some(field => field.value.toLowerCase().includes(words));
});
document.querySelector('#save').addEventListener('click', () => {
  const lines = [];
  for (const row of sheet.children) {
    const changed = [...row.querySelectorAll('[data-column]')].filter(field => field.value !== field.defaultValue);
    const said = changed.map(field => [field.dataset.column, field.value]);
    if (said.length) lines.push(JSON.stringify({file_name: row.dataset.file, ...Object.fromEntries(said)}));
  }
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([lines.join('\\n') + '\\n'], {type: 'application/jsonl'}));
  link.download = 'captions.jsonl';
  link.click();
});
show();
"""

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Captions of {{ name }}</title><style>{{ style | safe }}</style></head><body><main>
<h1>Captions of {{ name }}</h1>
<p class="lead">Correct what is wrong, save, then: <code>genin data edit {{ name }} --from captions.jsonl</code></p>
<div class="bar"><input id="find" type="search" placeholder="Show captions with …" aria-label="Show captions with">
<span id="state"></span><button id="save">Save captions.jsonl</button></div>
<div class="sheet">
{% for row in rows %}
<figure data-file="{{ row.file_name }}" data-source="{{ row.source_file or '' }}">
<img src="{{ row.address }}" alt="" loading="lazy">
<textarea data-column="text" aria-label="Caption of {{ row.file_name }}">{{ row.text or '' }}</textarea>
{% for column in columns %}
<label>{{ column }}<input data-column="{{ column }}" value="{{ row[column] or '' }}"></label>
{% endfor %}
<figcaption>{{ row.source_file or row.file_name }}</figcaption></figure>
{% endfor %}
</div></main><script>{{ script | safe }}</script></body></html>
"""
