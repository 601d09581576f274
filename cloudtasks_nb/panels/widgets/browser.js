// What the widgets share: making elements, showing times, drawing once for many changes, and keeping keys from the page
// around. Text from outside only ever becomes `textContent` or an attribute.

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text; // set again, a live region would be read again
}

/** Copy a text to the clipboard, and say so on the button for a moment. */
async function copyFrom(button, text) {
  try {
    await navigator.clipboard.writeText(text());
  } catch {
    // Not allowed here (a page without https): the old way, which needs it marked.
    const field = make("pre", {}, text());
    button.after(field);
    getSelection().selectAllChildren(field);
    document.execCommand("copy");
    getSelection().removeAllRanges();
    field.remove();
  }
  const label = (button.dataset.label ??= button.textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}

// -- times ---------------------------------------------------------------------------------------------------------------

/** How times are shown: the user's choice for all panels of this page, remembered until its browser tab is closed. */
const TIMES = ["local", "utc", "relative"];
const memory = (() => {
  try {
    return sessionStorage;
  } catch {
    return (window.ctnMemory ??= {}); // a page that may not store anything
  }
})();

function timeMode() {
  return TIMES.includes(memory["ctn-times"]) ? memory["ctn-times"] : TIMES[0];
}

function setTimeMode(mode) {
  memory["ctn-times"] = mode;
  window.dispatchEvent(new Event("ctn-times"));
}

/** The zone of the panel around a node: what Python has given, else that of the browser; a laptop may travel. */
function zoneOf(node) {
  return node.closest("[data-ctn-tz]")?.dataset.ctnTz || Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/** The zone in which the times of a node are shown. */
function shownZone(node) {
  return timeMode() === "utc" ? "UTC" : zoneOf(node);
}

/** "8 s", "3 min": in one unit. */
function spanText(seconds) {
  const [size, unit] = [[1, "s"], [60, "min"], [3600, "h"], [86400, "d"]].findLast(([size]) => size === 1 || seconds >= 2 * size);
  return `${Math.floor(seconds / size)} ${unit}`;
}

/** The time of the service whose panel a node is in: the clock of an emulator may be ahead. */
function serviceNow(node) {
  return Date.now() + Number(node.closest("[data-ctn-ahead]")?.dataset.ctnAhead ?? 0);
}

/** "in 8 s", "3 min ago". */
function relativeText(at, now = Date.now()) {
  const seconds = Math.round((at - now) / 1000);
  if (!seconds) return "now";
  return seconds > 0 ? `in ${spanText(seconds)}` : `${spanText(-seconds)} ago`;
}

const clocks = new Map(); // zone -> what writes times in it; to make one takes long

/** A time in a zone, to the second: "2026-03-05 09:08:07". */
function zoned(at, zone) {
  if (!clocks.has(zone)) {
    const timeZone = zone.replace(/^UTC(?=[+-])/, ""); // "UTC+09:00" is "+09:00" here
    clocks.set(zone, new Intl.DateTimeFormat("sv-SE", { timeZone, dateStyle: "short", timeStyle: "medium" }));
  }
  return clocks.get(zone).format(at);
}

/** A time (milliseconds since 1970) as it is shown: without the date if it is today, else without the seconds. */
function timeText(at, zone, now = Date.now(), relative = timeMode() === "relative") {
  if (relative) return relativeText(at, now);
  const [day, clock] = zoned(at, zone).split(" ");
  return zoned(now, zone).startsWith(day) ? clock : `${day} ${clock.slice(0, 5)}`;
}

const LATE = 10; // seconds after which what is due counts as late

/** A time as it is shown, with how late it is if something was due then. */
function dueText(at, zone, now) {
  const seconds = (now - at) / 1000;
  if (seconds < LATE) return timeText(at, zone, now);
  const late = `${spanText(seconds)} late`;
  return timeMode() === "relative" ? late : `${late}, ${timeText(at, zone, now)}`;
}

/** Show a time in a `time` element, with the exact time and its zone as the tooltip. */
function showTime(node, at = Date.parse(node.dateTime)) {
  const zone = shownZone(node);
  const title = `${zoned(at, zone)}.${String(at % 1000).padStart(3, "0")} ${zone}`;
  if (node.title !== title) node.title = title;
  const now = serviceNow(node);
  if (node.hasAttribute("data-sentence")) setText(node, timeText(at, zone, now, false));
  else setText(node, (node.hasAttribute("data-due") ? dueText : timeText)(at, zone, now));
}

const MOMENT = /\b(\d{4}-\d\d-\d\d) (\d\d:\d\d)(:\d\d)? UTC\b/g;

/** The parts of a sentence: a time in UTC is a `time` element, which `showTime` shows in the zone of the panel. */
function withTimes(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(MOMENT)) {
    const [words, day, minute, second = ":00"] = found;
    parts.push(text.slice(end, found.index), make("time", { datetime: `${day}T${minute}${second}Z`, "data-sentence": "" }, words));
    end = found.index + words.length;
  }
  return [...parts, text.slice(end)];
}

/** Call `draw`, which shows times, each second and when the user has chosen how, until the signal. */
function keepTimes(draw, signal) {
  const clock = setInterval(draw, 1000);
  signal.addEventListener("abort", () => clearInterval(clock));
  window.addEventListener("ctn-times", draw, { signal });
}

/** Call `draw` once when one message has changed several traits. Returns a function that ends this. */
function onChanges(model, traits, draw) {
  let queued = false;
  let ended = false;
  const later = () => {
    if (!queued) queueMicrotask(() => ((queued = false), ended || draw()));
    queued = true;
  };
  for (const name of traits) model.on(`change:${name}`, later);
  return () => {
    ended = true;
    for (const name of traits) model.off(`change:${name}`, later);
  };
}

/**
 * Keep keys from the shortcuts of the page around: `d d` deletes a cell. JupyterLab gets keys after the panel, which can
 * stop them; Notebook 7 gets them first, and ignores an element that has this attribute.
 */
function keepKeys(root, signal) {
  const claim = (event) => {
    if (!root.contains(event.target)) return;
    const modified = event.ctrlKey || event.metaKey || event.altKey;
    const wholePage = event.key.toLowerCase() === "a" && event.target.closest('[role="grid"]');
    event.target.toggleAttribute("data-lm-suppress-shortcuts", !modified || Boolean(wholePage));
  };
  window.addEventListener("keydown", claim, { capture: true, signal });
}
