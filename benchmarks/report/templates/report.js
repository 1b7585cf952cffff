/* What the page can do beyond being read: filters, differences, pictures enlarged. Without it everything is shown. What is chosen
   is in the address's fragment, so that the view can be shared. */
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (tag, values = {}, ...inside) => {
  const one = Object.assign(document.createElement(tag), values);
  one.append(...inside);
  return one;
};
const form = document.querySelector('#controls'), select = document.querySelector('#show');
const rows = JSON.parse(document.querySelector('#rows').textContent);
const boxes = all('input[type=checkbox]', form);
const narrow = matchMedia('(max-width: 40rem)'), choices = form.querySelector('details');
/* On a phone the choices are folded until some are made; elsewhere they cannot be folded. */
const fold = () => { choices.open = !narrow.matches || boxes.some(box => box.checked) || times() > 0; };

const filter = () => {
  const chosen = {};
  for (const box of boxes) if (box.checked) (chosen[box.name] ??= []).push(box.value);
  const shown = rows.map(row => Object.entries(chosen).every(([name, values]) => values.includes(row[name])));
  for (const part of all('[data-rows]'))
    part.toggleAttribute('hidden', !part.dataset.rows.split(' ').some(place => shown[place]));
  for (const section of all('section:not([data-rows])')) {
    const parts = all('[data-rows]', section);
    section.toggleAttribute('hidden', parts.length > 0 && parts.every(part => part.hasAttribute('hidden')));
  }
  const count = shown.filter(Boolean).length;
  form.querySelector('[role=status]').textContent =
    count ? `${count < rows.length ? `${count} of` : 'All'} ${rows.length} configurations are shown.` : 'No configuration is all of this.';
  form.querySelector('button').hidden = !Object.keys(chosen).length;
};

/* The difference is the reference's picture blended over a picture, then brightened: |a - b| of each value, so many times. */
const times = () => select ? Number(select.value) : 0;
const compared = (picture, factor) => {
  const reference = document.querySelector(`#${picture.dataset.against}`);
  const both = make('span', {className: 'compared'}, make('img', {src: picture.src, alt: ''}), make('img', {src: reference.src, alt: ''}));
  both.style.setProperty('--times', factor);
  return both;
};
const show = () => {
  document.querySelector('main').classList.toggle('differences', times() > 0);
  for (const button of all('button.picture')) {
    const picture = button.querySelector('img[data-against]');
    if (!picture) continue;
    button.querySelector('.compared')?.remove();
    picture.hidden = times() > 0;
    if (times()) button.append(compared(picture, times()));
    button.ariaLabel = times() ? `${picture.alt}, difference × ${times()}: ${picture.dataset.apart}` : null;
  }
};

const write = () => {
  const said = new URLSearchParams(new FormData(form));
  if (!times()) said.delete('show');
  try { history.replaceState(null, '', String(said) ? `#${said}` : location.pathname + location.search); } catch { /* in a frame without an address */ }
};
const read = () => {
  const said = new URLSearchParams(location.hash.slice(1));
  for (const box of boxes) box.checked = said.getAll(box.name).includes(box.value);
  if (select) select.value = [...select.options].some(one => one.value === said.get('show')) ? said.get('show') : '0';
  filter();
  show();
  fold();
};
const changed = () => { filter(); show(); write(); };

