'use strict';

// Asks the server for the router's answers, and shows them. Nothing of an answer becomes markup: texts are
// set as text, so that a policy's name cannot do more than be read.

const ROUND_MS = 1000; // between two questions about the router
const WINDOW_MS = 120_000; // what the chart shows
const SELDOM = 5; // rounds between two questions that cost the router more
const POLICIES_SHOWN = 100; // the others are in the list of pods
const CHART = { width: 600, height: 160 };

const shown = {
  status: null, // the last answer, and the one before
  before: null,
  drops: null,
  dropsBefore: null,
  usage: null,
  carried: null, // the rates of egress addresses and policies, between the last two counts
  points: [], // {at, forward, reply}, in bits each second; without these where nothing is known
  answeredAt: null, // by this browser's clock
  awaySince: null,
};

const live = { cursor: 0, next: null };
const rows = { cursor: 0, next: null };

const element = (id) => document.getElementById(id);
const say = (id, text) => {
  if (element(id).textContent !== text) element(id).textContent = text;
};

// --- numbers ------------------------------------------------------------------------------------

const count = (number) => number.toLocaleString('en');

function short(number) {
  const scaled = (value) => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
  for (const [unit, prefix] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (number >= unit * 0.9995) return [scaled(number / unit), prefix];
  }
  return [number > 0 && number < 9.95 ? number.toFixed(1) : number.toFixed(0), ''];
}

const bitRate = (bits) => (bits === null ? '–' : short(bits).join(' ').concat('bit/s'));
const rate = (number) => (number === null ? '–' : short(number).join('').concat('/s'));
const packetRate = (number) => (number === null ? '–' : short(number).join('').concat(' packets/s'));

function duration(seconds) {
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${seconds % 60}s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h${Math.floor(seconds / 60) % 60}m`;
  return `${Math.floor(seconds / 86_400)}d${Math.floor(seconds / 3600) % 24}h`;
}

// As socket addresses are written: those of IPv6 in brackets.
const endpoint = (address, port) => (address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`);
const sum = (list, value) => list.reduce((total, item) => total + value(item), 0);

// --- questions ----------------------------------------------------------------------------------

class Away extends Error {}

// One of the router's answers, and when it gave it.
async function ask(path) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(10_000) });
  } catch {
    throw new Away('the server of this page (`spillway serve`) does not answer');
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Away(answer.error ?? `the server of this page says ${response.status}`);
  return { answer, at: Number(response.headers.get('spillway-answered-ms')) };
}

// --- tables -------------------------------------------------------------------------------------

const filled = new Map(); // what each table shows, and the notices

// Shows rows of cells, each a text or an element, under the headings that the page has. A table that would
// stay as it is is not touched: somebody may be marking a text in it.
function fill(id, cells) {
  const table = element(id);
  const key = JSON.stringify(cells, (_, value) => (value instanceof Element ? value.outerHTML : value));
  table.classList.toggle('empty', cells.length === 0);
  if (filled.get(id) === key) return;
  filled.set(id, key);
  const headings = [...table.tHead.rows[0].cells];
  table.tBodies[0].replaceChildren(...cells.map((row) => {
    const line = document.createElement('tr');
    row.forEach((cell, at) => {
      const field = line.insertCell();
      field.dataset.label = headings[at].textContent;
      field.className = headings[at].className;
      // One element in the cell, so that a label may stand beside it.
      const content = document.createElement('span');
      content.append(cell);
      field.append(content);
    });
    return line;
  }));
}

// --- the router ---------------------------------------------------------------------------------

// The seconds between two answers of one process; null where rates cannot be reckoned.
function elapsed(before, now) {
  const same = before && before.answer.pid === now.answer.pid && before.answer.uptime_s <= now.answer.uptime_s;
  return same && now.at > before.at ? (now.at - before.at) / 1000 : null;
}

const perSecond = (before, now, seconds) => (seconds === null ? null : Math.max(0, now - before) / seconds);

