// The table of the panels. Python holds the rows and sends one page of text cells (`_page`) and the counts around it
// (`_summary`); this file draws them, and owns what Python never decides: which rows are selected, which one is active,
// and where the page is scrolled to. Text from outside only ever becomes `textContent` or an attribute.

const number = new Intl.NumberFormat("en-US");
const TURNS = { PageUp: "previous", PageDown: "next" };
const FIXED = ["name", "lines", "bar", "button"]; // kinds of columns that are always as wide as they may be
const ARROWS = {
  first: { title: "First page", path: "M4 3v10M12 3 7 8l5 5" },
  previous: { title: "Previous page", path: "M10 3 5 8l5 5" },
  next: { title: "Next page", path: "M6 3l5 5-5 5" },
  last: { title: "Last page", path: "M12 3v10M4 3l5 5-5 5" },
};

function icon(path) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(space, "path"));
  svg.firstChild.setAttribute("d", path);
  return svg;
}

/** Whether a click adds rows to the selection. */
function adding(event) {
  return event.shiftKey || event.ctrlKey || event.metaKey;
}

const randomId = () => crypto.getRandomValues(new Uint32Array(2)).join("");

const TAIL = 8; // characters of a name that stay when its middle is left out

/** Show a name; where it does not fit, its first part is cut with an ellipsis and its last part stays. */
function fillName(td, text) {
  if (td.textContent === text) return;
  if (text.length <= 2 * TAIL) return td.replaceChildren(text);
  td.replaceChildren(make("span", { class: "ctn-front" }, text.slice(0, -TAIL)), text.slice(-TAIL));
}

/** Show lines of text below each other. */
function fillLines(td, text) {
  if (td.dataset.text === text) return;
  td.dataset.text = text;
  td.replaceChildren(...text.split("\n").map((line) => make("div", {}, ...withTimes(line))));
  for (const node of td.querySelectorAll("time")) showTime(node);
}

/** Show a bar with its words above it; its parts are counts with their colours. */
function fillBar(td, { bar, parts }) {
  if (!td.firstChild) td.append(make("div"), make("div", { class: "ctn-parts", "aria-hidden": "true" }));
  setText(td.firstChild, bar);
  const now = JSON.stringify(parts);
  if (td.dataset.parts === now) return;
  td.dataset.parts = now;
  td.lastChild.replaceChildren(...parts.map(([count, colour]) => make("i", { style: `flex-grow:${count};background:${colour}` })));
}

/** Show a button; its row puts it into the order of tabs. */
function fillButton(td, { button, title }) {
  if (!td.querySelector("button")) {
    td.replaceChildren(make("button", { type: "button", tabindex: "-1", "data-do": "press" }));
  }
  setText(td.firstChild, button);
  td.title = title;
}

/** Make a row, with its button, or a heading the one that the Tab key leads to, or not. */
function setStop(node, index) {
  for (const stop of [node, ...node.querySelectorAll("button")]) stop.tabIndex = index;
}

/** Which rows are selected: single keys, and all that once matched (`base`, a set that Python keeps) but some. */
class Selection {
  constructor({ version, base, keys, without }) {
    Object.assign(this, { version, base, keys: new Set(keys), without: new Set(without) });
  }

  has(row) {
    return this.keys.has(row.key) || (this.inBase(row) && !this.without.has(row.key));
  }

  // Until Python has answered, a new base is every row that can be seen.
  inBase(row) {
    return this.base !== "" && (row.inBase || this.base !== row.knownBase);
  }

  with(rows, wanted) {
    const next = new Selection(this);
    for (const row of rows) {
      if (wanted) {
        next.without.delete(row.key);
        if (!next.inBase(row)) next.keys.add(row.key);
      } else {
        next.keys.delete(row.key);
        if (next.inBase(row)) next.without.add(row.key);
      }
    }
    return next;
  }
}

class TableView {
  constructor(model, root) {
    this.model = model;
    this.setup = model.get("_setup");
    this.lines = new Map(); // key -> {tr, cells}, as long as the row is on the page
    this.rows = []; // rows of the page, in order
    this.answers = -1;
    this.waiting = false; // for another page, order or filter
    this.clicks = { view: randomId(), number: 0 }; // number of the last click on a row, by which Python knows late ones
    this.build(root);
    this.listen();
    this.draw();
  }

