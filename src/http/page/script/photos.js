// The list: photos wait, are sent a few at a time, and end with their labels or with a reason. `photos` maps a card, which
// is all that the document holds of one, to what is known of it.

const PARALLEL = 4; // requests: enough to fill batches, few enough to leave room for other clients
const CHUNK = 40; // cards made before the browser may do something else

const photos = new Map();
let waiting = [];
let sending = 0;
// Until then nothing is sent: an overloaded service said so.
let pausedUntil = 0;
let timer;
// How often the list was cleared: photos still being added belong to the list that they were chosen for.
let cleared = 0;
// Of the photos sent since the list was last at rest.
let run = newRun();
function newRun() { return { start: performance.now(), total: 0, done: 0, failed: 0 }; }

const nameOf = file => file.name || 'pasted photo';
const inState = state => [...photos.values()].filter(photo => photo.state === state);

// Puts files at the head of the list, in their own order.
async function add(files) {
  if (files.length > 1) say(`Classifying ${many(files.length, 'photo')}.`);
  const list = cleared, results = $('results'), first = results.firstElementChild, model = several() ? service.chosen : undefined;
  for (let at = 0; at < files.length; at += CHUNK) {
    if (list !== cleared) return;
    const fragment = new DocumentFragment();
    for (const file of files.slice(at, at + CHUNK)) {
      const card = newCard(file);
      photos.set(card, { card, file, model });
      fragment.append(card);
      enqueue(photos.get(card));
    }
    const cards = [...fragment.children];
    results.insertBefore(fragment, first);
    for (const card of cards) sight.observe(card);
    pump();
    await new Promise(resolve => setTimeout(resolve));
  }
}

function enqueue(photo) {
  if (!waiting.length && !sending) run = newRun();
  run.total += 1;
  waiting.push(photo);
  enter(photo, 'waiting');
}

function pump() {
  clearTimeout(timer);
  const pause = pausedUntil - performance.now();
  if (pause > 0 && waiting.length) {
    timer = setTimeout(pump, Math.min(pause, 1000));
  } else {
    while (sending < PARALLEL && waiting.length) send(waiting.shift());
  }
  tally();
}

async function send(photo) {
  sending += 1;
  enter(photo, 'sending');
  photo.leaving = new AbortController();
  const start = performance.now();
  let answer;
  try {
    answer = await classify(photo.file, photo.model, photo.leaving.signal);
    // A refusal by the page itself took no time worth telling.
    photo.took = answer.error && !answer.error.status ? undefined : performance.now() - start;
    if (answer.error) photo.words = await inWords(answer.error, photo.file, service.maxBytes);
  } catch {
    answer = undefined; // the list was cleared
  } finally {
    sending -= 1;
  }
  if (answer && photos.has(photo.card)) finish(photo, answer);
  pump();
}

function finish(photo, { error, predictions, model }) {
  run.done += 1;
  if (error) run.failed += 1;
  Object.assign(photo, { error, predictions, by: model });
  enter(photo, error ? 'failed' : 'done');
  if (error?.code === 'overloaded' && error.wait) pausedUntil = Math.max(pausedUntil, performance.now() + error.wait);
  if (error?.code === 'unauthorized') keyWanted();
  if (error?.code === 'model_not_found') refresh();
  if (!waiting.length && !sending) announce(photo);
}

const canRetry = photo => photo.state === 'failed' && Boolean(ERRORS[photo.error.code]?.again);

function retry(list) {
  for (const photo of list) enqueue(photo);
  pump();
}

// The same photos again, by the model picked now.
function compare() {
  retry(outdated().map(photo => Object.assign(photo, { model: service.chosen })));
}
function outdated() {
  if (!several()) return [];
  return [...inState('done'), ...inState('failed')].filter(photo => (photo.by ?? photo.model) !== service.chosen);
}

function clear() {
  for (const photo of photos.values()) photo.leaving?.abort();
  cleared += 1;
  waiting = [];
  photos.clear();
  $('results').replaceChildren();
  pausedUntil = 0;
  run = newRun();
  tally();
  $('drop').focus();
  say('The list is empty.');
}

// The line above the list.
function tally() {
  const failed = inState('failed'), done = inState('done').length, busy = waiting.length + sending;
  const pause = waiting.length && !sending ? pausedUntil - performance.now() : 0;
  const parts = [many(photos.size, 'photo')];
  if (busy) parts.push(pause > 0 ? `going on in ${seconds(pause)}` : `${count(busy)} to go`);
  else if (run.total > 1 && run.total === photos.size) parts[0] += ` in ${duration(run.took)}`;
  else if (run.total > 1) parts.push(`the last ${count(run.total)} in ${duration(run.took)}`);
  if (failed.length) parts.push(`${count(failed.length)} failed`);
  const again = failed.filter(canRetry).length, older = busy ? 0 : outdated().length;
  $('list').hidden = !photos.size;
  $('tally').textContent = parts.join(' · ');
  $('progress').max = Math.max(1, run.total);
  $('progress').value = run.done;
  $('progress').classList.toggle('done', !busy);
  $('again').hidden = again < 2;
  $('again').textContent = `Try ${count(again)} again`;
  $('compare').hidden = !older;
  $('compare').textContent = `Run ${older < done ? count(older) : 'all'} with ${service.chosen}`;
  document.body.classList.toggle('busy', photos.size > 0);
}

// Said once a run is over, not photo by photo.
function announce(last) {
  run.took = performance.now() - run.start;
  if (run.total > 1) {
    say(`${run.failed ? `${count(run.total - run.failed)} of ` : ''}${many(run.total, 'photo')} classified.`);
  } else if (last.error) {
    say(`${nameOf(last.file)}: ${last.words}`);
  } else if (last.predictions.length) {
    const [{ label, score }] = last.predictions;
    say(`${nameOf(last.file)}: ${label}, ${percent(score)}.`);
  }
}