function showStatus() {
  const { status, before } = shown;
  const { answer } = status;
  const seconds = elapsed(before, status);
  const workers = answer.workers;
  const total = (of, name) => sum(of.workers, (worker) => worker[name]);
  const moved = (name) => perSecond(before ? total(before.answer, name) : 0, total(answer, name), seconds);
  const bits = (name) => (seconds === null ? null : 8 * moved(name));

  say('summary', `version ${answer.version}, up ${duration(answer.uptime_s)}, ` +
    (answer.generation === null ? 'no state document yet' : `forwarding: generation ${answer.generation}, from ${answer.state_source}`));
  say('forward-bits', bitRate(bits('forward_bytes')));
  say('forward-packets', packetRate(moved('forward_packets')));
  say('reply-bits', bitRate(bits('reply_bytes')));
  say('reply-packets', packetRate(moved('reply_packets')));
  say('flows', count(total(answer, 'flows')));
  say('new-flows', `${rate(moved('flows_created'))} new`);
  say('held', `${count(total(answer, 'held'))} packets wait for a neighbour`);
  shown.points.push({ at: status.at, forward: bits('forward_bytes'), reply: bits('reply_bytes') });

  fill('workers', workers.map((worker) => {
    const earlier = before?.answer.workers.find((other) => other.id === worker.id) ?? worker;
    const each = (name) => rate(perSecond(earlier[name], worker[name], seconds));
    return [
      String(worker.id), count(worker.flows), each('forward_packets'), each('reply_packets'), each('dropped'),
      count(worker.held), count(worker.tx_ring_full), count(worker.frames_missing), count(worker.handed_off),
    ];
  }));
  fill('devices', answer.devices.map(({ name, xdp_mode: mode, queues, rings }) => [
    name, mode, count(queues), count(rings.rx_dropped), count(rings.rx_ring_full), count(rings.fill_ring_empty),
  ]));
  say('versions', `Process ${answer.pid}, ${count(answer.frames.free)} of ${count(answer.frames.total)} frames free.`);
}

function showDrops() {
  const { drops, dropsBefore, status } = shown;
  // Steering counts for each device, a reason is shown once.
  const sums = ({ answer }) => {
    const reasons = new Map();
    const named = answer.steering.filter((of) => of.verdict === 'drop').map((of) => [of.outcome, of]);
    for (const [name, of] of [...named, ...answer.engine.map((of) => [of.reason, of])]) {
      const row = reasons.get(name) ?? { name, packets: 0, description: of.description };
      row.packets += of.packets;
      reasons.set(name, row);
    }
    return reasons;
  };
  const earlier = dropsBefore && dropsBefore.pid === drops.pid ? sums(dropsBefore) : null;
  const seconds = earlier && drops.at > dropsBefore.at ? (drops.at - dropsBefore.at) / 1000 : null;
  const reasons = [...sums(drops).values()].map((row) => (
    { ...row, rate: perSecond(earlier?.get(row.name)?.packets ?? row.packets, row.packets, seconds) }
  ));
  say('dropped', rate(seconds === null ? null : sum(reasons, (row) => row.rate)));
  const counted = reasons.filter((row) => row.packets > 0);
  counted.sort((a, b) => b.rate - a.rate || b.packets - a.packets);
  say('drops-note', counted.length ? '' : 'Nothing was dropped since the router started.');
  fill('drops', counted.map((row) => [row.name, rate(row.rate), count(row.packets), row.description]));
}

// What has gone through since an earlier count, each second, by the name of an egress address or a policy.
// Null where nobody knows: the router counts every few seconds, and says when.
function carriedRates(before, now) {
  const seconds = before && before.pid === now.pid && before.answer.counted && now.answer.counted
    ? (now.answer.counted_at_ms - before.answer.counted_at_ms) / 1000 : 0;
  if (seconds <= 0) return null;
  const rates = (list, name) => {
    const earlier = new Map(list(before.answer).map((item) => [item[name], item.traffic]));
    return new Map(list(now.answer).filter((item) => earlier.has(item[name])).map((item) => {
      const [old, { traffic }] = [earlier.get(item[name]), item];
      const each = (counter) => perSecond(old[counter], traffic[counter], seconds);
      const way = (which) => ({ packets: each(`${which}_packets`), bits: 8 * each(`${which}_bytes`) });
      return [item[name], { out: way('original'), in: way('reply') }];
    }));
  };
  return {
    egress: rates((answer) => answer.egress_addresses, 'address'),
    policies: rates((answer) => answer.policies, 'name'),
  };
}