  build(root) {
    const { label, selectable } = this.setup;
    this.root = root;
    root.classList.add("ctn-table");
    this.head = make("tr", { "aria-rowindex": "1" });
    this.body = make("tbody");
    this.buildHead();
    this.grid = make("table", { role: "grid", "aria-label": label, "aria-multiselectable": String(selectable) });
    this.grid.append(make("thead", {}, this.head), this.body);
    root.append(make("div", { class: "ctn-scroll" }, this.grid), this.buildFoot());
  }

  /** Leave out the columns that have no value. */
  drawColumns() {
    const lines = [this.head, ...this.rows.map(({ key }) => this.lines.get(key).tr)];
    this.setup.columns.forEach(({ name }, place) => {
      const hidden = this.page.hidden.includes(name);
      for (const { children } of lines) children[place + this.setup.selectable].hidden = hidden;
    });
  }

  buildHead() {
    this.headings = this.setup.columns.map(({ name, title, tip, align, verbatim, kind, width }) => {
      const cell = make("th", { role: "columnheader", scope: "col", tabindex: "-1", title: tip, "data-column": name });
      const arrow = make("span", { class: "ctn-arrow", "aria-hidden": "true" });
      cell.className = `ctn-${align}`;
      cell.classList.toggle("ctn-verbatim", verbatim);
      if (!width && kind !== "count") cell.classList.add("ctn-rest");
      else if (FIXED.includes(kind)) cell.style.minWidth = width;
      cell.append(...(align === "right" ? [arrow, title] : [title, arrow])); // a heading ends where its numbers end
      return cell;
    });
    this.stops = [...this.headings]; // where arrow keys lead to in the head
    if (this.setup.selectable) {
      const name = "Select all on this page";
      this.all = make("span", { class: "ctn-box", role: "checkbox", "aria-label": name, tabindex: "-1" });
      this.mark = make("th", { class: "ctn-mark", role: "columnheader", "aria-label": "Select" }, this.all);
      this.stops.unshift(this.all);
      this.head.append(this.mark);
    }
    this.head.append(...this.headings);
  }

  buildFoot() {
    const button = (name, attributes, content) =>
      make("button", { type: "button", class: "ctn-link", "data-do": name, ...attributes }, content);
    this.status = make("span", { role: "status" });
    this.selectAll = button("select-all", {}, "");
    this.clear = button("clear", {}, "Clear");
    this.span = make("span", { class: "ctn-span" });
    this.pager = Object.entries(ARROWS).map(([name, { title, path }]) =>
      button(name, { class: "ctn-turn", title, "aria-label": title }, icon(path)),
    );
    const left = make("div", { class: "ctn-picked" });
    if (this.setup.selectable) left.append(this.status, this.selectAll, this.clear);
    return make("div", { class: "ctn-foot" }, left, make("div", { class: "ctn-pager" }, this.span, ...this.pager));
  }

  listen() {
    this.endChanges = onChanges(this.model, ["_page", "_summary", "_selection"], () => this.draw());
    this.listening = new AbortController();
    keepKeys(this.root, this.listening.signal);
    keepTimes(() => this.drawTimes(), this.listening.signal);
    this.root.addEventListener("keydown", (event) => this.keydown(event));
    this.root.addEventListener("click", (event) => this.click(event));
    this.body.addEventListener("dblclick", (event) => {
      getSelection().removeAllRanges();
      if (!event.target.closest("button")) this.lookAt(event.target.closest("tr"), "open");
    });
    this.body.addEventListener("mousedown", (event) => adding(event) && event.preventDefault()); // no text selection
  }

  close() {
    this.listening.abort();
    this.endChanges();
  }

  draw() {
    const page = (this.page = this.model.get("_page"));
    this.summary = this.model.get("_summary");
    this.selection = new Selection(this.model.get("_selection"));
    const moved = page.answers !== this.answers;
    if (moved) this.waiting = false;
    const { activeElement } = this.root.getRootNode();
    const focused = this.body.contains(activeElement) ? activeElement : null;
    const first = !this.rows.length;
    this.rows = page.rows.map(([key, cells, inBase]) => ({ key, cells, inBase, knownBase: this.summary.base }));
    this.drawHead();
    this.drawRows();
    this.drawColumns();
    this.keepActive(moved || first, focused);
    this.drawCurrent();
    this.drawMarks();
    this.drawPager();
    this.answers = page.answers;
    this.markSettled();
    this.root.dataset.revision = this.summary.revision; // last: a test that waits for it finds everything drawn
  }

