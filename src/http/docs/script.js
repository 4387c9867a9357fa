const $ = selector => document.querySelector(selector);
const key = $('#key input');
const make = (tag, parts = [], set = {}) => {
  const node = document.createElement(tag);
  node.append(...[parts].flat().filter(part => part !== undefined && part !== ''));
  for (const [name, value] of Object.entries(set)) name in node ? node[name] = value : node.setAttribute(name, value);
  return node;
};
const pretty = value => typeof value === 'string' ? value : JSON.stringify(value, null, 2);
const quote = text => "'" + text.replaceAll("'", "'\\''") + "'";
let schemas = {};
// Relative to the folder of this page: a proxy may have put the service under a path of its own.
const at = path => new URL('.' + path, location.href).href;

// `code` in descriptions; nothing else of Markdown is used.
const prose = text => text.split('`').map((part, index) => index % 2 ? make('code', part) : part);

// A schema in a few words: names, types, limits. Null is as if it were not there, and is not told of.
function words(schema, indent = 0, referred = 0) {
  if (schema.$ref) {
    const name = schema.$ref.split('/').pop();
    return referred > 8 ? name : words(schemas[name] || {}, indent, referred + 1);
  }
  const pad = '  '.repeat(indent);
  const joined = (parts, word) => parts.join(parts.some(part => part.includes('\n')) ? `\n${pad}${word} ` : ` ${word} `);
  const several = (schema.oneOf || schema.anyOf || []).filter(one => one.type !== 'null');
  if (several.length) return joined(several.map(one => words(one, indent, referred)), 'or');
  if (schema.allOf) return joined(schema.allOf.map(one => words(one, indent, referred)), 'and');
  if (schema.enum) return schema.enum.map(value => JSON.stringify(value)).join(' | ');
  if (schema.properties) {
    const rows = Object.entries(schema.properties).map(([name, one]) => {
      const optional = (schema.required || []).includes(name) ? '' : '?';
      const note = one.description ? `  // ${one.description}` : '';
      return `${pad}  ${name}${optional}: ${words(one, indent + 1, referred)}${note}`;
    });
    return `{\n${rows.join('\n')}\n${pad}}`;
  }
  const kind = schema.format === 'binary' ? 'bytes' : [schema.type || 'anything'].flat().filter(one => one !== 'null').join(' | ');
  if (kind === 'array' && schema.items) return `[${words(schema.items, indent, referred)}, …]`;
  return kind + (schema.minimum === undefined ? '' : ` from ${schema.minimum}`);
}

function media(content) {
  const types = Object.entries(content);
  const plain = types.filter(([, one]) => !one.examples && !one.schema?.properties && !one.schema?.$ref && !one.schema?.oneOf).map(([type]) => type);
  const nodes = plain.length ? [make('p', plain.flatMap((type, index) => [index ? ', ' : '', make('code', type)]))] : [];
  for (const [type, one] of types.filter(([type]) => !plain.includes(type))) {
    nodes.push(make('p', make('code', type)), make('pre', words(one.schema)));
    for (const [name, example] of Object.entries(one.examples || {})) {
      nodes.push(make('details', [make('summary', `Example: ${name}`), make('pre', pretty(example.value))], { className: 'examples' }));
    }
  }
  return nodes;
}

// The first example of a body in JSON.
const example = operation => {
  const examples = operation.requestBody?.content['application/json']?.examples;
  return examples ? JSON.stringify(Object.values(examples)[0].value) : undefined;
};
const takesPhotos = operation => !!operation.requestBody?.content['image/jpeg'];

function curl(method, path, operation) {
  const parts = ['curl'];
  if (operation.security.length) parts.push("-H 'x-api-key: KEY'");
  if (takesPhotos(operation)) parts.push('--data-binary @photo.jpg');
  else if (example(operation)) parts.push("-H 'content-type: application/json'", '--data ' + quote(example(operation)));
  else if (method === 'post') parts.push('-X POST');
  const filled = path.replace(/{(\w+)}/g, (_, name) => operation.parameters.find(one => one.name === name)?.example || name);
  return [...parts, quote(at(filled))].join(' ');
}

function command(text) {
  const button = make('button', 'Copy', { type: 'button' });
  const pre = make('pre', text);
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = 'Copied'; }
    catch { getSelection().selectAllChildren(pre); }
    setTimeout(() => button.textContent = 'Copy', 1500);
  };
  return make('div', [pre, button], { className: 'command' });
}

