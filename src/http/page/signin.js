// Signing in, staying, and leaving (contract §10). The tokens are in cookies that no script can read; what this page knows of its
// session is when it ends. All pages of a browser share one session, so they share that too (localStorage), renew one at a time, and
// leave together.

import { $, isObject } from './board.js';

const KEPT = 'auditcast.session';
const WARN_MS = 120_000; // Before a time-out; at most a quarter of the time.
const TELL_MS = 300_000; // The server hears of activity so often; at most a sixth of the time.
const RENEW_MS = 90_000; // Before the access token ends; at most a quarter of its life.
const RETRY_MS = 5_000;
const ANSWER_MS = 15_000;

const base = new URL('.', location.origin + location.pathname);

// { user, since, access, life, timeout, seen, told }: Unix ms and ms; `seen` is when somebody last did something in any page,
// `told` when the server heard of it. Null: nobody is signed in.
let session = null;
let hooks = null; // What the page does: `entered(here)`, `left(message)`, `renewed()`.
let renewing = null;
let retryAt = 0;
let waitUntil = 0; // Before that nobody may try (429).

// --- What all pages know ----------------------------------------------------------------------------------------------------

function read(text) {
  try {
    const value = JSON.parse(text ?? localStorage.getItem(KEPT));
    const numbers = ['since', 'access', 'life', 'timeout', 'seen', 'told'];
    return isObject(value) && numbers.every((name) => Number.isFinite(value[name])) ? value : null;
  } catch { return session; } // A browser that keeps nothing: this page alone.
}

function keep(value) {
  session = value;
  try {
    if (value) localStorage.setItem(KEPT, JSON.stringify(value));
    else localStorage.removeItem(KEPT);
  } catch { /* this page alone */ }
}

export const isIn = () => session !== null;
export const who = () => session?.user ?? '';
export const until = () => session?.access ?? 0; // When the access token ends.
export const isStale = () => session !== null && Date.now() >= session.access;

// --- Asking the server ------------------------------------------------------------------------------------------------------

async function post(path, body) {
  let answer;
  try {
    answer = await fetch(new URL(`api/v1/auth/${path}`, base), {
      method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' },
      cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS),
    });
  } catch {
    throw Object.assign(new Error('the server cannot be reached'), { status: 0, seconds: 0 });
  }
  const told = answer.status === 204 ? {} : await answer.json().catch(() => null);
  if (answer.ok && isObject(told)) return told;
  const seconds = Number(answer.headers.get('Retry-After')) || 0;
  throw Object.assign(new Error(told?.detail ?? `the server answered ${answer.status}`), { status: answer.status, code: told?.code, seconds });
}

function take(answer, seen) {
  const now = Date.now();
  const life = (answer.expires_in || 60) * 1000;
  keep({
    user: String(answer.username ?? answer.user_id ?? ''), since: now, access: now + life, life,
    timeout: (answer.session_timeout || 1800) * 1000, seen, told: now,
  });
  retryAt = 0;
}

// One page at a time: a refresh token that is used twice ends the session.
const alone = (work) => (navigator.locks ? navigator.locks.request('auditcast.renew', work) : work());

// A new access token. Throws why there is none; with status 401 the session is over.
export function renew() {
  renewing ??= alone(async () => {
    const before = session?.since;
    const known = read();
    if (!known) throw Object.assign(new Error('you are signed out'), { status: 401, seconds: 0 });
    session = known;
    if (known.since !== before) return; // Another page was faster.
    const answer = await post('refresh', { active: known.seen > known.told });
    take(answer, read()?.seen ?? known.seen);
  }).then(() => hooks.renewed()).finally(() => { renewing = null; });
  return renewing;
}

async function signIn(username, password, totp) {
  const answer = await post('login', { username, password, ...(totp && { totp }), cookie: true });
  take(answer, Date.now());
}

// Ends the session everywhere: at the server, in the cookies, in every page.
export async function leave(message) {
  keep(null);
  settle();
  hooks.left(message);
  try {
    await post('logout', {});
  } catch (problem) {
    // Over already is what was wanted.
    if (problem.status !== 401) hooks.left(`${message} The server could not be told (${problem.message}): the session ends there by itself, at the latest when it times out.`);
  }
}

// The server has ended it.
export function drop() {
  keep(null);
  settle();
}

// --- Somebody is there, or not ----------------------------------------------------------------------------------------------

function active() {
  // While it is asked, only an answer counts.
  if (!session || $('still').open) return;
  const now = Date.now();
  if (now - session.seen < 1000) return;
  keep({ ...(read() ?? session), seen: now });
}

