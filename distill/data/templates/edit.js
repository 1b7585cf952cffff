const sheet = document.querySelector('.sheet'), store = 'genin:' + location.pathname + document.title;
const fields = [...sheet.querySelectorAll('[data-column]')];
const rowOf = field => field.closest('figure');
const lacksCaption = row => !row.querySelector('[data-column=text]').value.trim();
let unsaved = {};
try { unsaved = JSON.parse(localStorage.getItem(store) || '{}'); } catch (error) { unsaved = {}; }
const earlier = new Map();  // a picture may have several rows
for (const row of sheet.children) {
  row.dataset.place = earlier.get(row.dataset.file) || 0;
  earlier.set(row.dataset.file, Number(row.dataset.place) + 1);
}
const key = field => rowOf(field).dataset.file + '/' + field.dataset.column +
  (rowOf(field).dataset.place === '0' ? '' : '/' + rowOf(field).dataset.place);
const show = () => {
  const changed = fields.filter(field => field.value !== field.defaultValue);
  for (const field of fields) (field.tagName === 'TEXTAREA' ? rowOf(field) : field.parentElement)
    .classList.toggle('changed', field.value !== field.defaultValue);
  document.querySelector('#count').textContent = [...sheet.children].filter(lacksCaption).length;
  const shown = [...sheet.children].filter(row => !row.hidden).length;
  document.querySelector('#state').textContent = changed.length + ' changed' +
    (shown < sheet.children.length ? ', ' + shown + ' of ' + sheet.children.length + ' shown' : '');
};
for (const field of fields) {
  const [was, now] = unsaved[key(field)] || [];
  if (was === field.defaultValue) field.value = now;  // words about another caption than this are out of date
}
const keep = field => { unsaved[key(field)] = [field.defaultValue, field.value]; };
const storeAndShow = () => {
  try { localStorage.setItem(store, JSON.stringify(unsaved)); } catch (error) { /* a full store: Save still works */ }
  show();
};
sheet.addEventListener('input', event => { keep(event.target); storeAndShow(); });
document.querySelector('#replace').addEventListener('click', () => {
  const old = document.querySelector('#old').value, now = document.querySelector('#new').value;
  if (!old) return;
  for (const field of fields) if (field.tagName === 'TEXTAREA' && !rowOf(field).hidden && field.value.includes(old)) {
    field.value = field.value.replaceAll(old, () => now);
    keep(field);
  }
  storeAndShow();
});
const filter = () => {  // not while somebody writes: a caption that gets its first letter stays in sight
  const words = document.querySelector('#find').value.toLowerCase(), missing = document.querySelector('#missing').checked;
  for (const row of sheet.children) row.hidden = missing && !lacksCaption(row) ||
    ![...row.querySelectorAll('[data-column]'), {value: row.dataset.source}].some(field => field.value.toLowerCase().includes(words));
  show();
};
document.querySelector('#find').addEventListener('input', filter);
document.querySelector('#missing').addEventListener('change', filter);
document.querySelector('#save').addEventListener('click', () => {
  const lines = [], rows = [...sheet.children];
  const changed = row => [...row.querySelectorAll('[data-column]')].filter(field => field.value !== field.defaultValue);
  const files = new Set(rows.filter(row => changed(row).length).map(row => row.dataset.file));
  for (const row of rows) if (files.has(row.dataset.file)) {  // all rows of a picture: they are told apart by their order
    const said = changed(row).map(field => [field.dataset.column, field.value]);
    lines.push(JSON.stringify({file_name: row.dataset.file, ...Object.fromEntries(said)}));
  }
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([lines.join('\n') + '\n'], {type: 'application/jsonl'}));
  link.download = 'captions.jsonl';
  link.click();
});
filter();