  /** Whether Python has answered everything that was done here. */
  markSettled() {
    this.root.dataset.settled = !this.waiting && this.summary.version === this.selection.version;
  }

  drawHead() {
    const [column, direction] = this.page.sort;
    for (const cell of this.headings) {
      cell.setAttribute("aria-sort", cell.dataset.column === column ? direction : "none");
    }
    this.grid.setAttribute("aria-rowcount", this.page.matching + 1);
    this.grid.setAttribute("aria-busy", this.waiting);
  }

  drawRows() {
    const stay = new Set(this.rows.map(({ key }) => key));
    for (const [key, { tr }] of this.lines) {
      if (!stay.has(key)) {
        tr.remove();
        this.lines.delete(key);
      }
    }
    this.empty?.remove();
    let next = this.body.firstChild;
    this.rows.forEach(({ key, cells }, index) => {
      const line = this.lines.get(key) ?? this.newLine(key);
      cells.forEach((cell, place) => this.fill(line.cells[place], cell));
      line.tr.setAttribute("aria-rowindex", this.page.start + index + 2);
      if (line.tr === next) next = next.nextSibling;
      else this.body.insertBefore(line.tr, next);
    });
    if (!this.rows.length) {
      const cell = make("td", { colspan: this.stops.length }, this.page.empty);
      this.empty = make("tr", { class: "ctn-empty" }, cell);
      this.body.append(this.empty);
    }
  }

  newLine(key) {
    const tr = make("tr", { role: "row", tabindex: "-1", "data-key": key });
    const td = (shape, width, ...children) => make("td", { role: "gridcell", class: shape, style: `max-width:${width}` }, ...children);
    if (this.setup.selectable) tr.append(td("ctn-mark", "none", make("span", { class: "ctn-box" })));
    // A text without a width of its own has what the others leave; a count is never cut.
    const cells = this.setup.columns.map(({ kind, align, width }) => td(`ctn-${align} ctn-${kind}`, width || (kind === "count" ? "none" : "0")));
    tr.append(...cells);
    const line = { tr, cells };
    this.lines.set(key, line);
    return line;
  }

  fill(td, cell) {
    if (typeof cell === "number") return this.fillTime(td, cell);
    if (cell.button) return fillButton(td, cell);
    const [text, title = text, colour] = typeof cell === "string" ? [cell] : cell.bar ? [cell.bar, cell.title] : cell;
    if (td.title !== title) td.title = title;
    td.classList.toggle("ctn-none", text === "\u2013");
    if (cell.bar) return fillBar(td, cell);
    if (td.classList.contains("ctn-lines")) return fillLines(td, text);
    if (td.classList.contains("ctn-name")) return fillName(td, text);
    if (td.firstElementChild?.matches("time")) td.replaceChildren();
    if (!colour) return setText(td, text);
    if (td.textContent !== text) td.replaceChildren(make("span", { class: "ctn-dot" }), text);
    td.firstChild.style.background = colour;
  }

  /** Mark the row that is looked at: what was clicked here, until Python shows another one. */
  drawCurrent() {
    if (this.summary.current !== this.shown) this.current = this.shown = this.summary.current;
    for (const { key } of this.rows) {
      const { tr } = this.lines.get(key);
      if (key === this.current) tr.setAttribute("aria-current", "true");
      else tr.removeAttribute("aria-current");
    }
  }

  fillTime(td, at) {
    td.title = "";
    td.classList.remove("ctn-none");
    if (!td.firstElementChild?.matches("time")) td.replaceChildren(make("time"));
    td.firstElementChild.toggleAttribute("data-due", td.classList.contains("ctn-due"));
    td.firstElementChild.dateTime = new Date(at).toISOString();
    showTime(td.firstElementChild, at);
  }

  drawTimes() {
    for (const node of this.body.querySelectorAll("time")) showTime(node);
  }

