// The page's connection: who asks (a session by cookie, or a token), the feed, and what to do when it ends (contract §5). What is shown
// is in board.js, signing in and out in signin.js.

import {
  $, ALERTS_MAX, ago, clock, current, draw, drawAll, empty, forget, isObject, keepPos, late, list, notice, route, session, sources, take,
  takeFiring, takeHistory, takeMetrics, withdraw,
} from './board.js';

import * as signin from './signin.js';

const POLL_MS = 10_000; // Less often where the server says that it is too much, and not at all while the feed brings values.
const POLL_MAX_MS = 60_000;
const ROOM_MS = 30_000; // A 429 that does not say for how long.
const RETRY_MAX_MS = 300_000;
const STABLE_MS = 10_000; // A connection that lived so long starts the backoff anew.
const TOKEN_ENDS_SOON_MS = 600_000;
const ENDS_SOON_MS = 70_000; // Another connection takes over from one whose token ends so soon.
const SAME_TOKEN_MS = 1_500; // Tokens end at whole seconds, and answers take their time.
const RENEWED_MS = 5_000;

const base = new URL('.', location.origin + location.pathname);

let socket = null;
let next = null; // The connection that takes over from it: a cookie cannot be renewed in-band.
let nextAt = 0;
let hello = { reconnect: { min_ms: 500, max_ms: 30_000 } };
let openedAt = 0;
let attempts = 0;
let lastWords = null; // The last `bye` or `error` of this connection.
let retryAt = 0;
let why = '';
let silentPolls = 0;
let pollMs = POLL_MS;
let roomAt = 0; // Before that, the server takes no requests of this page (429). The feed is not concerned.
let valuesAt = 0;
let filling = false;
let fillAt = 0;
let toldLimit = false;
let token = ''; // None where the session is in the cookie.
let renewedAt = 0;
let triedAt = 0; // When the server was last asked to let this page in.
let run = 0; // Answers to what an earlier start asked are dropped.

function say(state, text) {
  // Once per change: the seconds that are counted down are for the eye.
  if ((document.body.dataset.link === 'ok') !== (state === 'ok')) $('said').textContent = text;
  document.body.dataset.link = state;
  $('link').dataset.state = state;
  $('link-text').textContent = text;
}

// Seconds, or a date.
function retryAfter(text) {
  const seconds = Number(text);
  return (Number.isFinite(seconds) ? seconds : (Date.parse(text) - Date.now()) / 1000) || 0;
}

function limited() {
  return Object.assign(new Error(`the server takes requests again at ${clock(new Date(roomAt))}`), { status: 429, seconds: 0 });
}

const admitted = () => token !== '' || signin.isIn();

async function api(path) {
  if (Date.now() < roomAt) throw limited();
  let answer;
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    answer = await fetch(new URL(`api/v1/${path}`, base), { headers, cache: 'no-store', signal: AbortSignal.timeout(10_000) });
  } catch {
    throw Object.assign(new Error('the server cannot be reached'), { status: 0 });
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && isObject(body)) return body;
  const seconds = retryAfter(answer.headers.get('Retry-After') ?? '');
  if (answer.status === 429) {
    roomAt = Date.now() + (seconds > 0 ? seconds * 1000 : ROOM_MS);
    pollMs = Math.min(pollMs * 2, POLL_MAX_MS);
    // Said once, not each time.
    if (!toldLimit) notice('The server limits how often this page may ask (RATE_LIMIT_GENERAL). What is shown stays, new alerts come all the same; the rest follows when there is room.', 'limit');
    toldLimit = true;
    throw limited();
  }
  throw Object.assign(new Error(body?.detail ?? `the server answered ${answer.status}`), { status: answer.status, seconds });
}

