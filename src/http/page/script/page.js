// The page itself: what a person does → the list, the service, the words on the screen.

const PHOTO = /\.(jpe?g|jpe|jfif|png|webp|gif|bmp|dib|tiff?|heic|heif|avif)$/i;

// For those who hear the page. The text is set anew, so that the same words are said twice.
function say(words) {
  $('status').textContent = '';
  setTimeout(() => { $('status').textContent = words; }, 50);
}

function notice(words) {
  $('notice').textContent = words;
}

// Model, key and command line as they stand.
function showService(state) {
  const model = picked();
  const facts = model && [
    several() ? undefined : model.name, model.architecture, model.labels && many(model.labels, 'label'),
    model.width && `${model.width} × ${model.height} pixels`, model.device, model.dtype,
    model.ready === false ? 'still being loaded' : undefined,
  ].filter(Boolean).join(' · ');
  const states = { away: 'The service does not answer.', loading: 'The model is being loaded.' };
  $('about').textContent = states[state] ?? (several() ? '' : facts ?? '');
  $('model-facts').textContent = facts ?? '';
  $('picker').hidden = !several();
  const names = service.models.map(({ name, ready }) => (ready === false ? `${name} (being loaded)` : name));
  const select = $('model');
  if (names.join('\n') !== [...select.options].map(option => option.text).join('\n')) {
    select.replaceChildren(...service.models.map(({ name }, index) => new Option(names[index], name)));
  }
  select.value = service.chosen ?? '';
  $('formats').textContent = `JPEG, PNG, WebP, GIF, BMP or TIFF${Number.isFinite(service.maxBytes) ? `, up to ${size(service.maxBytes)}` : ''}`;
  $('key').hidden = !service.wantsKey;
  $('key-used').hidden = service.wantsKey || !service.key;
  showCommand();
}

function showCommand() {
  const keyed = service.wantsKey || service.key;
  const address = new URL(route(several() ? service.chosen : undefined), location.href).href.replaceAll("'", '%27');
  const quoted = /^[\w:/.%-]+$/.test(address) ? address : `'${address}'`;
  // The key itself is put neither on the screen nor on the clipboard.
  $('curl').textContent = `curl --data-binary @photo.jpg ${keyed ? '-H "authorization: Bearer $FEATHERLIGHT_API_KEY" ' : ''}${quoted}`;
  $('curl-note').hidden = !keyed;
}

let relearn;
async function refresh() {
  const state = await learn();
  showService(state);
  tally();
  // Until the service is there and every model loaded.
  const settled = state === 'here' && service.models.every(model => model.ready !== false);
  clearTimeout(relearn);
  if (!settled && !document.hidden) relearn = setTimeout(refresh, 2000);
  return state;
}

function keyWanted() {
  if (service.wantsKey) return;
  service.wantsKey = true;
  showService('here');
  $('key-text').focus();
}

async function useKey(event) {
  event.preventDefault();
  const field = $('key-text'), note = $('key-note');
  service.key = field.value.trim();
  // Anything else cannot travel in a header.
  const fit = /^[\x21-\x7e]+$/.test(service.key);
  const state = fit ? await refresh() : 'here';
  const wrong = !fit || (state !== 'away' && service.wantsKey);
  field.setAttribute('aria-invalid', wrong);
  note.classList.toggle('wrong', wrong);
  note.textContent = wrong ? 'The service does not know this key.' : 'It stays in this page alone and is gone when the page is closed or reloaded.';
  if (wrong || state === 'away') {
    service.key = '';
    field.select();
    if (wrong) say(note.textContent);
    return;
  }
  field.value = '';
  $('drop').focus();
  say('The key is accepted.');
  retry(inState('failed').filter(photo => photo.error.code === 'unauthorized'));
  poll();
}

function forgetKey() {
  service.key = '';
  refresh().then(() => (service.wantsKey ? $('key-text') : $('drop')).focus());
}

// Copies without the clipboard's interface too, which plain HTTP to another machine does not have.
async function copy() {
  const command = $('curl');
  try {
    await navigator.clipboard.writeText(command.textContent);
  } catch {
    getSelection().selectAllChildren(command);
    if (!document.execCommand('copy')) return;
    getSelection().removeAllRanges();
  }
  $('copy').textContent = 'Copied';
  say('Copied.');
  setTimeout(() => { $('copy').textContent = 'Copy'; }, 1500);
}

function take(files) {
  notice('');
  if (files.length) add(files);
}

// The files of a drop; a folder gives the photos in it, by name.
async function dropped(transfer) {
  // Both must be asked for before the event is over.
  const files = [...transfer.files];
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(entry => entry.isDirectory)) return files;
  const found = [];
  const walk = async (entry, inFolder) => {
    if (entry.isFile) {
      if (!inFolder || PHOTO.test(entry.name)) found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
      return;
    }
    const reader = entry.createReader(), children = [];
    // A reader gives a hundred entries at most, then the next hundred.
    for (let part; (part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length;) children.push(...part);
    children.sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
    for (const child of children) await walk(child, true);
  };
  for (const entry of entries) await walk(entry, false);
  return found;
}

function closeOpened() {
  const open = document.activeElement.closest?.('details[open]') ?? [...document.querySelectorAll('details[open]')].at(-1);
  if (!open) return;
  open.open = false;
  open.querySelector('summary').focus();
}

const carriesFiles = event => event.dataTransfer?.types.includes('Files');
const veil = shown => { $('veil').hidden = !shown; };

$('drop').onclick = () => $('files').click();
$('files').onchange = event => { take([...event.target.files]); event.target.value = ''; };
$('model').onchange = event => { service.chosen = event.target.value; session.set('featherlight.model', service.chosen); showService('here'); tally(); };
$('key').onsubmit = useKey;
$('key-forget').onclick = forgetKey;
$('copy').onclick = copy;
$('clear').onclick = clear;
$('compare').onclick = () => { $('clear').focus(); compare(); };
$('again').onclick = () => { $('clear').focus(); retry(inState('failed').filter(canRetry)); };
$('results').onclick = event => {
  const photo = photos.get(event.target.closest('li'));
  if (event.target.closest('.thumb')) enlarge(photo.file);
  if (event.target.closest('.retry')) retry([photo]);
};
$('preview').onclick = event => { if (event.target === $('preview')) $('preview').close(); };
addEventListener('keydown', event => { if (event.key === 'Escape' && !$('preview').open) closeOpened(); });
// Text may be dropped into a field; anything else is caught, as the browser would leave the page for it.
const forField = event => !carriesFiles(event) && event.target.matches?.('input');
addEventListener('dragover', event => {
  if (forField(event)) return;
  event.preventDefault();
  veil(carriesFiles(event));
});
addEventListener('dragleave', event => { if (!event.relatedTarget) veil(false); });
addEventListener('drop', async event => {
  veil(false);
  if (forField(event)) return;
  event.preventDefault();
  const files = await dropped(event.dataTransfer).catch(() => []);
  take(files);
  if (!files.length) notice('There was no photo in what was dropped.');
});
addEventListener('paste', event => {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  take(files);
});
document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });

refresh();
poll();
