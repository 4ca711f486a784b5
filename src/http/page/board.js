// What is known, and how it is shown. What comes from outside becomes text, never markup.

export const ALERTS_MAX = 300; // Rows that are kept; the newest stay.
const FIRING_SHOWN = 8; // Firing alerts shown before somebody asks for more.
const FIRING_MAX = 500; // Firing alerts shown at all; every one is counted.
const NOTICES_MAX = 5;
const HISTORY_MS = 3600_000; // What a sparkline shows at most.
const POINTS_APART_MS = 10_000;
const SEVERITIES = ['low', 'medium', 'high', 'critical'];
const LABELS = {
  failed_logins_last_hour: 'Failed logins', rate_limit_violations: 'Rate-limit violations',
  permission_violations: 'Permission violations', suspicious_activities: 'Suspicious activities',
  session_timeouts: 'Session time-outs', active_sessions: 'Active sessions', auth_success_ratio: 'Login success',
  error_ratio: 'Errors', operation_p95_seconds: 'Operation time, p95',
};
// Frames do not say what a rule watches; of the built-in ones it is known.
const WATCHED = { high_failed_login_rate: 'failed_logins_last_hour', high_rate_limit_violations: 'rate_limit_violations' };

export const $ = (id) => document.getElementById(id);

// --- Small things -----------------------------------------------------------------------------------------------------------

function el(tag, options, ...children) {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// What a reload must find again. A browser may refuse storage; then it lives as long as the page.
const kept = new Map();
export const session = {
  get(name) {
    try { return kept.get(name) ?? sessionStorage.getItem(`auditcast.${name}`) ?? ''; } catch { return ''; }
  },
  set(name, value) {
    kept.set(name, value);
    try { sessionStorage.setItem(`auditcast.${name}`, value); } catch { /* kept is enough */ }
  },
};

export const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
export const list = (value) => (Array.isArray(value) ? value : []);
const severityOf = (frame) => (SEVERITIES.includes(frame.severity) ? frame.severity : 'low');

export function clock(date) {
  const time = date.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
  const today = date.toDateString() === new Date().toDateString();
  return today ? time : `${date.toLocaleDateString(undefined, { day: 'numeric', month: 'short' })} ${time.slice(0, 5)}`;
}

function timeOf(text) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return el('time', { textContent: String(text ?? '') });
  return el('time', { dateTime: date.toISOString(), title: date.toISOString(), textContent: clock(date) });
}

export function ago(text) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(text)) / 1000));
  if (!Number.isFinite(seconds)) return '';
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min` : `${Math.floor(seconds / 86_400)} d`;
}

function amount(name, value) {
  if (name.endsWith('_ratio')) return `${(value * 100).toFixed(value > 0 && value < 1 ? 1 : 0)} %`;
  if (name.endsWith('_seconds')) return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`;
  return Number.isInteger(value) ? value.toLocaleString() : String(Number(value.toPrecision(4)));
}

function badge(severity) {
  return el('span', { className: `badge ${severity}` }, el('span', { className: `mark ${severity}`, ariaHidden: 'true' }), severity);
}

export function notice(text, topic = text) {
  const same = [...$('notices').children].find((item) => item.dataset.topic === topic);
  same?.remove();
  const item = el('li', {}, timeOf(Date.now()), el('span', { textContent: text }));
  item.dataset.topic = topic;
  item.append(el('button', { type: 'button', textContent: 'Dismiss', onclick: () => item.remove() }));
  $('notices').prepend(item);
  while ($('notices').children.length > NOTICES_MAX) $('notices').lastElementChild.remove();
}

// What is no longer so.
export function withdraw(topic) {
  [...$('notices').children].find((item) => item.dataset.topic === topic)?.remove();
}

// --- What is known ----------------------------------------------------------------------------------------------------------

const alerts = new Map(); // alert_id → { frame, text, item, fired }, oldest change first.
export const firing = new Map(); // alert_id → frame
export const sources = new Map();
// What a start asked for and has not got yet: 'earlier' alerts, 'firing', 'history', 'values', 'seen', 'linked'.
export const late = new Set();
const points = new Map(); // metric → [{ t, v }], ascending; no v where the value was absent.
export let current = { timestamp: '', metrics: {} };
let linked = ''; // The alert of #/alerts/ID.
let allFiring = false;
let drawing = 0;

// The last position seen is where a reconnect goes on.
export function keepPos(pos) {
  if (typeof pos === 'string') session.set('pos', pos);
}

export function forget() {
  alerts.clear();
  firing.clear();
  $('list').replaceChildren();
}