// Bits, and packets below; one dash where nobody knows.
function carriedCell(way) {
  if (!way) return '–';
  const packets = document.createElement('span');
  packets.className = 'small';
  packets.textContent = packetRate(way.packets);
  const cell = document.createElement('span');
  cell.append(bitRate(way.bits), ' ', packets);
  return cell;
}

function showUsage({ answer }) {
  const { usage: before, status } = shown;
  shown.usage = { answer, pid: status.answer.pid };
  // They stay as long as the same count is answered again.
  const isCountedAnew = before?.pid !== shown.usage.pid || before.answer.counted_at_ms !== answer.counted_at_ms;
  if (isCountedAnew) shown.carried = carriedRates(before, shown.usage);
  const whyNot = answer.counting ? 'Flows are being counted: there are so many that it takes a while.'
    : 'Flows were not counted: there is no state document.';
  const why = answer.counted ? '' : whyNot;
  say('egress-note', why);
  const notes = [why];
  if (answer.policies.length > POLICIES_SHOWN) notes.push(`The ${POLICIES_SHOWN} with most flows, of ${count(answer.policies.length)}.`);
  if (answer.flows_of_no_policy) notes.push(`Flows that have not spoken since the policies changed: ${count(answer.flows_of_no_policy)}.`);
  say('policies-note', notes.join(' '));
  fill('egress', answer.egress_addresses.map(({ address, flows, ports, fullest }) => {
    const used = fullest?.ports ?? 0;
    const bar = document.createElement('progress');
    bar.max = Math.max(ports, 1);
    bar.value = used;
    const cell = document.createElement('span');
    cell.append(bar, ` ${count(used)} of ${count(ports)}`);
    const remote = fullest ? `${fullest.protocol} ${fullest.port ? endpoint(fullest.address, fullest.port) : fullest.address}` : '';
    const carried = shown.carried?.egress.get(address);
    return [address, count(flows), carriedCell(carried?.out), carriedCell(carried?.in), cell, remote];
  }));
  const policies = [...answer.policies].sort((a, b) => b.flows - a.flows);
  fill('policies', policies.slice(0, POLICIES_SHOWN).map(({ name, flows }) => {
    const carried = shown.carried?.policies.get(name);
    return [name, count(flows), carriedCell(carried?.out), carriedCell(carried?.in)];
  }));
}

// --- what comes in pages ------------------------------------------------------------------------

function showFlows({ answer }) {
  fill('live', answer.rows.map((flow) => [
    flow.protocol,
    endpoint(flow.original.source, flow.original.source_port),
    endpoint(flow.original.destination, flow.original.destination_port),
    endpoint(flow.reply.destination, flow.reply.destination_port),
    flow.state,
    `${count(flow.original_packets)} / ${count(flow.reply_packets)}`,
    `${count(flow.original_bytes)} / ${count(flow.reply_bytes)}`,
    duration(flow.idle_s),
    flow.policy,
  ]));
  showPager('live', live, answer, 'flows');
}

function showRows({ answer }) {
  fill('rows', answer.rows.map((row) => [row.sourceIP, row.destCIDR, row.egressIP, row.gatewayIP, row.policy]));
  showPager('rows', rows, answer, 'rows');
}

function showPager(id, page, answer, what) {
  page.next = answer.next;
  element(`${id}-first`).disabled = page.cursor === 0;
  element(`${id}-next`).disabled = page.next === null;
  const where = page.cursor === 0 ? '' : ' here';
  const rest = page.next === null ? '.' : '; Next looks on.';
  say(`${id}-note`, `${answer.rows.length ? count(answer.rows.length) : 'No'} ${what}${where}${rest}`);
}

async function askFlows() {
  const search = element('search').value;
  showFlows(await ask(`api/v1/flows?cursor=${live.cursor}&search=${encodeURIComponent(search)}`));
}

async function askRows() {
  showRows(await ask(`api/v1/policies?cursor=${rows.cursor}`));
}

// --- what is wrong ------------------------------------------------------------------------------

