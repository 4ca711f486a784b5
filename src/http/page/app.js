// The page's connection: a token, the feed, and what to do when it ends (contract §5). The rest is in board.js.

import {
  $, ALERTS_MAX, ago, clock, current, draw, drawAll, firing, forget, isObject, keepPos, list, notice, route, session, sources, take,
  takeMetrics,
} from './board.js';

const POLL_MS = 5000;
const RETRY_MAX_MS = 300_000;
const STABLE_MS = 10_000; // A connection that lived so long starts the backoff anew.
const TOKEN_ENDS_SOON_MS = 600_000;

const base = new URL('.', location.origin + location.pathname);

let socket = null;
let hello = { reconnect: { min_ms: 500, max_ms: 30_000 } };
let openedAt = 0;
let attempts = 0;
let lastWords = null; // The last `bye` or `error` of this connection.
let retryAt = 0;
let why = '';
let silentPolls = 0;
let token = '';
let run = 0; // Answers to what an earlier start asked are dropped.

function say(state, text) {
  // Once per change: the seconds that are counted down are for the eye.
  if ((document.body.dataset.link === 'ok') !== (state === 'ok')) $('said').textContent = text;
  document.body.dataset.link = state;
  $('link').dataset.state = state;
  $('link-text').textContent = text;
}

async function api(path) {
  let answer;
  try {
    const headers = { Authorization: `Bearer ${token}` };
    answer = await fetch(new URL(`api/v1/${path}`, base), { headers, cache: 'no-store', signal: AbortSignal.timeout(10_000) });
  } catch {
    throw Object.assign(new Error('the server cannot be reached'), { status: 0 });
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && isObject(body)) return body;
  const seconds = Number(answer.headers.get('Retry-After')) || 0;
  throw Object.assign(new Error(body?.detail ?? `the server answered ${answer.status}`), { status: answer.status, seconds });
}

// From the beginning: the newest alerts, what is firing, then the feed from exactly there.
async function start() {
  const mine = ++run;
  hangUp();
  say('wait', 'connecting');
  try {
    const page = await api(`alerts?order=desc&limit=${ALERTS_MAX}`);
    const now = await api('alerts?status=firing');
    const past = await api('metrics/history?since=1h');
    const seen = session.get('pos');
    const told = !seen || seen === page.head || list(page.alerts).some((frame) => frame.pos === seen);
    // Further back than the list goes, or not kept any more: the log knows.
    const expired = !told && (await api(`alerts?after=${encodeURIComponent(seen)}&limit=1`).then(() => false, (problem) => problem.status === 410));
    if (mine !== run) return;
    if (expired) notice('Alerts since you last looked are not kept any more, or the log has begun anew; these are all there are.');
    forget();
    for (const frame of list(page.alerts).filter(isObject).reverse()) take(frame, false);
    firing.clear();
    for (const frame of list(now.alerts).filter(isObject)) firing.set(String(frame.alert_id), frame);
    for (const snapshot of list(past.snapshots)) takeMetrics(snapshot.timestamp, snapshot.metrics);
    keepPos(page.head);
    $('ask').hidden = true;
    $('board').hidden = false;
    $('leave').hidden = false;
    connect();
    drawAll();
    route(api);
    poll();
  } catch (problem) {
    if (mine !== run) return;
    if (problem.status === 401 || problem.status === 403) ask(problem.message);
    else again(problem.message, problem.seconds * 1000);
  }
}

function connect() {
  hangUp();
  lastWords = null;
  retryAt = 0;
  say('wait', 'connecting');
  const url = new URL(`ws?metrics=true&after=${encodeURIComponent(session.get('pos'))}`, base);
  url.protocol = url.protocol.replace('http', 'ws');
  try {
    socket = new WebSocket(url, ['auditcast.v1', `auditcast.token.${token}`]);
  } catch {
    ask('that is not a token');
    return;
  }
  const mine = socket;
  socket.onopen = () => { openedAt = Date.now(); };
  socket.onmessage = (message) => { if (mine === socket) heard(message.data); };
  socket.onclose = (event) => { if (mine === socket) ended(event.code, event.reason); };
}

function hangUp() {
  const old = socket;
  socket = null;
  retryAt = 0;
  $('now').hidden = true;
  old?.close(1000);
}

function heard(text) {
  let frame;
  try { frame = JSON.parse(text); } catch { return; }
  if (!isObject(frame)) return;
  switch (frame.type) {
    case 'hello':
      hello = { ...frame, reconnect: { ...hello.reconnect, ...frame.reconnect } };
      break;
    case 'subscribed':
      if (frame.recovered === false) {
        notice(`The server could not go on from where this page was (${frame.reason}); the list has been read again.`);
        session.set('pos', '');
        start();
        return;
      }
      say('ok', 'live');
      break;
    case 'security_alert': case 'alert_acknowledged': case 'alert_unacknowledged':
      take(frame, true);
      break;
    case 'position':
      keepPos(frame.pos);
      return;
    case 'security_metrics':
      takeMetrics(frame.timestamp, frame.metrics);
      break;
    case 'source_status':
      sources.set(frame.source, frame);
      break;
    case 'gap':
      notice(`${frame.missed ?? 'Some'} ${frame.feed} were lost on the way here (${frame.reason}); the list has been read again.`);
      session.set('pos', '');
      start();
      return;
    case 'lagging':
      notice('This connection takes alerts too slowly; the server will soon close it, and the page goes on from there.');
      return;
    case 'bye': case 'error':
      lastWords = frame;
      return;
    default:
      return;
  }
  draw();
}