// Nothing of what was shown is left: not for the next who sits here, not in the document.
export function empty() {
  clearTimeout(drawing); // What was to be drawn is not any more.
  drawing = 0;
  forget();
  for (const map of [sources, points]) map.clear();
  late.clear();
  current = { timestamp: '', metrics: {} };
  [linked, linkedDrawn, firingDrawn, allFiring, toSay] = ['', null, '', false, []];
  for (const id of ['firing', 'tiles', 'sources', 'linked-body', 'notices']) $(id).replaceChildren();
  for (const id of ['as-of', 'list-count', 'firing-count', 'bound', 'none', 'said']) $(id).textContent = '';
  $('filter').reset();
  $('linked').hidden = true;
  document.title = 'auditcast';
}

// One frame of the alert log. `live`: somebody may want to hear of it.
export function take(frame, live) {
  const id = String(frame.alert_id ?? '');
  const known = alerts.get(id);
  keepPos(frame.pos);
  if (frame.type !== 'security_alert') {
    const done = frame.type === 'alert_acknowledged' ? { by: frame.by, comment: frame.comment, timestamp: frame.timestamp } : undefined;
    for (const old of [known?.frame, firing.get(id)]) if (old) old.acknowledged = done;
    if (known) known.stale = true;
    return;
  }
  if (frame.status === 'firing') firing.set(id, frame);
  else firing.delete(id);
  const alert = known ?? { item: null, fired: null };
  // The time of an event alert is its event's, in both frames; of the others, that of the change.
  if (frame.status === 'firing' || frame.kind === 'event') alert.fired = frame.timestamp;
  Object.assign(alert, { frame, text: JSON.stringify(frame).toLowerCase(), stale: true, fresh: live && !frame.replayed });
  // What somebody is reading stays where it is.
  if (!known || !isOpen(known)) {
    alerts.delete(id);
    alerts.set(id, alert);
    alert.moved = true;
  }
  if (alerts.size > ALERTS_MAX) {
    const [oldest, gone] = alerts.entries().next().value;
    gone.item?.remove();
    alerts.delete(oldest);
  }
  if (alert.fresh && frame.status === 'firing' && SEVERITIES.indexOf(severityOf(frame)) >= 2) announce(frame);
}

let toSay = [];
let saying = 0;
// A screen reader gets one sentence for what comes at once.
function announce(frame) {
  toSay.push(`${severityOf(frame)}: ${frame.message}`);
  saying ||= setTimeout(() => {
    $('said').textContent = toSay[0] + (toSay.length > 1 ? `, and ${toSay.length - 1} more` : '');
    toSay = [];
    saying = 0;
  }, 1000);
}

// What is firing by the server's account; what the feed has said since then counts.
export function takeFiring(frames) {
  for (const frame of frames) {
    const id = String(frame.alert_id);
    if ((alerts.get(id)?.frame.status ?? 'firing') === 'firing') firing.set(id, alerts.get(id)?.frame ?? frame);
  }
}

export function takeMetrics(timestamp, metrics) {
  const t = Date.parse(timestamp);
  if (!isObject(metrics) || Number.isNaN(t)) return;
  if (!current.timestamp || t >= Date.parse(current.timestamp)) current = { timestamp, metrics };
  for (const name of new Set([...Object.keys(LABELS), ...Object.keys(metrics)])) {
    const v = metrics[name];
    if (v === undefined || typeof v === 'number') keep(name, { t, v });
  }
}

function keep(name, point) {
  const line = points.get(name) ?? points.set(name, []).get(name);
  const last = line.at(-1);
  if (last && point.t <= last.t) return;
  // Between two points that are kept, the newest is only moved.
  if (line.length > 1 && point.t - line.at(-2).t < POINTS_APART_MS) line.pop();
  line.push(point);
  while (line.length && line[0].t < point.t - HISTORY_MS) line.shift();
}

// The past may come after what followed it.
export function takeHistory(snapshots) {
  const since = [...points];
  points.clear();
  for (const snapshot of snapshots) takeMetrics(snapshot.timestamp, snapshot.metrics);
  for (const [name, line] of since) for (const point of line) keep(name, point);
}

// --- Drawing ----------------------------------------------------------------------------------------------------------------

// A burst is drawn once. A timer rather than a frame: the title counts in a hidden tab too.
export const draw = () => { drawing ||= setTimeout(() => { drawing = 0; drawAll(); }, 80); };

export function drawAll() {
  drawFiring();
  drawTiles();
  drawList();
  drawSources();
  drawLinked();
  document.title = firing.size ? `(${firing.size}) auditcast` : 'auditcast';
}

