// The console: shows queues, tasks and attempts, and reads them again every second while the page is seen.
//
// What comes from the emulator is shown as text only, never as markup. Every request is below /console/, where the
// emulator refuses to change anything unless it was started with --console-writes.
import { maskHeaders, maskText, maskValue } from "./secrets.js";

const CODES = (
  "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED " +
  "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
).split(" ");
const STATES = { ok: "succeeded", paused: "retrying", disabled: "cancelled", cancelled: "cancelled" };
const LEFT = "It has left the queue: it succeeded, gave up or was deleted, as the last attempt shows.";
const READ_EVERY = 1000; // milliseconds
const SHARE = 20; // reading takes at most one part in so many of the time
const LONGEST_PAUSE = 30_000;
const PATIENCE = 10_000;
const MANY = 8; // queues, from which on they can be searched
const PAGE = 50; // tasks
const KEPT = 500; // attempts
const FULL_ANSWER = 200; // attempts
const LONGEST = 20_000; // characters of a body
const HEX_BYTES = 256;
const HEX_LINE = 16;

const $ = (id) => document.getElementById(id);

let data = null; // the last answer about the queues
let sameIds = new Set(); // short ids that more than one queue has
let clockAhead = 0; // milliseconds by which the emulator's clock is ahead of this one
let silentSince = null; // when the emulator stopped to answer
let timer = 0;
let reading = false;
let readAgain = false;
let pages = [""]; // tokens of the pages of tasks up to the one that is shown
let nextPage = "";
let pagesOf = "";
let attempts = { of: "", newest: 0, rows: [] };
let readingFailed = false; // what is wrong was said by `read`
let drawer = null; // the task that is shown: its name, its last state as text, its body, what opened it

// -- elements and texts ---------------------------------------------------------------------------------------------

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== undefined && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Call `make` and show the elements that it returns, unless they are made of the same values as those shown now.
function showOnce(element, values, make) {
  const shown = JSON.stringify(values);
  if (element.shown === shown) return;
  element.shown = shown;
  element.replaceChildren(...make());
}

// Have an element in the page or not. One that is there is not put there again, because it would lose the focus.
function showIf(wanted, parent, element) {
  if (!wanted) element.remove();
  else if (!element.isConnected) parent.append(element);
}

function dot(word) {
  const key = word.toLowerCase();
  const state = STATES[key] ?? (CODES.includes(word) ? "failed" : key);
  return node("span", { class: "dot", "data-state": state, "aria-hidden": "true" });
}

const count = (number) => number.toLocaleString("en-US", { maximumFractionDigits: 3 });
const counted = (number, plural) => `${count(number)} ${number === 1 ? plural.replace(/s$/, "") : plural}`;
const shortId = (name) => name.slice(name.lastIndexOf("/") + 1);
const place = (queue) => queue.split("/").filter((_, at) => at === 1 || at === 3).join(" / ");
// A queue's short id, with project and location if another queue has the same.
const label = (queue) => (sameIds.has(shortId(queue)) ? `${shortId(queue)} (${place(queue)})` : shortId(queue));
const emulatorNow = () => Date.now() + clockAhead;

function time(at) {
  if (!at) return "–";
  const date = new Date(at);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

// A duration in its leading units, as the toolkit writes it: 350 ms, 12.3 s, 2 min 05 s, 1 h, 3 d 04 h.
function duration(seconds) {
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(seconds >= 0.0095 ? 0 : 1).replace(/\.0$/, "")} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1).replace(/\.0$/, "")} s`;
  const whole = Math.round(seconds);
  const units = [[86_400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
  const [large, largeName, small, smallName] = units.find(([least]) => whole >= least);
  const rest = Math.floor((whole % large) / small);
  return `${Math.floor(whole / large)} ${largeName}${rest ? ` ${String(rest).padStart(2, "0")} ${smallName}` : ""}`;
}

function fromNow(at) {
  const seconds = Math.round((at - emulatorNow()) / 1000);
  if (!seconds) return "now";
  return seconds > 0 ? `in ${duration(seconds)}` : `${duration(-seconds)} ago`;
}

function facts(values) {
  return Object.entries(values)
    .filter(([, value]) => value !== "")
    .map(([name, value]) => node("div", {}, node("dt", {}, name), node("dd", {}, value)));
}

function command(text) {
  const code = node("code", {}, text);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    say("copied");
  };
  const button = navigator.clipboard ? node("button", { type: "button", click: copy }, "Copy") : null;
  return node("div", { class: "command" }, code, button);
}

function curl(path, body) {
  const shown = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl ${location.origin}/v2/${path} -H 'Content-Type: application/json' -d '${shown}'`;
}

const say = (text) => setText($("said"), text);
const complain = (text) => setText($("problem"), text);

// -- requests -------------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

class NoAnswer extends Error {}

async function ask(path, { method = "GET", body } = {}) {
  const { status, text } = await answerOf(`/console/${path}`, {
    method,
    headers: method === "GET" ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE),
  });
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    throw new Refused(status, text); // the text says what is wrong
  }
  if (status < 300) return document;
  throw new Refused(status, document.error?.message ?? document.error ?? text);
}