/* Pictures of single pixels: a whole number of screen pixels each, beside the reference and the difference. */
const zoom = make('dialog', {className: 'zoom', tabIndex: -1, ariaLabel: 'A picture and what it is compared with'});
const side = make('div', {className: 'side'}), prompt = make('p'), menu = make('menu');
const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
let current = null;
const neighbour = (button, [down, right]) => {
  const cell = button.closest('td'), lines = all('tr', cell.closest('table')).filter(line => !line.hidden && line.querySelector('.picture'));
  return lines[lines.indexOf(cell.parentElement) + down]?.cells[cell.cellIndex + right]?.querySelector('.picture');
};
const enlarged = (content, title, text, picture, scale) => {
  const box = make('div', {}, content);
  box.style.cssText = `width: ${picture.naturalWidth * scale}px; height: ${picture.naturalHeight * scale}px`;
  const caption = make('figcaption', {}, make('b', {textContent: title}), text), figure = make('figure', {}, box, caption);
  figure.style.width = box.style.width;
  return figure;
};
const label = picture => {
  const heading = picture.closest('tr').querySelector('th');
  return [heading.firstChild.textContent, heading.querySelector('span').textContent];
};
/* As many times, a power of two, as leaves the largest difference below white. */
const brightest = apart => 2 ** Math.floor(Math.log2(255 / (Number(apart?.match(/\d+/)) || 255)));
const open = button => {
  const picture = button.querySelector('img'), against = picture.dataset.against, factor = times() || brightest(picture.dataset.apart);
  const count = against ? 3 : 1, across = innerWidth > 640 ? count : 1;
  const width = (innerWidth - (innerWidth > 640 ? 58 : 50) - 16 * (across - 1)) / across;
  const fits = Math.min(width / picture.naturalWidth, (innerHeight - 250) / picture.naturalHeight);
  const scale = Math.max(1, Math.floor(fits)), image = one => make('img', {src: one.src, alt: one.alt});
  side.replaceChildren(enlarged(image(picture), ...label(picture), picture, scale));
  if (against) {
    const reference = document.querySelector(`#${against}`), both = compared(picture, factor);
    both.style.height = '100%';
    both.role = 'img';
    both.ariaLabel = `Difference × ${factor}`;
    side.append(enlarged(image(reference), `Reference: ${label(reference)[0]}`, label(reference)[1], picture, scale));
    side.append(enlarged(both, `Difference × ${factor}`, picture.dataset.apart, picture, scale));
  }
  prompt.textContent = picture.alt.slice(label(picture)[0].length + 2);
  current = button;
  for (const [key, step] of Object.entries(move)) menu.querySelector(`[data-key=${key}]`).disabled = !neighbour(button, step);
  if (!zoom.open) zoom.showModal();
  /* A button that is disabled loses the focus, and keys would go nowhere. */
  if (!zoom.contains(document.activeElement) || document.activeElement.disabled) zoom.focus();
};
const go = key => {
  const next = neighbour(current, move[key]);
  if (next) open(next);
};
const names = {ArrowLeft: ['←', 'Previous prompt'], ArrowRight: ['→', 'Next prompt'], ArrowUp: ['↑', 'Row above'], ArrowDown: ['↓', 'Row below']};
for (const [key, [textContent, title]] of Object.entries(names)) {
  const button = make('button', {type: 'button', textContent, title, ariaLabel: title, onclick: () => go(key)});
  button.dataset.key = key;
  menu.append(make('li', {}, button));
}
menu.append(make('li', {}, make('button', {type: 'button', textContent: 'Close', onclick: () => zoom.close()})));
zoom.append(menu, side, prompt);
zoom.addEventListener('keydown', event => { if (move[event.key]) { go(event.key); event.preventDefault(); } });
zoom.addEventListener('click', event => { if (event.target === zoom) zoom.close(); });
zoom.addEventListener('close', () => current.focus());

for (const picture of all('.pictures img')) {
  const button = make('button', {type: 'button', className: 'picture', title: 'Enlarge', onclick: () => open(button)});
  picture.before(button);
  button.append(picture);
}
form.hidden = !boxes.length && !select;
form.querySelector('p').hidden = !boxes.length;
form.addEventListener('change', changed);
form.querySelector('button').addEventListener('click', () => { for (const box of boxes) box.checked = false; changed(); });
if (all('.pictures').length) document.querySelector('main').append(zoom);
/* Only what scrolls is a stop of the Tab key. */
const stops = () => { for (const part of all('.scroll')) part.tabIndex = part.scrollWidth > part.clientWidth ? 0 : -1; };
addEventListener('resize', stops);
addEventListener('toggle', stops, true);
addEventListener('hashchange', read);
narrow.addEventListener('change', fold);
stops();
read();