function drawSources() {
  $('sources').replaceChildren(...[...sources.values()].map((source) => {
    const item = el('li', { className: 'chip', title: `since ${source.since}` },
      el('span', { className: 'dot', ariaHidden: 'true' }), `${source.source} ${source.status}`);
    item.dataset.state = ['ok', 'stalled'].includes(source.status) ? source.status : 'down';
    return item;
  }));
}

let firingDrawn = '';
function drawFiring() {
  const worstFirst = [...firing.values()].sort((a, b) =>
    SEVERITIES.indexOf(severityOf(b)) - SEVERITIES.indexOf(severityOf(a)) || (a.timestamp < b.timestamp ? 1 : -1));
  const shown = worstFirst.slice(0, allFiring ? FIRING_MAX : FIRING_SHOWN);
  $('firing-count').textContent = firing.size || '';
  $('calm').hidden = firing.size > 0 || late.has('firing');
  $('firing-more').hidden = firing.size <= FIRING_SHOWN;
  $('firing-more').textContent = allFiring ? 'Show fewer' : `Show ${firing.size <= FIRING_MAX ? 'all' : `${FIRING_MAX} of`} ${firing.size}`;
  // Only what has changed is made anew: a link that is replaced while it is clicked is not followed.
  const drawn = JSON.stringify(shown.map((frame) => [frame.alert_id, frame.severity, frame.message]));
  if (drawn === firingDrawn) return;
  firingDrawn = drawn;
  const focused = document.activeElement?.closest?.('#firing a')?.getAttribute('href');
  $('firing').replaceChildren(...shown.map((frame) => {
    const since = el('span', { className: 'since', textContent: `for ${ago(frame.timestamp)}` });
    since.dataset.since = frame.timestamp;
    return el('li', { className: `is-${severityOf(frame)}` }, el('a', { href: `#/alerts/${encodeURIComponent(frame.alert_id)}` },
      badge(severityOf(frame)), el('span', { className: 'message', textContent: frame.message }), since));
  }));
  if (focused) [...$('firing').querySelectorAll('a')].find((link) => link.getAttribute('href') === focused)?.focus();
}

function drawTiles() {
  const own = Object.keys(current.metrics).filter((name) => !(name in LABELS) && typeof current.metrics[name] === 'number').sort();
  const hot = new Map([...firing.values()].map((frame) => [WATCHED[frame.rule], frame]));
  const tile = (name) => {
    const value = current.metrics[name];
    const shown = typeof value === 'number' ? [amount(name, value)] : ['–', el('small', { textContent: 'nothing to count' })];
    return el('li', { className: hot.has(name) ? 'hot' : '', title: name },
      el('h3', { textContent: LABELS[name] ?? name.replaceAll('_', ' ') }), el('div', { className: 'value' }, ...shown),
      sparkline(points.get(name) ?? [], name.endsWith('_ratio') ? 1 : 0, hot.get(name)?.threshold));
  };
  $('tiles').replaceChildren(...Object.keys(LABELS).map(tile), events(), ...own.map(tile));
}

function events() {
  const counts = isObject(current.metrics.events_by_severity) ? current.metrics.events_by_severity : {};
  const parts = SEVERITIES.toReversed().map((severity) => [severity, Number(counts[severity]) || 0]);
  const bar = el('div', { className: 'parts', ariaHidden: 'true' }, ...parts.filter(([, n]) => n).map(([severity, n]) => {
    const part = el('span', { className: severity });
    part.style.flexGrow = n;
    return part;
  }));
  const words = parts.filter(([, n]) => n).map(([severity, n]) => `${n.toLocaleString()} ${severity}`).join(', ');
  const total = parts.reduce((sum, [, n]) => sum + n, 0);
  return el('li', { title: `events_by_severity: ${words}` }, el('h3', { textContent: 'Events by severity' }),
    el('div', { className: 'value', textContent: total.toLocaleString() }), el('div', { className: 'split' }, bar, el('p', { textContent: words })));
}