function inWords(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  return seconds >= 120 ? `${Math.round(seconds / 60)} minutes` : `${seconds} second${seconds === 1 ? '' : 's'}`;
}

function settle() {
  if ($('still').open) $('still').close();
}

function warn(left) {
  $('still-left').textContent = inWords(left);
  if ($('still').open) return;
  $('still').showModal();
  $('still-stay').focus();
}

async function stay() {
  settle();
  if (!session) return;
  keep({ ...session, seen: Date.now() });
  await attempt();
}

async function attempt() {
  try {
    await renew();
  } catch (problem) {
    if (problem.status === 401) {
      drop();
      hooks.left(`You were signed out: ${problem.message}.`);
    } else {
      retryAt = Date.now() + Math.max(problem.seconds * 1000, RETRY_MS);
    }
  }
}

// Leaves where nobody was there for too long, or will have been in `early` ms.
export function timedOut(early) {
  if (!session || session.seen + session.timeout > Date.now() + early) return false;
  leave(`You were signed out, because nobody used this page for ${inWords(session.timeout)}.`);
  return true;
}

// Once a second. `mine`: the page goes by the session, and not by a token.
export function tick(mine) {
  limitTick();
  if (!session || !mine) return;
  if (timedOut(0)) return;
  const now = Date.now();
  const left = session.seen + session.timeout - now;
  if (left <= Math.min(WARN_MS, session.timeout / 4)) warn(left);
  else settle();
  if (renewing || now < retryAt) return;
  const untold = session.seen > session.told && now - session.told >= Math.min(TELL_MS, session.timeout / 6);
  // A token that lasts as long as the session is not worth another one.
  const ends = session.access < now + left - 1000 && now >= session.access - Math.min(RENEW_MS, session.life / 4);
  if (untold || ends) attempt();
}

// --- The form ---------------------------------------------------------------------------------------------------------------

function say(text) {
  $('ask-why').textContent = text;
}

function limitTick() {
  const seconds = Math.ceil((waitUntil - Date.now()) / 1000);
  const waits = seconds > 0;
  if ($('signin-go').disabled === waits || $('signin').dataset.busy) {
    if (waits) $('signin-wait').textContent = `Try again in ${inWords(seconds * 1000)}.`;
    return;
  }
  $('signin-go').disabled = waits;
  $('signin-wait').textContent = waits ? `Try again in ${inWords(seconds * 1000)}.` : '';
  if (!waits) say('');
}

async function submit(event) {
  event.preventDefault();
  const form = $('signin');
  if (form.dataset.busy || Date.now() < waitUntil) return;
  const [name, password, totp] = ['username', 'password', 'totp'].map((field) => form.elements[field].value);
  form.dataset.busy = 'yes';
  $('signin-go').disabled = true;
  say('');
  try {
    await signIn(name.trim(), password, totp.replaceAll(/\s/g, ''));
    form.reset();
    hooks.entered(true);
  } catch (problem) {
    // How long it takes is told as it passes.
    const text = problem.seconds > 0 ? problem.message.split(';')[0] : problem.message;
    say(`${text[0].toUpperCase()}${text.slice(1)}.`);
    if (problem.seconds > 0) waitUntil = Date.now() + problem.seconds * 1000;
    form.elements.password.value = '';
    form.elements.totp.value = '';
    form.elements.password.focus();
  } finally {
    delete form.dataset.busy;
    $('signin-go').disabled = false;
    limitTick();
  }
}

// --- Wiring -----------------------------------------------------------------------------------------------------------------

export function begin(page) {
  hooks = page;
  session = read();
  $('signin').addEventListener('submit', submit);
  $('still-stay').addEventListener('click', stay);
  $('still-leave').addEventListener('click', () => leave('You are signed out.'));
  // Escape is an answer of somebody who is there.
  $('still').addEventListener('cancel', (event) => { event.preventDefault(); stay(); });
  for (const what of ['keydown', 'pointerdown', 'pointermove', 'wheel', 'touchstart']) {
    addEventListener(what, active, { passive: true, capture: true });
  }
  addEventListener('storage', (event) => {
    if (event.key !== KEPT && event.key !== null) return;
    const before = session;
    session = event.newValue ? read(event.newValue) : null;
    if (before && !session) {
      settle();
      hooks.left('You were signed out in another tab.');
    } else if (session && before?.user !== session.user) {
      hooks.entered(false);
    }
  });
}