// From the beginning: the newest alerts, then the feed from exactly there, then the rest.
async function start() {
  const mine = ++run;
  hangUp();
  say('wait', 'connecting');
  triedAt = Date.now();
  const seen = session.get('pos');
  let page = null;
  try {
    page = await api(`alerts?order=desc&limit=${ALERTS_MAX}`);
  } catch (problem) {
    if (mine !== run) return;
    if (problem.status === 401 || problem.status === 403) return turnedAway(problem);
    if (problem.status !== 429) return again(problem.message, problem.seconds * 1000);
  }
  if (mine !== run) return;
  late.clear();
  if (page) {
    forget();
    for (const frame of list(page.alerts).filter(isObject).reverse()) take(frame, false);
    keepPos(page.head);
    // Further back than the list goes: not kept any more, perhaps; the log knows.
    const told = !seen || seen === page.head || list(page.alerts).some((frame) => frame.pos === seen);
    for (const what of ['firing', 'history', told ? 'values' : 'seen']) late.add(what);
    from = seen;
    valuesAt = Date.now();
    fillAt = 0;
  } else {
    // The feed has no such limit: it goes on, or tells what is firing.
    if ($('list').childElementCount === 0) session.set('pos', '');
    late.add('earlier');
  }
  $('ask').hidden = true;
  $('board').hidden = false;
  $('leave').hidden = false;
  $('leave').textContent = token ? 'Forget token' : 'Sign out';
  connect();
  drawAll();
  await fill();
  if (mine === run) route(api);
}

let from = ''; // Where this page was before the start.
const PARTS = {
  firing: async (get) => takeFiring(list((await get('alerts?status=firing')).alerts).filter(isObject)),
  history: async (get) => takeHistory(list((await get('metrics/history?since=1h')).snapshots).filter(isObject)),
  values: async (get) => takeValues(await get('metrics/current')),
  seen: (get) => get(`alerts?after=${encodeURIComponent(from)}&limit=1`).catch((problem) => {
    if (problem.status !== 410) throw problem;
    notice('Alerts since you last looked are not kept any more, or the log has begun anew; these are all there are.');
  }),
};

// What a start still lacks, one after the other. What is refused for now is asked for again when there is room.
async function fill() {
  if (filling || !late.size || !admitted() || !$('ask').hidden || Date.now() < Math.max(roomAt, fillAt)) return;
  if (late.has('earlier')) return start();
  const mine = run;
  const asked = async (path) => {
    const answer = await api(path);
    if (mine !== run) throw new Error('answered too late');
    return answer;
  };
  filling = true;
  try {
    for (const what of [...late]) {
      if (what === 'linked') route(api);
      else await PARTS[what](asked);
      if (mine === run) late.delete(what);
      draw();
    }
  } catch (problem) {
    if (mine !== run) return;
    if (problem.status === 401 || problem.status === 403) turnedAway(problem);
    else if (problem.status !== 429) fillAt = Date.now() + (problem.seconds * 1000 || POLL_MS);
  } finally {
    filling = false;
  }
  if (!late.size && Date.now() >= roomAt) withdraw('limit');
}

function takeValues(values) {
  valuesAt = Date.now();
  takeMetrics(values.timestamp, values.metrics);
  sources.clear();
  for (const source of list(values.sources).filter(isObject)) sources.set(source.source, source);
}

// What the server would not take: with a session, a new token of it may do.
async function turnedAway(problem) {
  if (problem.status === 403) return ask(notAllowed(problem.message));
  // Tokens end at whole seconds: the last one before a time-out may be just over.
  if (!token && problem.status === 401 && signin.timedOut(2000)) return;
  // What was renewed since then has not been tried yet; what was tried with a fresh one is not a matter of time.
  const untried = renewedAt > triedAt;
  if (token || problem.status !== 401 || !signin.isIn() || (!untried && Date.now() - renewedAt < RENEWED_MS)) return over(problem.message);
  hangUp();
  const mine = run;
  try {
    if (!untried || signin.isStale()) await signin.renew();
  } catch (worse) {
    if (mine !== run) return;
    if (worse.status !== 401) return again(worse.message, worse.seconds * 1000);
    return over(worse.message);
  }
  if (mine === run) retry();
}