async function answerOf(path, options) {
  try {
    const response = await fetch(path, options);
    return { status: response.status, text: await response.text() };
  } catch (error) {
    throw new NoAnswer(`The emulator does not answer: ${error.message}`, { cause: error });
  }
}

// -- where the page is: #view=tasks&queue=NAME&task=ID ----------------------------------------------------------------

function route() {
  const given = new URLSearchParams(location.hash.slice(1));
  const view = ["queues", "tasks", "attempts"].find((name) => name === given.get("view")) ?? "queues";
  return { view, queue: given.get("queue") ?? "", task: given.get("task") ?? "", of: given.get("of") ?? "" };
}

// Go elsewhere; what is not named stays. `task` is shown in the drawer, and is in the queue `of`.
function go(changes) {
  const wanted = Object.entries({ ...route(), ...changes }).filter(([, value]) => value);
  location.hash = new URLSearchParams(wanted).toString();
}

const openTask = (queue, task) => {
  drawer = null;
  go({ of: queue, task });
};

// -- tables ---------------------------------------------------------------------------------------------------------

// A table whose rows keep their elements while they are shown. A column has a title, and `cell`, which returns what a
// row shows there: a text, or {text, state, tip, open}. `sort` returns what rows are ordered by. `task` returns the name
// of a row's task, which is marked while the drawer shows it.
class Table {
  constructor(place, label, columns, key, task = null) {
    this.columns = columns;
    this.key = key;
    this.rows = [];
    this.order = null;
    this.lines = new Map();
    this.task = task;
    this.heads = columns.map((column, at) => {
      const inside = column.sort ? node("button", { type: "button", click: () => this.sort(at) }, column.title) : column.title;
      return node("th", { scope: "col", class: side(column), title: column.tip }, inside);
    });
    this.body = node("tbody");
    const table = node("table", { "aria-label": label }, node("thead", {}, node("tr", {}, ...this.heads)), this.body);
    this.scroll = node("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${label}, scrollable` }, table);
    this.empty = node("div", { class: "empty" });
    this.status = node("span");
    this.pager = node("span", { class: "buttons" });
    this.foot = node("div", { class: "foot" }, this.status, this.pager);
    place.classList.add("table");
    place.append(this.scroll, this.empty, this.foot);
  }

  // Show rows; without any what `empty` returns, which is made of the values `of`.
  show(rows, status, of, empty) {
    this.rows = rows;
    this.scroll.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    if (rows.length === 0) showOnce(this.empty, of, empty);
    setText(this.status, status);
    this.foot.hidden = !status && (this.pager.hidden || this.pager.childElementCount === 0);
    this.draw();
  }

  sort(at) {
    this.order = { at, down: this.order?.at === at ? !this.order.down : this.columns[at].side === "right" };
    this.heads.forEach((head, index) => {
      if (index === at) head.setAttribute("aria-sort", this.order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.draw();
  }

  sorted() {
    if (this.order === null) return this.rows;
    const value = this.columns[this.order.at].sort;
    const sign = this.order.down ? -1 : 1;
    return this.rows.toSorted((one, other) => sign * (value(one) < value(other) ? -1 : Number(value(one) > value(other))));
  }

  draw() {
    const keys = new Set(this.rows.map(this.key));
    for (const [key, line] of this.lines) {
      if (!keys.has(key)) {
        line.remove();
        this.lines.delete(key);
      }
    }
    const { of, task } = route();
    const chosen = task && `${of}/tasks/${task}`;
    let before = this.body.firstElementChild;
    for (const row of this.sorted()) {
      const key = this.key(row);
      const line = this.lines.get(key) ?? this.line(key);
      this.columns.forEach((column, at) => fillCell(line.cells[at], column.cell(row)));
      if (this.task && this.task(row) === chosen) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
      if (line === before) before = before.nextElementSibling;
      else this.body.insertBefore(line, before);
    }
  }

  line(key) {
    const cells = this.columns.map((column) =>
      node(column.name ? "th" : "td", { class: side(column), scope: column.name ? "row" : null }),
    );
    const open = (event) => {
      if (!event.target.closest("button, a") && getSelection().isCollapsed) line.querySelector("button")?.click();
    };
    const line = node("tr", { click: open }, ...cells);
    this.lines.set(key, line);
    return line;
  }
}

const side = (column) => [column.side, column.wide && "wide", column.fill && "fill"].filter(Boolean).join(" ") || null;

function fillCell(cell, content) {
  const { text, state, tip, open } = typeof content === "string" ? { text: content } : content;
  cell.opens = open;
  showOnce(cell, [text, state, tip], () => {
    cell.title = tip ?? "";
    const shown = open ? node("button", { type: "button", class: "link", click: () => cell.opens() }, text) : text;
    return state ? [dot(state), shown] : [shown];
  });
}

const stateCell = (word) => (word ? { text: word, state: word } : "–");
const timeCell = (at) => ({ text: time(at), tip: at ? new Date(at).toISOString() : "" });

// -- queues ---------------------------------------------------------------------------------------------------------

const queuesTable = new Table($("queues-table"), "Queues", [
  { title: "Queue", name: true, cell: (queue) => ({ text: label(queue.name), tip: queue.name, open: () => go({ view: "tasks", queue: queue.name }) }), sort: (queue) => shortId(queue.name) },
  { title: "Project / location", fill: true, wide: true, cell: (queue) => place(queue.name), sort: (queue) => place(queue.name) },
  { title: "State", cell: (queue) => stateCell(queue.state), sort: (queue) => queue.state },
  { title: "Tasks", side: "right", cell: (queue) => count(queue.tasks), sort: (queue) => queue.tasks },
  { title: "Running", side: "right", cell: (queue) => count(queue.running), sort: (queue) => queue.running },
  { title: "Attempts/min", side: "right", tip: "Attempts that ended in the last minute, good and bad", cell: (queue) => count(queue.attempts), sort: (queue) => queue.attempts },
  { title: "Failed/min", side: "right", tip: "Attempts that failed in the last minute", cell: (queue) => (queue.failed ? { text: count(queue.failed), state: "failed" } : "0"), sort: (queue) => queue.failed },
  { title: "Rate /s", side: "right", wide: true, cell: (queue) => count(queue.rate), sort: (queue) => queue.rate },
  { title: "At once", side: "right", wide: true, cell: (queue) => count(queue.maxConcurrent), sort: (queue) => queue.maxConcurrent },
  { title: "Max attempts", side: "right", wide: true, cell: (queue) => limit(queue.maxAttempts), sort: (queue) => (queue.maxAttempts < 0 ? Infinity : queue.maxAttempts) },
], (queue) => queue.name);

const limit = (attempts) => (attempts < 0 ? "unlimited" : count(attempts));

const newQueue = node("button", { type: "button", class: "primary", click: () => askForQueue() }, "New queue");

function showQueues() {
  const { totals, queues, found } = data;
  const figures = {
    Queues: totals.queues, Tasks: totals.tasks, Running: totals.running, "Attempts/min": totals.attempts, "Failed/min": totals.failed,
  };
  showOnce($("totals"), figures, () => facts(Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, count(value)]))));
  const find = $("find-queue").value.trim();
  const status = found > queues.length ? `the first ${count(queues.length)} of ${counted(found, "queues")}: find others by their names` : counted(found, "queues");
  queuesTable.show(queues, totals.queues ? status : "", [find, data.writes], () => (find && totals.queues ? [`No queue has "${find}" in its name.`] : noQueues()));
}

function noQueues() {
  const parent = "projects/local/locations/us-central1";
  return [
    node("p", {}, "No queues yet. This command creates one:"),
    command(curl(`${parent}/queues`, { name: `${parent}/queues/reports` })),
  ];
}

// -- one queue and its tasks ------------------------------------------------------------------------------------------

const tasksTable = new Table($("tasks-table"), "Tasks", [
  { title: "Task", name: true, cell: (task) => ({ text: shortId(task.name), tip: shortId(task.name), open: () => openTask(queueOf(task.name), shortId(task.name)) }) },
  { title: "State", cell: (task) => stateCell(taskState(task)) },
  { title: "Last answer", cell: (task) => ({ ...statusCell(task), tip: task.lastAttempt?.responseStatus?.message }) },
  { title: "Due", cell: (task) => timeCell(Date.parse(task.scheduleTime)) },
  { title: "Attempts", side: "right", cell: (task) => count(task.dispatchCount ?? 0) },
  { title: "Method", wide: true, cell: (task) => requestOf(task).httpMethod ?? "POST" },
  { title: "URL", fill: true, wide: true, cell: (task) => ({ text: maskText(requestOf(task).url), tip: maskText(requestOf(task).url) }) },
], (task) => task.name, (task) => task.name);

const queueOf = (task) => task.slice(0, task.indexOf("/tasks/"));

const card = {
  title: node("h2"),
  state: node("span"),
  facts: node("dl", { class: "facts" }),
  newTask: node("button", { type: "button", class: "primary", click: () => askForTask(shownQueue) }, "New task"),
  pause: node("button", { type: "button", click: () => pauseOrResume(shownQueue) }),
  purge: node("button", { type: "button", class: "danger", click: () => purge(shownQueue) }, "Purge"),
};
const cardButtons = node("span", { class: "buttons" }, card.pause, card.purge, card.newTask);
const cardHead = node("div", { class: "card-head" }, card.title, card.state);
$("queue-card").append(cardHead, card.facts);
let shownQueue = null;

const first = node("button", { type: "button", click: () => turn([""]) }, "First");
const previous = node("button", { type: "button", click: () => turn(pages.slice(0, -1)) }, "Previous");
const next = node("button", { type: "button", click: () => turn([...pages, nextPage]) }, "Next");
tasksTable.pager.append(first, previous, next);

function turn(to) {
  pages = to;
  tasksTable.scroll.scrollTop = 0;
  refresh();
}

function requestOf(task) {
  const engine = task.appEngineHttpRequest;
  return engine ? { ...engine, url: engine.relativeUri ?? "/" } : (task.httpRequest ?? { url: "" });
}

// The same rule as the toolkit's panels have.
function taskState(task) {
  if (!task.dispatchCount) return Date.parse(task.scheduleTime) > emulatorNow() ? "scheduled" : "ready";
  const last = task.lastAttempt ?? {};
  return last.dispatchTime && !last.responseTime && !last.responseStatus?.code ? "running" : "retrying";
}

function lastStatus(task) {
  const last = task.lastAttempt;
  return last?.responseTime ? CODES[last.responseStatus?.code ?? 0] : "";
}

const statusCell = (task) => {
  const status = lastStatus(task);
  return status ? { text: status, state: status } : { text: "–" };
};

async function findQueue(name) {
  const chosen = name || data.queues[0]?.name || "";
  const listed = data.queues.find((queue) => queue.name === chosen);
  if (listed || !chosen) return listed ?? null;
  const { queues } = await ask(`queues?find=${encodeURIComponent(chosen)}`);
  return queues.find((queue) => queue.name === chosen) ?? { name: chosen, missing: true };
}

async function readTasks() {
  const queue = await findQueue(route().queue);
  const of = `${data.run} ${queue?.name}`;
  if (of !== pagesOf) [pagesOf, pages, nextPage] = [of, [""], ""];
  let found = { tasks: [] };
  if (queue && !queue.missing) {
    const at = pages;
    const query = new URLSearchParams({ pageSize: PAGE, pageToken: pages.at(-1) });
    try {
      found = await ask(`v2/${queue.name}/tasks?${query}`);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 400) throw error;
      pages = [""]; // the token is two hours old
      readAgain = true;
    }
    if (at !== pages) return;
  }
  nextPage = found.nextPageToken ?? "";
  showTasks(queue, found.tasks ?? []);
}