  drawMarks() {
    if (!this.setup.selectable) return;
    for (const row of this.rows) this.lines.get(row.key).tr.setAttribute("aria-selected", this.selection.has(row));
    const { matching, filtering } = this.page;
    const here = this.rows.filter((row) => this.selection.has(row)).length;
    this.all.setAttribute("aria-checked", here === 0 ? "false" : here === this.rows.length ? "true" : "mixed");
    const count = this.count();
    const hidden = this.summary.version === this.selection.version ? this.summary.hidden : 0;
    const words = hidden ? `, ${number.format(hidden)} of them hidden by the filter` : "";
    setText(this.status, count ? `${number.format(count)} selected${words}` : "None selected");
    setText(this.selectAll, `Select all ${number.format(matching)}${filtering ? " that match" : ""}`);
    this.enable(this.selectAll, matching > 0);
    this.enable(this.clear, count > 0);
  }

  drawPager() {
    const { matching, caption, start, size } = this.page;
    setText(this.span, caption);
    this.number = Math.round(start / size);
    this.last = Math.max(0, Math.ceil(matching / size) - 1);
    for (const [place, button] of this.pager.entries()) {
      button.hidden = !this.last;
      this.enable(button, !this.waiting && (place < 2 ? this.number > 0 : this.number < this.last));
    }
  }

  // A disabled button would lose the focus; this one only does nothing.
  enable(button, can) {
    button.setAttribute("aria-disabled", !can);
  }

  /** Keep one tab stop in the grid, on a row that is there; keep the focus if it was on a row. */
  keepActive(moved, focused) {
    const focus = this.root.getRootNode().activeElement;
    if (!this.active?.isConnected || (moved && !this.stops.includes(focus))) {
      const place = moved ? 0 : Math.max(0, Math.min(this.place, this.rows.length - 1));
      this.setActive(this.rows.length ? this.lines.get(this.rows[place].key).tr : this.stops[0]);
    }
    this.place = this.rows.findIndex(({ key }) => key === this.active.dataset.key);
    setStop(this.active, 0);
    const wanted = this.active.contains(focused) ? focused : this.active; // what was there before, if it still is
    if (focused && focus !== wanted) wanted.focus({ preventScroll: true });
  }

