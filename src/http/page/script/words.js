// What a person reads: each error in words, and numbers as they are shown.

const SERVED = 'JPEG, PNG, WebP, GIF, BMP and TIFF';

// Codes of the service, and four of this page's own: network, no_answer, unreadable, empty. `again`: sending the same
// photo once more can help.
const ERRORS = {
  bad_request: { text: 'The service could not make sense of this request.' },
  unauthorized: { text: 'The service wants an API key. Enter it above, and the photo is sent again.' },
  forbidden: { text: 'This key does not allow it.' },
  not_found: { text: 'The service classifies nothing at this address.' },
  model_not_found: { text: 'This model is no longer served. Pick another one.' },
  method_not_allowed: { text: 'The service takes no photos at this address.' },
  request_timeout: { text: 'The photo took too long to reach the service.', again: true },
  body_too_large: { text: 'This file is larger than the service takes.' },
  unsupported_media_type: { text: `This is not a photo in a format that the service reads: ${SERVED}.` },
  undecodable_image: { text: 'This photo is damaged or not complete.' },
  headers_too_large: { text: 'The browser sends more with a request than the service takes, cookies perhaps.' },
  too_many_pixels: { text: 'This photo has more pixels than the service takes. A smaller version of it will do.' },
  overloaded: { text: 'The service has more photos than it can take at the moment.', again: true },
  not_ready: { text: 'The model is still being loaded.', again: true },
  shutting_down: { text: 'The service is shutting down.', again: true },
  device_unavailable: { text: 'The device that runs the model has failed.', again: true },
  deadline_exceeded: { text: 'The answer took longer than the service allows.', again: true },
  internal: { text: 'Something went wrong inside the service.', again: true },
  network: { text: 'The service does not answer.', again: true },
  no_answer: { text: 'What came back is not an answer of this service. Something in between may have answered.', again: true },
  unreadable: { text: 'The browser cannot read this file. It may have been moved or changed.' },
  empty: { text: 'This file is empty.' },
};

// Photos that phones make and the service does not read, by the brand in their first bytes.
const FOREIGN = {
  HEIC: 'This is a HEIC photo, which the service does not read. Save it as JPEG; on an iPhone, Settings › Camera › Formats › Most Compatible takes JPEGs from now on.',
  AVIF: 'This is an AVIF photo, which the service does not read. Save it as JPEG, PNG or WebP.',
  'JPEG XL': 'This is a JPEG XL photo, which the service does not read. Save it as JPEG, PNG or WebP.',
};

async function foreignFormat(file) {
  try {
    const bytes = new Uint8Array(await file.slice(0, 32).arrayBuffer());
    const text = String.fromCharCode(...bytes);
    if (text.slice(4, 8) === 'ftyp') {
      // The first brand may be the general `mif1`; the compatible ones that follow it then say which.
      if (/avi[fs]/.test(text.slice(8))) return 'AVIF';
      if (/hei[cxms]|hev[cxms]|mif1|msf1/.test(text.slice(8))) return 'HEIC';
    }
    if (text.startsWith('\xff\x0a') || text.slice(4, 8) === 'JXL ') return 'JPEG XL';
  } catch { /* a file that cannot be read is told by other means */ }
  return undefined;
}

// The sentence for what went wrong with one photo; `limit` is the service's, in bytes.
async function inWords(error, file, limit) {
  if (error.code === 'unsupported_media_type') {
    const foreign = FOREIGN[await foreignFormat(file)];
    if (foreign) return foreign;
  }
  if (error.code === 'body_too_large' && Number.isFinite(limit)) {
    const [has, takes] = size(file.size) === size(limit) ? [`${count(file.size)}${GAP}bytes`, `${count(limit)}${GAP}bytes`] : [size(file.size), size(limit)];
    return `This file has ${has}; the service takes ${takes} at most.`;
  }
  if (error.code === 'overloaded' && error.wait) {
    return `${ERRORS.overloaded.text} It asks to come back in ${seconds(error.wait)}.`;
  }
  // A code that this page does not know comes with the service's own sentence.
  return ERRORS[error.code]?.text ?? (error.message || ERRORS.no_answer.text);
}

const GAP = '\u00a0';
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const count = number => whole.format(number);
const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;
const seconds = milliseconds => `${Math.max(1, Math.ceil(milliseconds / 1000))}${GAP}s`;
const duration = milliseconds =>
  milliseconds < 999.5 ? `${Math.round(milliseconds)}${GAP}ms` : `${(milliseconds / 1000).toFixed(milliseconds < 9950 ? 1 : 0)}${GAP}s`;

function size(bytes) {
  if (bytes < 1024) return `${bytes}${GAP}bytes`;
  const [value, unit] = bytes < 1 << 20 ? [bytes / 1024, 'KiB'] : [bytes / (1 << 20), 'MiB'];
  return `${value < 10 ? Math.round(value * 10) / 10 : Math.round(value)}${GAP}${unit}`;
}

// A score in per cent; one that is nearly nothing, or nearly all, is not rounded to either.
function percent(score) {
  const value = score * 100;
  if (value > 0 && value < 0.05) return `<${GAP}0.1${GAP}%`;
  if (value < 100 && value >= 99.95) return `>${GAP}99.9${GAP}%`;
  return `${value.toFixed(1)}${GAP}%`;
}

// A figure of the strip: two digits are enough below a hundred.
const figure = number => (number > 0 && number < 9.95 ? number.toFixed(1) : count(number));