function showTasks(queue, tasks) {
  shownQueue = queue;
  showChoice($("tasks-queue"), queue?.name ?? "", null);
  $("queue-card").hidden = !queue || Boolean(queue.missing);
  $("find-task").hidden = !queue;
  [first.disabled, previous.disabled, next.disabled] = [pages.length < 2, pages.length < 2, !nextPage];
  tasksTable.pager.hidden = pages.length < 2 && !nextPage;
  if (!queue) {
    tasksTable.show([], "", "none", noQueues);
  } else if (queue.missing) {
    tasksTable.show([], "", queue.name, () => [`There is no queue ${queue.name}.`]);
  } else {
    showCard(queue);
    const begin = (pages.length - 1) * PAGE;
    const status = tasks.length ? `${count(begin + 1)}–${count(begin + tasks.length)} of about ${counted(queue.tasks, "tasks")}, in the order of creation` : "";
    tasksTable.show(tasks, status, [queue.name, begin], () => (begin ? ["No tasks are left on this page."] : noTasks(queue.name)));
  }
}

function showCard(queue) {
  setText(card.title, shortId(queue.name));
  $("queue-card").setAttribute("aria-label", `queue ${shortId(queue.name)}`);
  showOnce(card.state, queue.state, () => [dot(queue.state), queue.state]);
  const values = {
    "project / location": place(queue.name),
    tasks: count(queue.tasks),
    running: `${count(queue.running)} of ${count(queue.maxConcurrent)}`,
    "attempts last minute": count(queue.attempts),
    "failed last minute": count(queue.failed),
    rate: `${count(queue.rate)}/s`,
    attempts: limit(queue.maxAttempts),
    "retry time": queue.maxRetryDuration ? duration(queue.maxRetryDuration) : "unlimited",
    waits: `${duration(queue.minBackoff)} to ${duration(queue.maxBackoff)}`,
    logged: `${count(queue.logSamplingRatio * 100)}%`,
  };
  showOnce(card.facts, values, () => facts(values));
  showIf(data.writes, cardHead, cardButtons);
  setText(card.pause, queue.state === "RUNNING" ? "Pause" : "Resume");
}