  setActive(node, focus = false) {
    if (this.active) setStop(this.active, -1);
    this.active = node;
    setStop(node, 0);
    const place = this.rows.findIndex(({ key }) => key === node.dataset.key);
    if (place >= 0) this.place = place;
    if (focus) {
      node.focus({ preventScroll: true });
      node.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  count() {
    const { version, count } = this.ahead ?? {};
    return version === this.selection.version && this.summary.version !== version ? count : this.summary.selected;
  }

  /** Set the selection; `count` is how many that are, until Python has counted. */
  write(next, count) {
    next.version = this.selection.version + 1;
    const picked = (selection) => this.rows.filter((row) => selection.has(row)).length;
    this.ahead = { version: next.version, count: count ?? this.count() + picked(next) - picked(this.selection) };
    const selection = { version: next.version, base: next.base, keys: [...next.keys], without: [...next.without] };
    this.model.set("_selection", selection);
    // To save the trait would be too late: it is held back until an earlier one has arrived.
    this.model.send({ do: "select", selection });
    this.draw();
  }

  toggle(key) {
    const row = this.rows.find((each) => each.key === key);
    this.range = { from: key, before: null };
    this.write(this.selection.with([row], !this.selection.has(row)));
  }

  /** Select from where the range began to this row; what was selected before it began stays. */
  extend(key) {
    const place = (name) => this.rows.findIndex((row) => row.key === name);
    if (!this.range || place(this.range.from) < 0) this.range = { from: this.active.dataset.key ?? key, before: null };
    this.range.before ??= this.selection;
    const [low, high] = [place(this.range.from), place(key)].sort((a, b) => a - b);
    const next = this.range.before.with(this.rows.slice(Math.max(low, 0), high + 1), true);
    this.write(next);
  }

  selectPage(wanted) {
    this.range = null;
    this.write(this.selection.with(this.rows, wanted));
  }

  selectMatching() {
    this.range = null;
    const base = `${this.page.filter}.${randomId()}`;
    this.write(new Selection({ base, keys: [], without: [] }), this.page.matching);
  }

  ask(message) {
    if (this.waiting) return;
    this.waiting = true;
    this.model.send(message);
    this.drawHead();
    this.drawPager();
    this.markSettled();
  }

  sortBy(column) {
    const [sorted, direction] = this.page.sort;
    if (column !== sorted) this.ask({ do: "sort", column, descending: false });
    else if (direction === "ascending") this.ask({ do: "sort", column, descending: true });
    else this.ask({ do: "sort", column: null, descending: false });
  }

  turnTo(name) {
    const page = { first: 0, previous: this.number - 1, next: this.number + 1, last: this.last }[name];
    if (page >= 0 && page <= this.last) this.ask({ do: "page", page });
  }

  /** Make a row the current one: `show` it for a click, `open` it for Enter and a double click, `press` its button. */
  lookAt(tr, verb, more = {}) {
    if (tr?.dataset.key === undefined) return;
    this.current = tr.dataset.key;
    this.drawCurrent();
    this.clicks.number += 1;
    this.model.send({ do: verb, key: this.current, ...this.clicks, ...more });
  }

  click(event) {
    const button = event.target.closest("[data-do]");
    const heading = event.target.closest("[data-column]");
    const tr = event.target.closest("tr[data-key]");
    if (button) this.press(button);
    else if (heading) {
      this.setActive(heading, true);
      this.sortBy(heading.dataset.column);
    } else if (this.mark?.contains(event.target)) {
      this.setActive(this.all, true);
      this.selectPage(this.all.getAttribute("aria-checked") !== "true");
    } else if (tr) this.clickRow(tr, event);
  }

  clickRow(tr, event) {
    const marks = this.setup.selectable && (adding(event) || event.target.closest(".ctn-mark"));
    // Text that was marked is to be copied; what a double click marks is not.
    if (!getSelection().isCollapsed && !marks && event.detail !== 2) return;
    if (marks && event.shiftKey) this.extend(tr.dataset.key);
    this.setActive(tr, true);
    if (!marks) this.lookAt(tr, "show");
    else if (!event.shiftKey) this.toggle(tr.dataset.key);
  }

  press(button) {
    if (button.getAttribute("aria-disabled") === "true") return;
    const name = button.dataset.do;
    if (name === "select-all") this.selectMatching();
    else if (name === "press") this.pressIn(button.closest("tr"), button.textContent);
    else if (name === "clear") this.write(new Selection({ base: "", keys: [], without: [] }), 0);
    else this.turnTo(name);
  }

  pressIn(tr, text) {
    this.setActive(tr);
    this.lookAt(tr, "press", { text });
  }

  keydown(event) {
    const modified = event.ctrlKey || event.metaKey || event.altKey;
    if (!modified) event.stopPropagation();
    const place = this.rows.findIndex(({ key }) => key === event.target.dataset.key);
    const column = this.stops.indexOf(event.target);
    const wholePage = event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey) && !event.altKey;
    let done = false;
    if (place < 0 && column < 0) return;
    if (wholePage && this.setup.selectable) done = (this.selectPage(true), true);
    else if (!modified && column >= 0) done = this.keyInHead(event.key, event.target);
    else if (!modified) done = this.keyInRow(event.key, place, event.shiftKey);
    if (done) {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  keyInHead(key, node) {
    const stops = this.stops.filter((stop) => !stop.hidden);
    const column = stops.indexOf(node);
    const to = { ArrowLeft: column - 1, ArrowRight: column + 1, Home: 0, End: stops.length - 1 }[key];
    if (to !== undefined) this.setActive(stops[to] ?? stops[column], true);
    else if (key === "ArrowDown" && this.rows.length) this.setActive(this.lines.get(this.rows[0].key).tr, true);
    else if (key === "Enter" || key === " ") node.click();
    else return false;
    return true;
  }

  keyInRow(key, place, shift) {
    const steps = { ArrowUp: place - 1, ArrowDown: place + 1, Home: 0, End: this.rows.length - 1 };
    if (key in TURNS) this.turnTo(TURNS[key]);
    else if (key in steps) this.moveTo(steps[key], shift && this.setup.selectable, key === "ArrowUp");
    else if (key === " " && this.setup.selectable) this.toggle(this.rows[place].key);
    else if (key === "Enter") this.lookAt(this.active, "open");
    else return false;
    return true;
  }

  moveTo(place, extending, upwards) {
    if (place < 0 && upwards && !extending) return this.setActive(this.stops[0], true);
    const row = this.rows[Math.min(Math.max(place, 0), this.rows.length - 1)];
    if (extending) this.extend(row.key);
    else this.range = null;
    this.setActive(this.lines.get(row.key).tr, true);
  }
}

export default {
  render({ model, el }) {
    const view = new TableView(model, el);
    return () => view.close();
  },
};