function open() {
  const pos = session.get('pos');
  const url = new URL(`ws?metrics=true&${pos ? `after=${encodeURIComponent(pos)}` : 'active=true'}`, base);
  url.protocol = url.protocol.replace('http', 'ws');
  return new WebSocket(url, token ? ['auditcast.v1', `auditcast.token.${token}`] : ['auditcast.v1']);
}

function connect() {
  hangUp();
  lastWords = null;
  retryAt = 0;
  say('wait', 'connecting');
  // A cookie that has ended is not sent, and the server would wait for a first frame.
  if (!token && signin.isStale()) return turnedAway({ status: 401, message: 'the session has ended' });
  triedAt = Date.now();
  try {
    socket = open();
  } catch {
    ask('that is not a token');
    return;
  }
  socket.onopen = () => { openedAt = Date.now(); };
  listen(socket);
}

function listen(mine) {
  mine.onmessage = (message) => { if (mine === socket) heard(message.data); };
  mine.onclose = (event) => { if (mine === socket) ended(event.code, event.reason); };
}

// A connection ends with the token that it began with: before that, another one goes on from where it is.
function handOver() {
  const early = Math.min(ENDS_SOON_MS, (Date.parse(hello.expires_at) - openedAt) / 3);
  if (token || next || !signin.isIn() || signin.isStale() || socket?.readyState !== WebSocket.OPEN) return;
  if (!(Date.parse(hello.expires_at) - Date.now() < early) || Date.now() < nextAt) return;
  if (signin.until() < Date.parse(hello.expires_at) + SAME_TOKEN_MS) return;
  const [mine, words] = [open(), []];
  next = mine;
  mine.onmessage = (message) => {
    if (next !== mine) return mine.close(1000);
    words.push(message.data);
    if (!message.data.includes('"type":"subscribed"')) return;
    const old = socket;
    [socket, next, openedAt, triedAt, lastWords] = [mine, null, Date.now(), Date.now(), null];
    old?.close(1000);
    listen(mine);
    words.forEach(heard);
  };
  // Then the old one ends when its time has come.
  mine.onclose = () => { if (next === mine) [next, nextAt] = [null, Date.now() + RENEWED_MS]; };
}

function hangUp() {
  const old = [socket, next];
  socket = next = null;
  retryAt = 0;
  $('now').hidden = true;
  for (const one of old) one?.close(1000);
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
        notice(`The server could not go on from where this page was (${frame.reason}); the list is read again.`);
        session.set('pos', '');
        start();
        return;
      }
      if (!session.get('pos')) keepPos(frame.head);
      sources.clear(); // Their states follow.
      say('ok', 'live');
      break;
    case 'security_alert': case 'alert_acknowledged': case 'alert_unacknowledged':
      take(frame, true);
      break;
    case 'position':
      keepPos(frame.pos);
      return;
    case 'security_metrics':
      if (Date.now() - Date.parse(frame.timestamp) < POLL_MS) valuesAt = Date.now();
      takeMetrics(frame.timestamp, frame.metrics);
      break;
    case 'source_status':
      sources.set(frame.source, frame);
      break;
    case 'gap':
      notice(`${frame.missed ?? 'Some'} ${frame.feed} were lost on the way here (${frame.reason}); the list is read again.`);
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
  if (code === 3005 && !token && signin.isIn()) return turnedAway({ status: 401, message: text });
  if (code === 3507) return ask(notAllowed(text));
  if (code === 3500 || code === 3503) return over(text);
  if (code === 3005 || (code >= 3500 && code < 4000)) return ask(text, code === 3501 || code === 3504);
  if (openedAt && Date.now() - openedAt > STABLE_MS) attempts = 0;
  openedAt = 0;
  again(text, lastWords?.retry_in_ms);
}

// A session that the server has ended leaves nothing behind; another token may see the same again.
function over(text) {
  if (token || !signin.isIn()) return ask(text);
  signin.drop();
  quit(`You were signed out: ${text}`);
}