function noTasks(queue) {
  const task = { httpRequest: { url: "http://127.0.0.1:8000/run", httpMethod: "POST" } };
  return [node("p", {}, "No tasks in the queue. This command creates one:"), command(curl(`${queue}/tasks`, { task }))];
}

// Let the user choose from the queues; `every` is the text of the choice of all.
function showChoice(select, chosen, every) {
  const names = data.queues.map((queue) => queue.name);
  if (chosen && !names.includes(chosen)) names.unshift(chosen);
  showOnce(select, [names, every], () => [
    ...(every === null ? [] : [node("option", { value: "" }, every)]),
    ...names.map((name) => node("option", { value: name }, label(name))),
  ]);
  if (select.value !== chosen) select.value = chosen;
}

// -- attempts ---------------------------------------------------------------------------------------------------------

const attemptsTable = new Table($("attempts-table"), "Attempts", [
  { title: "Task", name: true, cell: (one) => ({ text: one.task, tip: one.task, open: () => openTask(one.queue, one.task) }) },
  { title: "Answer", cell: (one) => ({ ...stateCell(one.status), tip: maskText(one.cause) }) },
  { title: "HTTP", side: "right", tip: "HTTP status of the answer", cell: (one) => (one.httpStatus ? String(one.httpStatus) : { text: "–", tip: "no answer, or an attempt that only the log has" }) },
  { title: "Time", cell: (one) => timeCell(one.ended) },
  { title: "Attempt", side: "right", cell: (one) => count(one.attempt) },
  { title: "Took", side: "right", cell: (one) => duration(one.took) },
  { title: "Queue", wide: true, cell: (one) => ({ text: label(one.queue), tip: one.queue }) },
  { title: "URL", fill: true, wide: true, cell: (one) => ({ text: maskText(one.target), tip: maskText(one.target) }) },
], (one) => one.key, (one) => `${one.queue}/tasks/${one.task}`);

