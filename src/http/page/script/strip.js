// The live strip: figures from `/metrics`, a poll a second while the page can be seen. Counters become figures as
// differences between two polls; where they cannot be read the strip is not there, and nothing else depends on it.

const PERIOD = 1000; // milliseconds between polls
const KEPT = 60_000; // milliseconds of polls kept, the width of the curve
const RATE_OVER = 3000; // milliseconds that images/s is a mean over
const MEANS_OVER = 30_000; // milliseconds that batch and answer times are taken over

const polls = [];
let nextPoll, failures = 0;

// Prometheus' text → the figures wanted; undefined when it is not this service's.
function figures(text) {
  const found = { at: performance.now(), buckets: new Map() };
  for (const line of text.split('\n')) {
    const match = /^featherlight_(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const [, name, labels, value] = match;
    if (labels === undefined) {
      found[name] = Number(value);
    } else if (name === 'http_request_duration_seconds_bucket' && /route="\/classify/.test(labels)) {
      const edge = Number(/le="([^"]*)"/.exec(labels)?.[1].replace('+Inf', 'Infinity'));
      found.buckets.set(edge, (found.buckets.get(edge) ?? 0) + Number(value));
    }
  }
  const wanted = ['predictions_total', 'queue_size', 'batch_size_sum', 'batch_size_count'];
  return wanted.every(name => Number.isFinite(found[name])) ? found : undefined;
}

// The poll that lies `span` milliseconds back, or the oldest.
const back = span => polls.find(poll => poll.at >= polls.at(-1).at - span - PERIOD / 2);

// Images a second between two polls.
const rateOf = (before, after) => (after.at > before.at ? (after.predictions_total - before.predictions_total) / (after.at - before.at) * 1000 : 0);

// The median of the answers between two polls in milliseconds, as far as the histogram's buckets tell.
function medianOf(before, after) {
  const edges = [...after.buckets.keys()].sort((a, b) => a - b);
  const added = edges.map(edge => after.buckets.get(edge) - (before.buckets.get(edge) ?? 0));
  const half = added.at(-1) / 2;
  if (!(half > 0)) return undefined;
  const at = added.findIndex(number => number >= half);
  if (edges[at] === Infinity) return undefined;
  const low = edges[at - 1] ?? 0, below = added[at - 1] ?? 0;
  return (low + (edges[at] - low) * (half - below) / (added[at] - below)) * 1000;
}

function render() {
  const now = polls.at(-1), then = back(MEANS_OVER);
  const batches = now.batch_size_count - then.batch_size_count;
  const median = medianOf(then, now);
  $('rate').textContent = figure(rateOf(back(RATE_OVER), now));
  $('batch').textContent = batches > 0 ? ((now.batch_size_sum - then.batch_size_sum) / batches).toFixed(1) : '–';
  $('queue').textContent = count(now.queue_size);
  // The poll itself is one of the requests in flight.
  $('flight').textContent = count(Math.max(0, (now.http_requests_in_flight ?? 1) - 1));
  $('median').textContent = median === undefined ? '–' : duration(median);
  curve(now.at);
  $('strip').hidden = false;
}

function curve(now) {
  const points = polls.slice(1).map((poll, index) => [60 - (now - poll.at) / 1000, rateOf(polls[index], poll)]);
  const most = Math.max(1, ...points.map(([, rate]) => rate));
  const line = points.map(([x, rate]) => `${x.toFixed(2)} ${(23 - 22 * rate / most).toFixed(2)}`).join('L');
  const [area, stroke] = $('spark').children;
  stroke.setAttribute('d', line && `M${line}`);
  area.setAttribute('d', line && `M${points[0][0].toFixed(2)} 24L${line}L60 24Z`);
}

async function poll() {
  clearTimeout(nextPoll);
  if (document.hidden) return;
  let answer, text;
  try {
    answer = await fetch('metrics', { headers: headers(), cache: 'no-store', signal: AbortSignal.timeout(5000) });
    text = answer.ok ? await answer.text() : '';
  } catch { /* the service is away; it may come back */ }
  if (answer && !answer.ok && answer.status < 500) {
    // Moved to another port, or only with a key: the strip goes until a key is entered.
    $('strip').hidden = true;
    return;
  }
  const now = text === undefined ? undefined : figures(text);
  const last = polls.at(-1);
  // A service that started anew counts from zero; a page that was out of sight has a hole in its curve.
  if (now && last && (now.predictions_total < last.predictions_total || now.at - last.at > 5 * PERIOD)) polls.length = 0;
  if (now) {
    polls.push(now);
    while (now.at - polls[0].at > KEPT) polls.shift();
    render();
  } else if (text) {
    $('strip').hidden = true;
    return;
  } else {
    for (const id of ['rate', 'batch', 'queue', 'flight', 'median']) $(id).textContent = '–';
  }
  failures = now ? 0 : failures + 1;
  clearTimeout(nextPoll);
  nextPoll = setTimeout(poll, PERIOD * Math.min(30, 2 ** failures));
}

document.addEventListener('visibilitychange', poll);
