// The service behind the page: its models, its limits, the key it wants, and one photo's question and answer.
// Addresses are relative, so that the page works under a prefix too.

const service = {
  // The key lives in memory alone: what sessionStorage holds can reach the disk when a browser saves its session, and
  // every script of this origin reads it.
  key: '',
  wantsKey: false,
  models: [],
  chosen: undefined,
  maxBytes: Infinity,
};

// The session's memory, for what is no secret; a browser may forbid it.
const session = {
  get(name) { try { return sessionStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(name, value); } catch { /* then it is forgotten */ } },
};

const several = () => service.models.length > 1;
const picked = () => service.models.find(model => model.name === service.chosen);
const headers = () => (service.key ? { authorization: `Bearer ${service.key}` } : {});
// Where photos for this model go.
const route = model => (model === undefined ? 'classify' : `classify/${encodeURIComponent(model)}`);

async function read(path) {
  try {
    const answer = await fetch(path, { headers: headers(), cache: 'no-store' });
    return { status: answer.status, body: answer.ok ? await answer.json() : undefined };
  } catch {
    return { status: 0 };
  }
}

// Learns what is served. Says what the service is: here, loading, or away.
async function learn() {
  const [list, info] = await Promise.all([read('models'), read('info')]);
  if (list.status === 0 && info.status === 0) return 'away';
  service.wantsKey = list.status === 401 || info.status === 401;
  service.maxBytes = info.body?.limits?.max_body_bytes ?? Infinity;
  const alone = info.body?.model;
  if (Array.isArray(list.body?.models)) {
    service.models = list.body.models;
  } else if (alone) {
    service.models = [{ ...alone, labels: alone.labels?.length, default: true, ready: true }];
  }
  const wanted = service.chosen ?? session.get('featherlight.model');
  const known = service.models.find(model => model.name === wanted);
  service.chosen = (known ?? service.models.find(model => model.default) ?? service.models[0])?.name;
  // Until the first models are loaded neither tells anything.
  return list.body || info.body || service.wantsKey ? 'here' : 'loading';
}

// One photo → { predictions, model } or { error: { code, message, request_id, status, wait } }; `wait` in milliseconds.
// Throws only when `signal` aborts.
async function classify(file, model, signal) {
  if (file.size === 0) return { error: { code: await isReadable(file) ? 'empty' : 'unreadable' } };
  // The service says the same, but may close the connection before a large body has ended.
  if (file.size > service.maxBytes) return { error: { code: 'body_too_large' } };
  let answer, body;
  try {
    answer = await fetch(`${route(model)}?top_k=5`, {
      method: 'POST', headers: { ...headers(), 'content-type': 'application/octet-stream' }, body: file, signal,
    });
    body = await answer.json();
  } catch (failure) {
    if (signal.aborted) throw failure;
    if (answer) return { error: { code: 'no_answer', status: answer.status } };
    return { error: { code: await isReadable(file) ? 'network' : 'unreadable' } };
  }
  if (answer.ok && Array.isArray(body?.predictions)) return body;
  const error = typeof body?.error === 'object' && body.error ? body.error : { code: 'no_answer' };
  const wait = Number(answer.headers.get('retry-after')) * 1000;
  return { error: { ...error, status: answer.status, wait: wait > 0 ? wait : undefined } };
}

async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
