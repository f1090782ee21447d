// Callers choose models, tenants, ids and notices: show them only by textContent.
const $ = id => document.getElementById(id);
const seconds = ms => (ms / 1000).toFixed(ms < 10_000 ? 2 : 0) + ' s';

let start = performance.now(), counts = { beats: 0, retries: 0 }, asking = null, simulated = true;

// === events of all calls ===

const LINES = 200;

function log(text, kind = '') {
  const item = document.createElement('li'), time = document.createElement('time'), what = document.createElement('span');
  time.textContent = seconds(performance.now() - start);
  what.textContent = text;
  what.className = kind;
  item.append(time, what);
  $('log').prepend(item);
  while ($('log').childElementCount > LINES) $('log').lastElementChild.remove();
}
function count(name) { $(name).textContent = ++counts[name]; }
function outcome(text, kind) { $('outcome').textContent = text; $('outcome').className = kind; }

const KINDS = { retry_scheduled: 'warn', fallback_used: 'warn', refused: 'bad', body_timed_out: 'bad', stream_failed: 'bad',
                stale_served: 'warn', stream_resumed: 'good', paused: 'warn', circuit_changed: 'warn' };
const events = new EventSource('events');
events.onmessage = ({ data }) => {
  const { event, text } = JSON.parse(data);
  if (event === 'retry_scheduled') count('retries');
  if (event === 'heartbeat_sent') return;
  log(text, KINDS[event] ?? '');
  if (event === 'circuit_changed') look();
};

// === the tables ===

const PHASES = { queued: 'warn', waiting: 'warn', streaming: 'good', resumed: 'good' };
const STATES = { closed: 'good', 'half-open': 'warn', open: 'bad', isolated: 'bad' };

// A cell is a text, or a text with its kind.
function fill(table, rows) {
  const labels = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
  table.tBodies[0].replaceChildren(...rows.map(cells => {
    const row = document.createElement('tr');
    row.append(...cells.map((cell, nth) => {
      const data = document.createElement('td'), [text, kind] = Array.isArray(cell) ? cell : [cell, ''];
      data.textContent = text ?? '';
      data.className = kind ?? '';
      data.dataset.label = labels[nth];
      return data;
    }));
    return row;
  }));
  table.hidden = rows.length === 0;
}

function show({ calls, others, circuits, load, answers_calls, simulated: isSimulated, respond_async: later }) {
  simulated = isSimulated;
  $('trying').hidden = !answers_calls;
  $('later-label').hidden = !later;
  fill($('calls'), calls.map(call => [
    [call.phase, PHASES[call.phase]], seconds(call.ms), call.model, call.tenant, call.attempts, call.bytes, call.id, call.notice,
  ]));
  $('no-calls').hidden = calls.length > 0;
  fill($('circuits'), circuits.map(circuit => [
    [circuit.state, STATES[circuit.state]], circuit.name, circuit.key, `${circuit.failures} of ${circuit.calls}`,
    circuit.refused, circuit.open_for_seconds == null ? '' : seconds(circuit.open_for_seconds * 1000),
  ]));
  $('no-circuits').hidden = circuits.length > 0;
  fill($('load'), load.map(of => [
    of.name, of.in_flight, of.limit ?? 'no limit', of.waiting, of.pace_waiting,
    of.paused_ms == null ? '' : [seconds(of.paused_ms), 'warn'],
  ]));
  const all = calls.length + others, open = circuits.filter(circuit => circuit.state === 'open').length;
  $('summary').textContent = `${all} ${all === 1 ? 'call' : 'calls'} under way` + (open ? `, ${open} circuits open` : '');
  $('circuit').textContent = circuits[0]?.state ?? 'none';
  $('circuit').className = STATES[circuits[0]?.state] ?? '';
}

async function look() {
  const answer = await fetch('calls').catch(() => null);
  if (answer?.ok) show(await answer.json());
  else $('summary').textContent = 'The gateway does not answer.';
}
look();
setInterval(() => { if (!document.hidden) look(); }, 1000);

// === the call of this page ===

// Reads an event stream line by line, because EventSource hides comments.
async function* lines(body) {
  let rest = '';
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    rest += chunk;
    const whole = rest.split('\n');
    rest = whole.pop();
    yield* whole;
  }
}

const wait = (ms, signal) => new Promise((done, failed) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener('abort', () => { clearTimeout(timer); failed(signal.reason); });
});

