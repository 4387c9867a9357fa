// Thumbnails: drawn small, off the main thread, when their place comes into sight, two at a time. A photo of forty
// megapixels is so in memory only while it is drawn.

const HEIGHT = 288; // pixels: the frame's height on a screen of two pixels a point
const DRAWERS = 2;

const undrawn = [];
let drawing = 0;

const sight = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    undrawn.push(target);
  }
  drawNext();
}, { rootMargin: '400px' });

function drawNext() {
  while (drawing < DRAWERS && undrawn.length) {
    const card = undrawn.shift();
    if (!card.isConnected) continue;
    drawing += 1;
    draw(card).finally(() => { drawing -= 1; drawNext(); });
  }
}

async function draw(card) {
  const { file } = photos.get(card);
  // What the browser cannot draw small it may still show: half a JPEG, a drawing. The rest is shown by its kind.
  const drawn = await small(file).then(blob => show(card, blob)).catch(() => false);
  if (!drawn && !await show(card, file)) {
    const kind = card.querySelector('.kind');
    kind.textContent = kindOf(file);
    kind.hidden = false;
  }
}

async function small(file) {
  const bitmap = await createImageBitmap(file, { resizeHeight: HEIGHT, resizeQuality: 'medium' });
  try {
    const scale = Math.min(1, HEIGHT / bitmap.height, 2 * HEIGHT / bitmap.width);
    const canvas = new OffscreenCanvas(Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
    canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return await canvas.convertToBlob({ type: 'image/webp', quality: 0.85 });
  } finally {
    bitmap.close();
  }
}

function show(card, blob) {
  const button = card.querySelector('.thumb'), image = button.querySelector('img');
  const address = URL.createObjectURL(blob);
  return new Promise(resolve => {
    image.onload = () => { button.hidden = false; resolve(true); };
    image.onerror = () => resolve(false);
    image.src = address;
  }).finally(() => URL.revokeObjectURL(address));
}

function kindOf(file) {
  const ending = /\.([a-z0-9]{1,5})$/i.exec(file.name)?.[1] ?? file.type.split('/').pop();
  return (ending || 'file').toUpperCase();
}

// One photo, large, until it is closed.
function enlarge(file) {
  const image = $('preview-photo'), address = URL.createObjectURL(file);
  $('preview-name').textContent = nameOf(file);
  $('preview-facts').textContent = size(file.size);
  image.onload = () => { $('preview-facts').textContent = `${image.naturalWidth} × ${image.naturalHeight} pixels, ${size(file.size)}`; };
  image.src = address;
  $('preview').onclose = () => { image.removeAttribute('src'); URL.revokeObjectURL(address); };
  $('preview').showModal();
}