async function readAttempts() {
  const { queue } = route();
  const failed = $("attempts-answer").value;
  const of = JSON.stringify([data.run, queue, failed]);
  const known = attempts.of === of ? attempts : { of, newest: 0, rows: [] };
  const query = new URLSearchParams({ after: known.newest, ...(queue && { queue }), ...(failed && { failed: 1 }) });
  const found = await ask(`attempts?${query}`);
  // A full answer may not have all since the last one: the rows that are shown have no gap.
  const older = found.attempts.length < FULL_ANSWER ? known.rows : [];
  attempts = { of, newest: found.newest, rows: [...found.attempts, ...older].slice(0, KEPT) };
  showAttempts();
}

function showAttempts() {
  const { queue } = route();
  showChoice($("attempts-queue"), queue, "all queues");
  const find = $("find-attempt").value.trim().toLowerCase();
  const rows = attempts.rows.filter((one) => `${one.task} ${one.status} ${one.httpStatus} ${one.queue} ${one.target}`.toLowerCase().includes(find));
  const kept = attempts.rows.length === KEPT ? `the newest ${count(KEPT)} attempts` : counted(attempts.rows.length, "attempts");
  const status = find ? `${count(rows.length)} of ${kept}` : kept;
  const none = find ? "No attempt that was read matches." : $("attempts-answer").value ? "No attempt has failed." : "No attempts yet: a task is tried when it is due and its queue runs.";
  attemptsTable.show(rows, attempts.rows.length ? status : "", none, () => [none]);
}

// -- one task ---------------------------------------------------------------------------------------------------------

async function readTask() {
  const { task: id, of: queue } = route();
  if (!id || !queue) {
    closeDrawer();
    return;
  }
  const name = `${queue}/tasks/${id}`;
  const path = `v2/${queue}/tasks/${encodeURIComponent(id)}`;
  if (drawer?.name !== name) drawer = { name, opener: document.activeElement, full: null };
  const mine = drawer;
  const tried = await ask(`attempts?${new URLSearchParams({ queue, task: id })}`);
  const task = tried.there ? await unlessGone(ask(mine.full ? path : `${path}?responseView=FULL`)) : null;
  if (mine !== drawer) return;
  // The body is read once: it may be large, and does not change.
  if (task && (!mine.full || mine.full.createTime !== task.createTime)) mine.full = { createTime: task.createTime, body: requestOf(task).body ?? "" };
  const seen = attempts.rows.filter((one) => one.queue === queue && one.task === id);
  const known = tried.attempts.length ? tried.attempts : seen;
  showTask(mine, queue, id, task, tried.request, known);
}

async function unlessGone(answer) {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null; // it has left the queue meanwhile
    throw error;
  }
}

// The parts of the drawer are made anew only when they change, so that a click, the focus and a selection stay.
const parts = {
  title: node("h2"),
  note: node("p"),
  facts: node("dl", { class: "facts" }),
  buttons: node("div", { class: "buttons" }),
  request: node("div"),
  attempts: node("div"),
};
const close = node("button", { type: "button", click: () => go({ task: "", of: "" }) }, "Close");
$("drawer").append(node("div", { class: "card-head" }, parts.title, close), parts.note, parts.facts, parts.buttons, parts.request, parts.attempts);

function showTask(mine, queue, id, task, sent, tried) {
  const element = $("drawer");
  const state = task ? taskState(task) : "";
  const request = task ? { ...requestOf(task), body: mine.full.body } : sent;
  const missing = `There is no task ${id} in the queue ${shortId(queue)}, and none of the newest attempts was on it.`;
  setText(parts.title, id);
  setText(parts.note, task ? "" : sent || tried.length ? LEFT : missing);
  parts.note.hidden = Boolean(task);
  const target = tried[0]?.target ?? "";
  showOnce(parts.facts, [queue, task, state, sent, target], () => facts(task ? taskFacts(task, queue, state) : sentFacts(queue, sent, target)));
  for (const shown of parts.facts.querySelectorAll("[data-due]")) setText(shown, fromNow(Number(shown.dataset.due)));
  showOnce(parts.buttons, [Boolean(task && data.writes), queue, id], () => (task && data.writes ? taskButtons(task.name, id) : []));
  showOnce(parts.request, request, () => (request ? requestParts(request) : []));
  showOnce(parts.attempts, [tried, task?.dispatchCount], () => attemptParts(tried, task));
  const opening = element.hidden || element.of !== mine.name;
  element.of = mine.name;
  element.hidden = false;
  if (opening) {
    element.scrollTop = 0;
    element.focus();
  }
}