// 3500–3999: not with this token. 3005: with a new one. Everything else: again, with backoff.
function ended(code, reason) {
  socket = null;
  const text = lastWords?.message ?? lastWords?.reason ?? (reason || (code === 1006 ? 'no connection' : `closed with ${code}`));
  if (code === 3005 || (code >= 3500 && code < 4000)) return ask(text, code === 3501 || code === 3504);
  if (openedAt && Date.now() - openedAt > STABLE_MS) attempts = 0;
  openedAt = 0;
  again(text, lastWords?.retry_in_ms);
}

function again(text, asked) {
  const { min_ms: min, max_ms: max } = hello.reconnect;
  const grown = Math.min(max, min * 2 ** Math.min(attempts++, 16));
  const wait = asked > 0 ? Math.min(asked, RETRY_MAX_MS) : min + Math.random() * (grown - min);
  why = text;
  retryAt = Date.now() + wait;
  tick();
}

function retry() {
  retryAt = 0;
  $('now').hidden = true;
  if ($('board').hidden || !session.get('pos')) start();
  else connect();
}

function ask(text, sameMayDo) {
  run++;
  hangUp();
  say('off', text ? 'not connected' : 'no token');
  $('ask-why').textContent = text ? `${text[0].toUpperCase()}${text.slice(1)}.` : '';
  $('again').hidden = !sameMayDo;
  $('ask').hidden = false;
  $('leave').hidden = !token;
  $('token').focus();
}

function use(text) {
  token = text.trim().replace(/^bearer\s+/i, '');
  session.set('token', token);
  attempts = 0;
  start();
}

async function poll() {
  if (!token || !$('ask').hidden || $('board').hidden || document.hidden) return;
  const mine = run;
  try {
    const values = await api('metrics/current');
    if (mine !== run) return;
    silentPolls = 0;
    takeMetrics(values.timestamp, values.metrics);
    sources.clear();
    for (const source of list(values.sources)) sources.set(source.source, source);
    draw();
  } catch (problem) {
    if (mine !== run) return;
    if (problem.status === 401 || problem.status === 403) ask(problem.message);
    // A cut line is not always noticed by the socket.
    else if (problem.status === 0 && ++silentPolls >= 2 && socket?.readyState === WebSocket.OPEN) {
      hangUp();
      again(problem.message);
    }
  }
}

function tick() {
  if (retryAt) {
    const seconds = Math.ceil((retryAt - Date.now()) / 1000);
    if (seconds <= 0) return retry();
    say('wait', `${why}; again in ${seconds} s`);
    $('now').hidden = false;
  }
  for (const since of document.querySelectorAll('[data-since]')) since.textContent = `for ${ago(since.dataset.since)}`;
  const age = (Date.now() - Date.parse(current.timestamp)) / 1000;
  $('as-of').textContent = current.timestamp ? `as of ${clock(new Date(current.timestamp))}${age > 20 ? `, ${ago(current.timestamp)} ago` : ''}` : '';
  const left = Date.parse(hello.expires_at) - Date.now();
  const until = left < TOKEN_ENDS_SOON_MS ? `token ends in ${Math.max(0, Math.ceil(left / 60_000))} min` : `token until ${clock(new Date(hello.expires_at))}`;
  $('who').textContent = hello.user ? `${hello.user} · ${until}` : '';
  $('who').title = hello.user ? `node ${hello.node}, auditcast ${hello.version}` : '';
}

// --- What people do ---------------------------------------------------------------------------------------------------------

$('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('token').value;
  $('token').value = '';
  use(text);
});
$('again').addEventListener('click', () => use(token));
$('leave').addEventListener('click', () => {
  token = '';
  for (const name of ['token', 'pos']) session.set(name, '');
  forget();
  $('board').hidden = true;
  ask('');
});
$('now').addEventListener('click', retry);
addEventListener('hashchange', () => { if (!takeFragment()) route(api); });
addEventListener('online', () => { if (retryAt) retry(); });
document.addEventListener('visibilitychange', poll);
setInterval(poll, POLL_MS);
setInterval(tick, 1000);

// `#token=…`: taken over, and gone from the address bar before anybody can read it there.
function takeFragment() {
  const found = /^#token=([^&]+)/.exec(location.hash)?.[1];
  if (!found) return false;
  history.replaceState(null, '', `${location.pathname}#/`);
  use(found);
  return true;
}

if (!takeFragment()) {
  token = session.get('token');
  if (token) start();
  else ask('');
}