function sparkline(line, atLeast, limit) {
  const picture = svg('svg', { viewBox: '0 0 100 34', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const known = line.filter((point) => point.v !== undefined);
  if (known.length < 2) return picture;
  const from = line[0].t;
  const x = (t) => (((t - from) / Math.max(1, line.at(-1).t - from)) * 100).toFixed(2);
  const top = Math.max(atLeast, limit ?? 0, ...known.map((point) => point.v)) || 1;
  const y = (v) => (32 - (Math.max(0, v) / top) * 28).toFixed(2);
  // An absent value breaks the line: it is not zero.
  const runs = line.reduce((all, point) => {
    if (point.v === undefined) all.push([]);
    else all.at(-1).push(point);
    return all;
  }, [[]]).filter((part) => part.length > 1);
  for (const part of runs) {
    const path = part.map((point, at) => `${at ? 'L' : 'M'}${x(point.t)} ${y(point.v)}`).join('');
    picture.append(svg('path', { class: 'area', d: `${path}V34H${x(part[0].t)}Z` }), svg('path', { class: 'stroke', d: path }));
  }
  if (typeof limit === 'number') picture.append(svg('path', { class: 'limit', d: `M0 ${y(limit)}H100` }));
  return picture;
}

const isOpen = (alert) => alert.item?.firstElementChild.ariaExpanded === 'true';

function drawList() {
  const wanted = filter();
  let shown = 0;
  for (const alert of alerts.values()) {
    if (alert.stale) drawRow(alert);
    if (alert.moved) {
      const focused = alert.item.contains(document.activeElement) && document.activeElement;
      $('list').prepend(alert.item);
      if (focused) focused.focus({ preventScroll: true });
      alert.moved = false;
    }
    alert.item.hidden = !wanted(alert);
    shown += alert.item.hidden ? 0 : 1;
  }
  $('list').hidden = shown === 0;
  $('list-count').textContent = shown === alerts.size ? alerts.size || '' : `${shown} of ${alerts.size}`;
  $('none').hidden = shown > 0;
  $('none').textContent = alerts.size ? 'No alert matches the filter.' : late.has('earlier') ? 'Earlier alerts are not here yet.' : 'No alerts yet.';
  $('bound').textContent = alerts.size < ALERTS_MAX ? (late.has('earlier') && alerts.size ? 'Earlier alerts are not here yet.' : '') : `The newest ${ALERTS_MAX}; all that are kept: /api/v1/alerts`;
}

// When the alert became what it is. A resolved event alert still carries its event's time; `received_at` is when it resolved.
function changed(frame) {
  const resolved = frame.status !== 'firing';
  const time = timeOf(resolved ? frame.received_at ?? frame.timestamp : frame.timestamp);
  time.title = `${resolved ? 'resolved at' : frame.kind === 'event' ? 'event of' : 'fired at'} ${time.title}`;
  return time;
}

function drawRow(alert) {
  const { frame } = alert;
  const severity = severityOf(frame);
  if (!alert.item) {
    const row = el('button', { type: 'button', className: 'row', ariaExpanded: 'false', onclick: () => toggle(alert) });
    alert.item = el('li', {}, row);
  }
  alert.item.className = `is-${severity} ${frame.status === 'firing' ? 'firing' : 'resolved'} ${alert.fresh ? 'fresh' : ''}`;
  const user = frame.username ?? frame.user_id;
  const about = [frame.event_type, user, frame.details?.ip_address].filter((part) => typeof part === 'string').join(' · ');
  alert.item.firstElementChild.replaceChildren(
    changed(frame), badge(severity),
    el('span', { className: `status ${frame.status === 'firing' ? 'firing' : ''}`, textContent: frame.acknowledged ? 'acknowledged' : frame.status }),
    el('span', { className: 'message', textContent: frame.message }), el('span', { className: 'about', textContent: about, title: about }));
  if (isOpen(alert)) alert.item.lastElementChild.replaceWith(detail(frame, alert.fired, false));
  alert.stale = false;
}

function toggle(alert) {
  const row = alert.item.firstElementChild;
  const open = row.ariaExpanded !== 'true';
  row.ariaExpanded = String(open);
  if (open) alert.item.append(detail(alert.frame, alert.fired, true));
  else alert.item.lastElementChild.remove();
}

function filter() {
  const form = new FormData($('filter'));
  const words = String(form.get('text')).toLowerCase().split(/\s+/).filter(Boolean);
  const [least, kind, status] = [Number(form.get('severity')), form.get('kind'), form.get('status')];
  return ({ frame, text }) => SEVERITIES.indexOf(severityOf(frame)) >= least && (!kind || frame.kind === kind) &&
    (!status || frame.status === status) && words.every((word) => text.includes(word));
}

// --- One alert, whole -------------------------------------------------------------------------------------------------------

const APART = ['type', 'message', 'severity', 'details', 'evidence'];
const TIMES = ['timestamp', 'received_at', 'event_at', 'fired_at', 'resolved_at'];
const LINKS = ['url', 'runbook_url'];

function member(name, value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  let shown = text;
  if (TIMES.includes(name)) shown = `${clock(new Date(value))} (${text})`;
  // Anything but a web address stays text: a link could be a script.
  const link = LINKS.includes(name) && /^https?:\/\//i.test(text);
  const content = link ? el('a', { href: text, rel: 'noopener noreferrer', target: '_blank', textContent: text }) : shown;
  return [el('dt', { textContent: name }), el('dd', {}, content)];
}

function members(pairs) {
  return el('dl', {}, ...pairs.filter(([, value]) => value !== undefined && value !== null).flatMap(([name, value]) => member(name, value)));
}

function top(name, entries) {
  const most = Math.max(1, ...entries.map((entry) => Number(entry.count) || 0));
  const rows = entries.flatMap((entry) => {
    const bar = el('i', { ariaHidden: 'true' });
    bar.style.width = `${((Number(entry.count) || 0) / most) * 100}%`;
    return [el('span', { textContent: String(entry.value) }), bar, el('span', { textContent: String(entry.count) })];
  });
  return el('div', {}, el('h4', { textContent: `Most frequent ${name}` }), el('div', { className: 'top' }, ...rows));
}

function detail(frame, fired, linkToIt) {
  const details = isObject(frame.details) ? frame.details : {};
  let rest = Object.entries(frame).filter(([name]) => !APART.includes(name));
  if (frame.status !== 'firing') {
    rest = rest.filter(([name]) => name !== 'timestamp' && name !== 'received_at');
    rest.unshift([frame.kind === 'event' ? 'event_at' : 'fired_at', frame.kind === 'event' ? frame.timestamp : fired],
      ['resolved_at', frame.received_at ?? frame.timestamp]);
  }
  const body = el('div', { className: `detail is-${severityOf(frame)}` });
  if (linkToIt) body.append(el('a', { href: `#/alerts/${encodeURIComponent(frame.alert_id)}`, textContent: 'Link to this alert' }));
  else body.append(el('h3', { textContent: frame.message }), badge(severityOf(frame)));
  body.append(el('h4', { textContent: 'Alert' }), members(rest));
  const tops = isObject(details.top) ? Object.entries(details.top).filter(([, entries]) => list(entries).length) : [];
  if (tops.length) body.append(el('div', { className: 'columns' }, ...tops.map(([name, entries]) => top(name, entries.filter(isObject)))));
  const others = Object.entries(details).filter(([name]) => name !== 'top' || !tops.length);
  if (others.length) body.append(el('h4', { textContent: 'Details' }), members(others));
  const evidence = list(frame.evidence);
  if (evidence.length) {
    const heading = evidence.length === 20 ? 'Evidence: the first and the last ten entries' : 'Evidence';
    body.append(el('h4', { textContent: heading }),
      el('ul', { className: 'evidence mono' }, ...evidence.map((entry) => el('li', { textContent: String(entry) }))));
  }
  body.append(el('details', {}, el('summary', { textContent: 'As JSON' }), el('pre', { textContent: JSON.stringify(frame, null, 2) })));
  return body;
}

let linkedDrawn = null;
// Shows the alert of `#/alerts/ID`; one that is not in the list is asked for.
export async function route(api) {
  const id = /^#\/alerts\/([0-9A-Za-z]{1,64})$/.exec(location.hash)?.[1] ?? '';
  linked = id;
  linkedDrawn = null;
  $('linked').hidden = !id;
  if (!id || $('board').hidden) return;
  $('linked-body').replaceChildren();
  drawLinked();
  if (!linkedDrawn) {
    let found;
    try { found = await api(`alerts/${id}`); } catch (problem) { found = problem; }
    if (linked !== id || linkedDrawn) return;
    if (found.status === 429) late.add('linked');
    if (found instanceof Error) $('linked-body').replaceChildren(el('p', { className: 'calm', textContent: `This alert cannot be shown: ${found.message}.` }));
    else showLinked(found);
  }
  $('linked-title').focus({ preventScroll: true });
  $('linked').scrollIntoView({ block: 'nearest' });
}

function showLinked(frame) {
  linkedDrawn = frame;
  $('linked-title').textContent = frame.status === 'firing' ? 'Alert, firing' : 'Alert, resolved';
  $('linked-body').replaceChildren(detail(frame, alerts.get(linked)?.fired, false));
}

function drawLinked() {
  const frame = alerts.get(linked)?.frame ?? firing.get(linked);
  if (linked && frame && frame !== linkedDrawn) showLinked(frame);
}

$('firing-more').addEventListener('click', () => { allFiring = !allFiring; drawFiring(); });
$('filter').addEventListener('input', drawList);
$('filter').addEventListener('reset', () => setTimeout(drawList));
$('filter').addEventListener('submit', (event) => event.preventDefault());