function notices(away) {
  const words = [];
  const status = shown.status?.answer;
  if (away) {
    const since = duration(Math.round((Date.now() - shown.awaySince) / 1000));
    const last = shown.answeredAt
      ? `What is below is of ${shown.answeredAt.toLocaleTimeString('en-GB')}.` : 'Nothing is known of it yet.';
    words.push(`No answer for ${since}: ${away}. ${last}`);
  } else if (status) {
    if (status.generation === null) words.push('No state document has come yet: nothing is forwarded.');
    if (status.refused) {
      words.push(`The document from ${status.refused.source}, ${duration(status.refused.age_s)} ago, was refused: ${status.refused.message}`);
    }
    if (status.draining_s !== null) words.push(`Draining for ${duration(status.draining_s)}: no new flow begins.`);
    words.push(...status.reports);
  }
  const box = element('notices');
  if (filled.get('notices') === words.join('\n')) return;
  filled.set('notices', words.join('\n'));
  box.replaceChildren(...words.map((text) => {
    const notice = document.createElement('p');
    notice.className = 'notice';
    notice.textContent = text;
    return notice;
  }));
}

// --- the chart ----------------------------------------------------------------------------------

function draw() {
  const now = shown.points.at(-1)?.at ?? 0;
  shown.points = shown.points.filter((point) => point.at <= now && now - point.at <= WINDOW_MS);
  const known = shown.points.filter((point) => point.forward !== null);
  const peak = Math.max(1, ...known.flatMap((point) => [point.forward, point.reply]));
  for (const which of ['forward', 'reply']) {
    let path = '';
    let pen = 'M';
    for (const point of shown.points) {
      if (point[which] === null) {
        pen = 'M'; // a gap: nobody knows
        continue;
      }
      const x = CHART.width * (1 - (now - point.at) / WINDOW_MS);
      const y = (CHART.height - 2) * (1 - point[which] / peak) + 1;
      path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = 'L';
    }
    element(`${which}-line`).setAttribute('d', path);
  }
  element('chart').dataset.points = known.length;
  say('peak', known.length ? `peak ${bitRate(peak)}` : '');
}

// --- again and again ----------------------------------------------------------------------------

async function round(number) {
  const status = await ask('api/v1/status');
  // An answer that others have asked for a moment ago was shown already.
  if (status.at !== shown.status?.at) {
    [shown.before, shown.status] = [shown.status, status];
    showStatus();
  }
  shown.answeredAt = new Date();
  const drops = await ask('api/v1/drops');
  if (drops.at !== shown.drops?.at) {
    [shown.dropsBefore, shown.drops] = [shown.drops, { ...drops, pid: status.answer.pid }];
    showDrops();
  }
  if (number % SELDOM === 0) {
    await ask('api/v1/usage').then(showUsage, (error) => {
      // A router that is older refuses the question only.
      say('egress-note', `Flows are not counted: ${error.message}`);
      say('policies-note', '');
    });
    if (element('selected').open) await askRows();
  }
  if (number % 2 === 0) await askFlows();
}

async function rounds() {
  for (let number = 0; ; number += 1) {
    try {
      if (!document.hidden) {
        await round(number);
        shown.awaySince = null;
        notices(null);
      }
    } catch (error) {
      if (!(error instanceof Away)) throw error;
      shown.awaySince ??= Date.now();
      // What comes back first is not compared with what was before.
      if (shown.points.length && shown.points.at(-1).forward !== null) {
        shown.points.push({ ...shown.points.at(-1), forward: null, reply: null });
      }
      notices(error.message);
      number = -1; // everything is asked when it is back
    }
    element('content').classList.toggle('stale', shown.awaySince !== null);
    draw();
    await new Promise((resolve) => { setTimeout(resolve, ROUND_MS); });
  }
}

// Asks at once where somebody waits; the next round says what is wrong.
const now = (question) => question().catch(() => {});

let typing = null;
element('search').addEventListener('input', () => {
  live.cursor = 0;
  clearTimeout(typing);
  typing = setTimeout(() => now(askFlows), 250);
});
for (const [id, page, question] of [['live', live, askFlows], ['rows', rows, askRows]]) {
  element(`${id}-first`).addEventListener('click', () => { page.cursor = 0; now(question); });
  element(`${id}-next`).addEventListener('click', () => { page.cursor = page.next ?? 0; now(question); });
}
element('selected').addEventListener('toggle', (event) => { if (event.target.open) now(askRows); });

rounds();