function taskFacts(task, queue, state) {
  const request = requestOf(task);
  const signed = (request.oidcToken ?? request.oauthToken)?.serviceAccountEmail ?? "";
  const due = Date.parse(task.scheduleTime);
  return {
    state: node("span", {}, dot(state), state),
    queue: `${shortId(queue)} (${place(queue)})`,
    request: `${request.httpMethod ?? "POST"} ${maskText(request.url)}`,
    due: node("span", {}, `${time(due)}, `, node("span", { "data-due": due })),
    created: time(Date.parse(task.createTime)),
    attempts: count(task.dispatchCount ?? 0),
    "last answer": lastStatus(task),
    message: maskText(task.lastAttempt?.responseStatus?.message ?? ""),
    "signed as": signed,
    deadline: task.dispatchDeadline ? duration(parseFloat(task.dispatchDeadline)) : "",
  };
}

function sentFacts(queue, sent, target) {
  const request = sent ? `${sent.httpMethod} ${sent.url}` : target;
  return { queue: `${shortId(queue)} (${place(queue)})`, request: maskText(request) };
}

function taskButtons(name, id) {
  const run = () => act(() => ask(`v2/${name}:run`, { method: "POST", body: {} }), `dispatched ${id}`);
  return [
    node("button", { type: "button", click: run }, "Run now"),
    node("button", { type: "button", class: "danger", click: () => deleteTask(name, id) }, "Delete"),
  ];
}

function requestParts({ headers, body }) {
  const shown = Object.entries(maskHeaders(headers ?? {})).sort();
  const rows = shown.map(([name, value]) => node("tr", {}, node("th", { scope: "row" }, name), node("td", {}, value)));
  return [
    node("h3", {}, "Headers"),
    rows.length ? node("div", { class: "plain" }, node("table", { "aria-label": "Headers" }, node("tbody", {}, ...rows))) : none(),
    node("h3", {}, "Body"),
    ...(body === null ? ["It was too long to be kept."] : bodyParts(body ?? "")),
  ];
}

const none = () => node("span", { class: "quiet" }, "none");

function attemptParts(tried, task) {
  const heads = ["Attempt", "Answer", "HTTP", "Time", "Took", "Next try", ...(tried.some((one) => one.cause) ? ["No answer because"] : [])];
  const rows = tried.map((one) => [
    String(one.attempt), one.status, one.httpStatus ? String(one.httpStatus) : "–", time(one.ended), duration(one.took), one.retry ? time(one.retry) : "–", maskText(one.cause),
  ].slice(0, heads.length));
  if (!rows.length) {
    const missing = task?.dispatchCount ? `${counted(task.dispatchCount, "attempts")}; none is among those that the emulator keeps.` : "none";
    return [node("h3", {}, "Attempts"), node("span", { class: "quiet" }, missing)];
  }
  const cells = (row) => row.map((text, at) => (at === 1 ? node("td", {}, dot(text), text) : at ? node("td", {}, text) : node("th", { scope: "row" }, text)));
  const head = node("thead", {}, node("tr", {}, ...heads.map((text) => node("th", { scope: "col" }, text))));
  const table = node("table", { "aria-label": "Attempts on this task" }, head, node("tbody", {}, ...rows.map((row) => node("tr", {}, ...cells(row)))));
  return [node("h3", {}, "Attempts"), node("div", { class: "plain lines", tabindex: "0", role: "region", "aria-label": "Attempts on this task, scrollable" }, table)];
}

function closeDrawer() {
  const element = $("drawer");
  if (element.hidden) return;
  element.hidden = true;
  const opener = drawer?.opener;
  drawer = null;
  if (opener?.isConnected) opener.focus();
}