// Fetches a later answer from its URL.
async function fetchLater(response, headers, signal) {
  outcome('waiting', 'warn');
  $('answer').textContent = 'The answer takes longer. This page fetches it when it is ready.';
  while (response.status === 202) {
    const place = response.headers.get('location') ?? response.url;
    const after = Math.min(Number(response.headers.get('retry-after')) || 1, 30);
    log(`not ready: next look in ${after} s`, 'warn');
    await wait(after * 1000, signal);
    response = await fetch(place, { signal, headers });
  }
  $('answer').replaceChildren();
  return response;
}

async function ask() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  start = performance.now();
  counts = { beats: 0, retries: 0 };
  for (const id of ['beats', 'retries']) $(id).textContent = 0;
  for (const id of ['log', 'answer']) $(id).replaceChildren();
  $('first').textContent = '…';
  outcome('…', '');
  $('stop').disabled = false;
  const first = () => {
    if ($('first').textContent === '…') $('first').textContent = seconds(performance.now() - start);
  };
  // The simulated provider accepts any key. Without a key no answer is kept, and none can be fetched later.
  const key = $('key').value || (simulated ? 'page' : '');
  const who = key ? { authorization: `Bearer ${key}` } : {};
  const later = $('later').checked ? { prefer: 'respond-async, wait=2', 'idempotency-key': crypto.randomUUID() } : {};
  let response = await fetch('/v1/chat/completions', {
    method: 'POST',
    signal,
    headers: { 'content-type': 'application/json', 'x-fault': $('fault').value, 'x-notices': 'on', ...who, ...later },
    body: JSON.stringify({ model: $('model').value, stream: true, messages: [{ role: 'user', content: $('question').value }] }),
  });
  log(`answered ${response.status}`, response.ok ? 'good' : 'bad');
  if (response.status === 202) response = await fetchLater(response, who, signal);
  for (const name of ['x-gateway-attempts', 'x-gateway-served-by', 'x-gateway-dedup', 'retry-after']) {
    if (response.headers.has(name)) log(`${name}: ${response.headers.get(name)}`);
  }
  // Retries before the event stream was open.
  const attempts = Number(response.headers.get('x-gateway-attempts') ?? 1);
  while (counts.retries < attempts - 1) count('retries');
  if (!response.ok) {
    $('answer').textContent = await response.text();
    return outcome(response.status, 'bad');
  }
  let whole = false, error = false;
  for await (const line of lines(response.body)) {
    first();
    if (line.startsWith(':')) { count('beats'); log('heartbeat', 'beat'); continue; }
    if (line.startsWith('event: error')) { error = true; continue; }
    if (!line.startsWith('data: ')) continue;
    if (line === 'data: [DONE]') { whole = true; continue; }
    const data = JSON.parse(line.slice(6));
    if (error || data.error) { error = true; log(`${data.error.type}: ${data.error.message}`, 'bad'); }
    if (data.x_notice) log(`notice: ${data.x_notice.message}`, 'warn');
    $('answer').append(data.choices?.[0]?.delta?.content ?? '');
  }
  whole &&= !error;
  outcome(whole ? 'whole' : 'cut', whole ? 'good' : 'bad');
}

$('form').addEventListener('submit', event => {
  event.preventDefault();
  const call = ask(), own = asking;
  call.catch(error => {
    if (error.name === 'AbortError') return;
    log(`the stream broke off: ${error.message}`, 'bad');
    outcome('cut', 'bad');
  }).finally(() => {
    // Another call may have started.
    if (asking === own) $('stop').disabled = true;
    look();
  });
});
function stop() {
  if ($('stop').disabled) return;
  asking?.abort();
  log('stopped', 'warn');
  outcome('stopped', 'warn');
}
$('stop').addEventListener('click', stop);
document.addEventListener('keydown', event => { if (event.key === 'Escape') stop(); });

const wanted = new URLSearchParams(location.search);
if (wanted.has('ask')) {
  const fault = wanted.get('fault') ?? '';
  if (![...$('fault').options].some(option => option.value === fault)) $('fault').add(new Option(fault, fault));
  $('fault').value = fault;
  // The first look shows which parts of the form exist.
  look().then(() => {
    $('later').checked = wanted.has('later') && !$('later-label').hidden;
    $('form').requestSubmit();
  });
}