const notAllowed = (text) => (!token && signin.isIn() ? `You are signed in as ${signin.who()}, but ${text}` : text);

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
  say('off', text ? 'not connected' : 'not signed in');
  $('ask-why').textContent = text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}` : '';
  $('again').hidden = !sameMayDo;
  $('ask').hidden = false;
  $('leave').hidden = !admitted();
  $('leave').textContent = token ? 'Forget token' : 'Sign out';
  $('by-token').open ||= token !== '';
  $(token ? 'token' : 'username').focus();
}

// Somebody else may sit here now, or nobody.
function quit(text) {
  token = '';
  for (const name of ['token', 'pos']) session.set(name, '');
  hello = { reconnect: hello.reconnect };
  $('who').textContent = $('who').title = '';
  $('board').hidden = true;
  // The alert in the address is what the next one may be here for, and says nothing.
  ask(text);
  empty();
}

// With a session, from the beginning: it may be another person's.
function enter(here) {
  // One that was given a token goes by that, whoever signs in elsewhere.
  if (token && !here) return;
  token = '';
  session.set('token', '');
  $('board').hidden = true;
  session.set('pos', session.get('user') === signin.who() ? session.get('pos') : '');
  session.set('user', signin.who());
  afresh();
}

function use(text) {
  token = text.trim().replace(/^bearer\s+/i, '');
  session.set('token', token);
  afresh();
}

function afresh() {
  attempts = 0;
  roomAt = 0;
  pollMs = POLL_MS;
  toldLimit = false;
  start();
}

// The values between the snapshots that the feed brings.
async function poll() {
  if (!admitted() || !$('ask').hidden || $('board').hidden || document.hidden || filling || late.size) return;
  const now = Date.now();
  if (now < roomAt || now - valuesAt < pollMs) return;
  valuesAt = now;
  const mine = run;
  try {
    const values = await api('metrics/current');
    if (mine !== run) return;
    silentPolls = 0;
    withdraw('limit');
    takeValues(values);
    draw();
  } catch (problem) {
    if (mine !== run) return;
    if (problem.status === 401 || problem.status === 403) turnedAway(problem);
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
  signin.tick(!token);
  handOver();
  fill();
  poll();
  for (const since of document.querySelectorAll('[data-since]')) since.textContent = `for ${ago(since.dataset.since)}`;
  const age = (Date.now() - Date.parse(current.timestamp)) / 1000;
  $('as-of').textContent = current.timestamp ? `as of ${clock(new Date(current.timestamp))}${age > 20 ? `, ${ago(current.timestamp)} ago` : ''}` : '';
  const left = Date.parse(hello.expires_at) - Date.now();
  const until = left < TOKEN_ENDS_SOON_MS ? `token ends in ${Math.max(0, Math.ceil(left / 60_000))} min` : `token until ${clock(new Date(hello.expires_at))}`;
  $('who').textContent = hello.user ? (token ? `${hello.user} · ${until}` : signin.who()) : '';
  $('who').title = hello.user ? `node ${hello.node}, auditcast ${hello.version}` : '';
}

// --- What people do ---------------------------------------------------------------------------------------------------------

$('with-token').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('token').value;
  $('token').value = '';
  use(text);
});
$('again').addEventListener('click', () => (token ? use(token) : afresh()));
$('leave').addEventListener('click', () => {
  if (!token && signin.isIn()) signin.leave('You are signed out.');
  else quit('');
});
$('now').addEventListener('click', retry);
addEventListener('hashchange', () => { if (!takeFragment()) route(api); });
addEventListener('online', () => { if (retryAt) retry(); });
document.addEventListener('visibilitychange', poll);
setInterval(tick, 1000);

// `#token=…`: taken over, and gone from the address bar before anybody can read it there.
function takeFragment() {
  const found = /^#token=([^&]+)/.exec(location.hash)?.[1];
  if (!found) return false;
  history.replaceState(null, '', `${location.pathname}#/`);
  use(found);
  return true;
}

signin.begin({ entered: enter, left: (text) => { if (!token) quit(text); }, renewed: () => { renewedAt = Date.now(); handOver(); } });
if (!takeFragment()) {
  token = session.get('token');
  if (token) start();
  else if (signin.isIn()) enter(true);
  else ask('');
}
