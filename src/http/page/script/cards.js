// One photo's card, in each of its states.

function newCard(file) {
  const card = $('card').content.firstElementChild.cloneNode(true);
  const name = card.querySelector('h3');
  name.textContent = name.title = nameOf(file);
  card.querySelector('.thumb').setAttribute('aria-label', `Enlarge ${nameOf(file)}`);
  return card;
}

function enter(photo, state) {
  const { card } = photo, part = name => card.querySelector(name);
  // A button that is about to vanish hands its focus on, so that the keyboard does not start anew at the top.
  const held = part('.failure').contains(document.activeElement);
  photo.state = card.dataset.state = state;
  part('.wait').textContent = state === 'waiting' ? 'In line' : 'Classifying…';
  part('.wait').hidden = state === 'done' || state === 'failed';
  part('.time').textContent = part('.wait').hidden && photo.took ? duration(photo.took) : '';
  part('.by').textContent = part('.wait').hidden && several() ? photo.by ?? photo.model ?? '' : '';
  part('.bars').hidden = state !== 'done';
  part('.failure').hidden = state !== 'failed';
  if (state === 'done') part('.bars').replaceChildren(...photo.predictions.map(bar));
  if (state === 'failed') failure(photo, part);
  if (held && state !== 'failed') {
    card.tabIndex = -1;
    card.focus({ preventScroll: true });
  }
}

function bar({ label, score }) {
  const row = document.createElement('li');
  const [name, number, track] = ['b', 'span', 'i'].map(tag => row.appendChild(document.createElement(tag)));
  name.dir = 'auto';
  name.textContent = label;
  number.textContent = percent(score);
  track.style.setProperty('--share', `${Math.max(0, Math.min(1, score)) * 100}%`);
  return row;
}

function failure(photo, part) {
  const { code, message, status, request_id: id } = photo.error;
  part('.error').textContent = photo.words;
  part('.retry').hidden = !canRetry(photo);
  part('.retry').setAttribute('aria-label', `Try ${nameOf(photo.file)} again`);
  const said = [[status, code].filter(Boolean).join(' '), message, id && `request ${id}`].filter(Boolean);
  part('details').hidden = !status;
  part('details p').textContent = said.join('\n');
}