function trial(method, path, operation) {
  const form = make('form');
  const fields = operation.parameters.map(one => {
    const choices = one.schema.$ref ? schemas[one.schema.$ref.split('/').pop()]?.enum : undefined;
    const input = choices ? make('select', ['', ...choices].map(value => make('option', value, { value })))
      : make('input', [], { type: one.schema.type === 'integer' ? 'number' : 'text', value: one.in === 'path' ? one.example || '' : '', required: !!one.required });
    if (choices) input.prepend(make('option', '–', { value: '', selected: true }));
    form.append(make('label', [make('span', [make('code', one.name), one.required ? '' : ' (may be left out)']), input]));
    return { one, input };
  });
  let file, text;
  if (takesPhotos(operation)) {
    file = make('input', [], { type: 'file', accept: 'image/*', required: true });
    form.append(make('label', ['Photo', file]));
  } else if (example(operation)) {
    text = make('textarea', [], { value: JSON.stringify(JSON.parse(example(operation)), null, 2), spellcheck: false });
    form.append(make('label', ['Body', text]));
  }
  const output = make('div', [], { role: 'status' });
  form.append(make('button', 'Send'), output);
  form.onsubmit = async event => {
    event.preventDefault();
    const headers = key.value ? { 'x-api-key': key.value } : {};
    const query = new URLSearchParams();
    let target = path;
    for (const { one, input } of fields) {
      if (!input.value) continue;
      if (one.in === 'path') target = target.replace(`{${one.name}}`, encodeURIComponent(input.value));
      else if (one.in === 'query') query.append(one.name, input.value);
      else headers[one.name] = input.value;
    }
    if (text) headers['content-type'] = 'application/json';
    if (file) headers['content-type'] = 'application/octet-stream';
    output.replaceChildren('Sending …');
    const start = performance.now();
    try {
      const body = file ? file.files[0] : text?.value;
      const answer = await fetch(at(target) + (query.size ? '?' + query : ''), { method: method.toUpperCase(), headers, body });
      const time = Math.round(performance.now() - start);
      let shown = await answer.text();
      try { shown = JSON.stringify(JSON.parse(shown), null, 2); } catch {} // Not JSON: as it is.
      output.replaceChildren(
        make('p', [make('span', answer.status, { className: answer.ok ? 'status' : 'status bad' }), ` in ${time} ms, `, make('code', answer.headers.get('x-request-id') || '')]),
        make('pre', shown.length > 20000 ? shown.slice(0, 20000) + '\n…' : shown));
    } catch { output.replaceChildren(make('p', 'The service does not answer.', { className: 'bad' })); }
  };
  return form;
}

function section(method, path, operation) {
  const inside = make('div', [], { className: 'inside' });
  const block = make('details', [make('summary', [
    make('span', method, { className: `method ${method}` }), make('code', path), make('span', prose(operation.summary), { className: 'soft' }),
  ]), inside], { id: operation.operationId });
  // Filled when it is first opened: forms and examples of all operations at once are slow on a phone.
  const fill = () => {
    if (inside.childNodes.length) return;
    if (operation.description) inside.append(make('p', prose(operation.description)));
    if (operation.parameters.length) {
      inside.append(make('h3', 'Parameters'), make('dl', operation.parameters.flatMap(one => [
        make('dt', [make('code', one.name), make('span', ` ${one.in}`, { className: 'soft' })]),
        make('dd', [...prose(one.description || ''), make('span', ' ' + words(one.schema), { className: 'soft' })]),
      ])));
    }
    if (operation.requestBody) inside.append(make('h3', 'Body'), ...media(operation.requestBody.content));
    inside.append(make('h3', 'Answers'));
    for (const [status, answer] of Object.entries(operation.responses)) {
      const [first, ...more] = media(answer.content || {});
      inside.append(make('p', [make('span', status, { className: status < 400 ? 'status' : 'status bad' }), ' ', ...prose(answer.description)]));
      if (status < 400) inside.append(...[first, ...more].filter(Boolean));
      else if (first) inside.append(...more.filter(node => node.tagName === 'DETAILS'));
    }
    inside.append(make('h3', 'From the command line'), command(curl(method, path, operation)), make('h3', 'Try it'), trial(method, path, operation));
  };
  block.addEventListener('toggle', fill);
  return block;
}

async function show() {
  let answer;
  try { answer = await fetch(at('/openapi.json'), { headers: key.value ? { 'x-api-key': key.value } : {} }); }
  catch { $('#message').textContent = 'The service does not answer.'; return; }
  if (!answer.ok) {
    $('#message').textContent = answer.status === 401 ? 'This service wants an API key: enter it above.' : `The service answered with ${answer.status}.`;
    return;
  }
  const spec = await answer.json();
  schemas = spec.components.schemas;
  $('#version').textContent = spec.info.version;
  const nav = $('nav'), main = $('main');
  nav.replaceChildren();
  main.replaceChildren(make('p', prose(spec.info.description)));
  for (const tag of spec.tags) {
    const found = Object.entries(spec.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, one]) => [method, path, one]))
      .filter(([, , operation]) => operation.tags[0] === tag.name);
    nav.append(make('b', tag.name), make('ul', found.map(([, path, operation]) => make('li', make('a', path, { href: '#' + operation.operationId })))));
    main.append(make('h2', tag.name), make('p', prose(tag.description), { className: 'soft' }), ...found.map(row => section(...row)));
  }
  go();
}
function go() {
  const block = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (block) { block.open = true; block.scrollIntoView(); }
}
addEventListener('hashchange', go);
key.onchange = () => { if (!$('main details')) show(); };
show();