function bodyParts(base64) {
  const bytes = Uint8Array.from(atob(base64.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
  if (!bytes.length) return [none()];
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    const lines = hexLines(bytes);
    const part = bytes.length > HEX_BYTES ? `, the first ${HEX_BYTES}` : "";
    return [`${counted(bytes.length, "bytes")}, not text${part}:`, node("pre", { tabindex: "0" }, lines)];
  }
  const shown = readable(text);
  const more = shown.length > LONGEST ? `\n… ${count(shown.length - LONGEST)} more characters` : "";
  return [node("pre", { tabindex: "0" }, shown.slice(0, LONGEST) + more)];
}

// JSON with indents, other texts as they are; both without secrets.
function readable(text) {
  try {
    const exact = (_, value, context) => (typeof value === "number" && context?.source !== String(value) ? raw(context?.source) : value);
    return JSON.stringify(maskValue(JSON.parse(text, exact)), null, 2);
  } catch {
    return maskText(text);
  }
}

// A number that JavaScript would write in another way, such as an id of 20 digits.
function raw(source) {
  if (!JSON.rawJSON || source === undefined) throw new TypeError("this browser cannot keep the digits");
  return JSON.rawJSON(source);
}

function hexLines(bytes) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, HEX_BYTES); at += HEX_LINE) {
    const part = [...bytes.slice(at, Math.min(at + HEX_LINE, HEX_BYTES))];
    const hex = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(HEX_LINE * 3);
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex} ${part.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("")}`);
  }
  return lines.join("\n");
}

// -- changes, with --console-writes only ----------------------------------------------------------------------------------

async function act(work, done) {
  complain("");
  try {
    await work();
    say(done);
  } catch (error) {
    complain(error.message);
  }
  refresh();
}

function pauseOrResume(queue) {
  const verb = queue.state === "RUNNING" ? "pause" : "resume";
  act(() => ask(`v2/${queue.name}:${verb}`, { method: "POST", body: {} }), `${verb}d ${shortId(queue.name)}`);
}

function purge(queue) {
  const many = `about ${counted(queue.tasks, "tasks")}`;
  const id = shortId(queue.name);
  openDialog({
    title: `Purge the queue ${id}?`,
    text: `Deletes ${many}: everything in ${queue.name} at that moment, including scheduled and retrying tasks. This cannot be undone.`,
    verb: `Purge ${many}`,
    danger: true,
    submit: () => ask(`v2/${queue.name}:purge`, { method: "POST", body: {} }),
    done: `purged ${id}`,
  });
}

function deleteTask(name, id) {
  openDialog({
    title: `Delete the task ${id}?`,
    text: `Removes it from ${queueOf(name)}. An attempt that is running is not stopped. This cannot be undone.`,
    verb: "Delete the task",
    danger: true,
    submit: () => ask(`v2/${name}`, { method: "DELETE" }),
    done: `deleted ${id}`,
  });
}

function askForQueue() {
  const [, project = "local", , location = "us-central1"] = (data.queues[0]?.name ?? "").split("/");
  openDialog({
    title: "New queue",
    verb: "Create queue",
    fields: [
      { name: "queue", label: "Queue", required: true, placeholder: "reports" },
      { name: "project", label: "Project", required: true, value: project },
      { name: "location", label: "Location", required: true, value: location },
      { name: "rate", label: "Dispatches a second", type: "number", placeholder: "500" },
      { name: "concurrent", label: "Running at once", type: "number", placeholder: "1000" },
      { name: "attempts", label: "Attempts a task", type: "number", placeholder: "100" },
      { name: "shortest", label: "Shortest wait, seconds", type: "number", placeholder: "0.1" },
      { name: "longest", label: "Longest wait, seconds", type: "number", placeholder: "3600" },
    ],
    submit: (given) => {
      const parent = `projects/${given.project}/locations/${given.location}`;
      const seconds = (text) => text && `${text}s`;
      const limits = { maxDispatchesPerSecond: given.rate, maxConcurrentDispatches: given.concurrent };
      const retry = { maxAttempts: given.attempts, minBackoff: seconds(given.shortest), maxBackoff: seconds(given.longest) };
      const body = { name: `${parent}/queues/${given.queue}`, rateLimits: filled(limits), retryConfig: filled(retry) };
      return ask(`v2/${parent}/queues`, { method: "POST", body });
    },
    done: (given) => `created the queue ${given.queue}`,
  });
}

function askForTask(queue) {
  openDialog({
    title: `New task in ${shortId(queue.name)}`,
    verb: "Create task",
    fields: [
      { name: "url", label: "URL", type: "url", required: true, placeholder: "http://127.0.0.1:8000/run", full: true },
      { name: "method", label: "Method", options: ["POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] },
      { name: "delay", label: "Due in, seconds", type: "number", placeholder: "0" },
      { name: "id", label: "Task id", placeholder: "made by the emulator", full: true },
      { name: "headers", label: "Headers, one a line", rows: 2, value: "Content-Type: application/json", full: true },
      { name: "body", label: "Body", rows: 5, full: true },
    ],
    submit: (given) => {
      const request = { url: given.url, httpMethod: given.method, headers: parsedHeaders(given.headers), body: given.body && toBase64(given.body) };
      const task = { httpRequest: filled(request) };
      if (given.id) task.name = `${queue.name}/tasks/${given.id}`;
      if (given.delay) task.scheduleTime = new Date(emulatorNow() + 1000 * given.delay).toISOString();
      return ask(`v2/${queue.name}/tasks`, { method: "POST", body: { task } });
    },
    done: `created a task in ${shortId(queue.name)}`,
  });
}

const filled = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== ""));

function parsedHeaders(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf(":");
      if (at < 1) throw new Error(`"${line}" is no header: write Name: value`);
      return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    }),
  );
}

function toBase64(text) {
  return btoa(Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join(""));
}

// Ask a question, or for values. `submit` gets the values by the names of their fields; its error is shown.
function openDialog({ title, text, verb, danger = false, fields = [], submit, done }) {
  const dialog = $("dialog");
  const problem = node("p", { role: "alert" });
  const button = node("button", { class: danger ? "danger" : "primary" }, verb);
  const send = async (event) => {
    event.preventDefault();
    const given = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, name === "body" ? value : value.trim()]));
    problem.className = "";
    problem.textContent = "";
    button.disabled = true;
    try {
      await submit(given);
      dialog.close();
      complain("");
      say(typeof done === "string" ? done : done(given));
      refresh();
    } catch (error) {
      problem.className = "alert";
      problem.textContent = error.message;
    }
    button.disabled = false;
  };
  const buttons = node("div", { class: "buttons" }, button, node("button", { type: "button", click: () => dialog.close() }, "Cancel"));
  const form = node("form", { submit: send }, fields.length ? node("div", { class: "fields" }, ...fields.map(field)) : null, problem, buttons);
  dialog.replaceChildren(node("h2", { id: "dialog-title" }, title), ...(text ? [node("p", {}, text)] : []), form);
  dialog.showModal();
  if (danger) buttons.lastElementChild.focus();
}

function field({ name, label, options, rows, full, type = "text", value, required, placeholder }) {
  const common = { name, required, placeholder, autocomplete: "off" };
  let input = node("input", { ...common, type, value, ...(type === "number" && { step: "any" }) });
  if (options) input = node("select", { name }, ...options.map((option) => node("option", {}, option)));
  if (rows) input = node("textarea", { ...common, rows }, value ?? "");
  return node("label", { class: full ? "full" : null }, label, input);
}

// -- reading again and again ----------------------------------------------------------------------------------------------

// Read everything that is shown, now, and again after a pause: nothing is read while the page is hidden.
async function refresh() {
  if (reading) {
    readAgain = true;
    return;
  }
  clearTimeout(timer);
  if (document.hidden) return;
  reading = true;
  const begun = performance.now();
  try {
    do {
      readAgain = false;
      await read();
    } while (readAgain && !document.hidden);
  } finally {
    reading = false;
    // Slow answers mean that the emulator is busy, or has many queues: it is asked less often.
    const pause = Math.min(LONGEST_PAUSE, SHARE * (performance.now() - begun));
    timer = setTimeout(refresh, Math.max(READ_EVERY, silentSince ? 2 * READ_EVERY : pause));
  }
}

async function read() {
  try {
    const find = route().view === "queues" ? $("find-queue").value.trim() : "";
    const answer = await ask(`queues?find=${encodeURIComponent(find)}`);
    clockAhead = answer.now - Date.now();
    data = answer;
    const ids = data.queues.map((queue) => shortId(queue.name)).sort();
    sameIds = new Set(ids.filter((id, at) => id === ids[at + 1]));
    await show();
    showAnswering(true);
    if (readingFailed) complain("");
    readingFailed = false;
  } catch (error) {
    showAnswering(!(error instanceof NoAnswer));
    if (error instanceof NoAnswer) return;
    readingFailed = true;
    complain(error.message);
    if (!(error instanceof Refused)) throw error; // a fault of this page
  }
}

async function show() {
  const { view } = route();
  for (const shown of document.querySelectorAll(".mode")) shown.hidden = data.writes;
  showIf(data.writes, $("top"), newQueue);
  if (data.totals.queues > MANY) $("find-queue-tools").hidden = false;
  if (view === "queues") showQueues();
  else await (view === "tasks" ? readTasks() : readAttempts());
  await readTask();
}

function showAnswering(answers) {
  silentSince = answers ? null : (silentSince ?? Date.now());
  document.body.classList.toggle("offline", !answers);
  setText($("live"), answers ? "live" : "not answering");
  $("live-dot").dataset.state = answers ? "succeeded" : "failed";
  setText(
    $("offline"),
    answers ? "" : `The emulator at ${location.host} has not answered since ${time(silentSince)}. It is asked again every 2 seconds; what is shown is what it said last.`,
  );
  if (answers) setText($("read-at"), `read at ${time(Date.now()).slice(11)}`);
}

function showView() {
  const { view, queue } = route();
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== view;
  for (const link of document.querySelectorAll("nav a")) {
    const name = link.dataset.view;
    link.hash = new URLSearchParams({ view: name, ...(queue && { queue }) });
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function restoreTheme() {
  try {
    $("theme").value = localStorage.getItem("theme") ?? "";
  } catch {
    // the browser keeps nothing for this page
  }
  setTheme($("theme").value);
}

function keepTheme() {
  setTheme($("theme").value);
  try {
    localStorage.setItem("theme", $("theme").value);
  } catch {
    // as above
  }
}

function showZone() {
  const minutes = -new Date().getTimezoneOffset();
  const hours = Math.floor(Math.abs(minutes) / 60);
  const rest = String(Math.abs(minutes) % 60).padStart(2, "0");
  setText($("zone"), `times in UTC${minutes ? `${minutes < 0 ? "-" : "+"}${hours}:${rest}` : ""}`);
}

addEventListener("hashchange", () => {
  complain("");
  showView();
  refresh();
});
document.addEventListener("visibilitychange", refresh);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("drawer").hidden && !$("dialog").open) go({ task: "", of: "" });
});
$("theme").addEventListener("change", keepTheme);
$("find-queue").addEventListener("input", refresh);
$("tasks-queue").addEventListener("change", (event) => go({ queue: event.target.value }));
$("attempts-queue").addEventListener("change", (event) => go({ queue: event.target.value }));
$("attempts-answer").addEventListener("change", refresh);
$("find-attempt").addEventListener("input", showAttempts);
$("find-task").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = $("task-id").value.trim();
  if (id.includes("/tasks/")) openTask(queueOf(id), shortId(id));
  else if (id && shownQueue) openTask(shownQueue.name, id);
});
restoreTheme();
showZone();
showView();
refresh();
