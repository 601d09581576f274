// The table of the panels. Python holds the rows and sends one page of text cells (`_page`) and the counts around it
// (`_summary`); this file draws them, and owns what Python never decides: which rows are selected, which one is active,
// and where the page is scrolled to. Text from outside only ever becomes `textContent` or an attribute.

const number = new Intl.NumberFormat("en-US");
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
  if (td.textContent !== text.replaceAll("\n", "")) td.replaceChildren(...text.split("\n").map((line) => make("div", {}, line)));
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
  constructor({ n, base, plus, minus }) {
    Object.assign(this, { n, base, plus: new Set(plus), minus: new Set(minus) });
  }

  has(row) {
    return this.plus.has(row.key) || (this.inBase(row) && !this.minus.has(row.key));
  }

  // Until Python has answered, a new base is every row that can be seen.
  inBase(row) {
    return this.base !== "" && (row.inBase || this.base !== row.knownBase);
  }

  with(rows, wanted) {
    const next = new Selection(this);
    for (const row of rows) {
      if (wanted) {
        next.minus.delete(row.key);
        if (!next.inBase(row)) next.plus.add(row.key);
      } else {
        next.plus.delete(row.key);
        if (next.inBase(row)) next.minus.add(row.key);
      }
    }
    return next;
  }
}

class TableView {
  constructor(model, root, setVisible) {
    this.model = model;
    this.setup = model.get("_setup");
    this.lines = new Map(); // key -> {tr, cells}, as long as the row is on the page
    this.rows = []; // rows of the page, in order
    this.moves = -1;
    this.waiting = false; // for another page, order or filter
    this.looks = { view: randomId(), number: 0 }; // number of the last click on a row, by which Python knows late ones
    this.build(root);
    this.listen(setVisible);
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
    this.widths = this.columnGroup();
    this.grid.append(this.widths, make("thead", {}, this.head), this.body);
    this.scroller = make("div", { class: "ctn-scroll" }, this.grid);
    this.alert = make("div", { class: "ctn-alert", role: "alert" });
    root.append(this.alert, this.scroller, this.buildFoot());
  }

  columnGroup() {
    const widths = this.setup.columns.map(({ width }) => width);
    if (this.setup.selectable) widths.unshift("2.6em");
    return make("colgroup", {}, ...widths.map((width) => make("col", { style: `width:${width}` })));
  }

  /** Leave out the columns that have no value; a column of counts is as wide as its longest, which is never cut. */
  drawColumns() {
    const hidden = new Set(this.page.hidden);
    this.setup.columns.forEach(({ name, kind, width }, place) => {
      const longest = kind === "count" ? Math.max(0, ...this.rows.map(({ cells }) => cells[place].length)) : 0;
      if (longest) this.widths.children[place + this.setup.selectable].style.width = `max(${width}, ${longest}ch + 1.7em)`;
      const column = [this.widths, this.head, ...this.rows.map(({ key }) => this.lines.get(key).tr)];
      for (const { children } of column) children[place + this.setup.selectable].hidden = hidden.has(name);
    });
    const least = [...this.widths.children].filter((column) => !column.hidden).map((column) => column.style.width || "11em");
    this.grid.style.minWidth = `calc(${least.join(" + ")})`; // below this the table scrolls sideways
  }

  buildHead() {
    this.headings = this.setup.columns.map(({ name, title, tip, align, verbatim }) => {
      const cell = make("th", { role: "columnheader", scope: "col", tabindex: "-1", title: tip, "data-column": name });
      const arrow = make("span", { class: "ctn-arrow", "aria-hidden": "true" });
      cell.className = `ctn-${align}`;
      cell.classList.toggle("ctn-verbatim", verbatim);
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
    this.turns = Object.entries(ARROWS).map(([name, { title, path }]) =>
      button(name, { class: "ctn-turn", title, "aria-label": title }, icon(path)),
    );
    const left = make("div", { class: "ctn-picked" });
    if (this.setup.selectable) left.append(this.status, this.selectAll, this.clear);
    return make("div", { class: "ctn-foot" }, left, make("div", { class: "ctn-pager" }, this.span, ...this.turns));
  }

  listen(setVisible) {
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
    this.observer = new IntersectionObserver((seen) => setVisible(this, seen.at(-1).isIntersecting));
    this.observer.observe(this.root);
  }

  close() {
    this.listening.abort();
    this.observer.disconnect();
    this.endChanges();
  }

  draw() {
    const page = (this.page = this.model.get("_page"));
    this.summary = this.model.get("_summary");
    this.selection = new Selection(this.model.get("_selection"));
    const moved = page.moves !== this.moves;
    if (moved) this.waiting = false;
    const { activeElement } = this.root.getRootNode();
    const focused = this.body.contains(activeElement) ? activeElement : null;
    const anchor = moved ? null : this.anchor();
    const first = !this.rows.length;
    this.rows = page.rows.map(([key, cells, inBase]) => ({ key, cells, inBase, knownBase: this.summary.base }));
    this.drawHead();
    this.drawRows();
    this.drawColumns();
    this.keepActive(moved || first, focused);
    this.drawCurrent();
    this.drawMarks();
    this.drawPager();
    if (moved) this.scroller.scrollTop = 0;
    else if (anchor) this.scroller.scrollTop += anchor.tr.offsetTop - anchor.top;
    this.moves = page.moves;
    this.markSettled();
    this.root.dataset.rev = this.summary.rev; // last: a test that waits for it finds everything drawn
  }

  /** Whether Python has answered everything that was done here. */
  markSettled() {
    this.root.dataset.settled = !this.waiting && this.summary.n === this.selection.n;
  }

  /** The first row in view that stays, and where it stands. */
  anchor() {
    const stay = new Set(this.model.get("_page").rows.map(([key]) => key));
    const top = this.scroller.scrollTop;
    for (const { key } of this.rows) {
      const { tr } = this.lines.get(key);
      if (tr.offsetTop - this.head.offsetHeight >= top && stay.has(key)) return { tr, top: tr.offsetTop };
    }
    return null;
  }

  drawHead() {
    const [column, direction] = this.page.sort;
    for (const cell of this.headings) {
      cell.setAttribute("aria-sort", cell.dataset.column === column ? direction : "none");
    }
    this.grid.setAttribute("aria-rowcount", this.page.matching + 1);
    this.grid.setAttribute("aria-busy", this.waiting);
    setText(this.alert, this.summary.alert);
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
    const td = (shape, ...children) => make("td", { role: "gridcell", class: shape }, ...children);
    if (this.setup.selectable) tr.append(td("ctn-mark", make("span", { class: "ctn-box" })));
    const cells = this.setup.columns.map(({ kind, align }) => td(`ctn-${align} ctn-${kind}`));
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
    const hidden = this.summary.n === this.selection.n ? this.summary.hidden : 0;
    const words = hidden ? `, ${number.format(hidden)} of them hidden by the filter` : "";
    setText(this.status, count ? `${number.format(count)} selected${words}` : "None selected");
    setText(this.selectAll, `Select all ${number.format(matching)}${filtering ? " that match" : ""}`);
    this.enable(this.selectAll, matching > 0);
    this.enable(this.clear, count > 0);
  }

  drawPager() {
    const { matching, total, filtering, start, size } = this.page;
    const span = `${number.format(start + 1)}\u2013${number.format(start + this.rows.length)}`;
    const some = filtering ? `${number.format(matching)} that match, of ` : "";
    const all = `${number.format(total)} ${total === 1 ? this.setup.one : this.setup.label}`;
    setText(this.span, `${this.rows.length ? span : "0"} of ${some}${all}`);
    this.number = Math.round(start / size);
    this.last = Math.max(0, Math.ceil(matching / size) - 1);
    for (const [place, button] of this.turns.entries()) {
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
    const { n, count } = this.ahead ?? {};
    return n === this.selection.n && this.summary.n !== n ? count : this.summary.selected;
  }

  /** Set the selection; `count` is how many that are, until Python has counted. */
  write(next, count) {
    next.n = this.selection.n + 1;
    const picked = (selection) => this.rows.filter((row) => selection.has(row)).length;
    this.ahead = { n: next.n, count: count ?? this.count() + picked(next) - picked(this.selection) };
    const selection = { n: next.n, base: next.base, plus: [...next.plus], minus: [...next.minus] };
    this.model.set("_selection", selection);
    this.model.save_changes();
    // A trait is held back until an earlier one has arrived, and a click on a button would overtake it. This is not.
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
    this.write(new Selection({ base, plus: [], minus: [] }), this.page.matching);
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
    this.ask({ do: "page", page });
  }

  /** Make a row the current one: `show` it for a click, `open` it for Enter and a double click, `press` its button. */
  lookAt(tr, verb, more = {}) {
    if (tr?.dataset.key === undefined) return;
    this.current = tr.dataset.key;
    this.drawCurrent();
    this.looks.number += 1;
    this.model.send({ do: verb, key: this.current, ...this.looks, ...more });
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
    else if (name === "clear") this.write(new Selection({ base: "", plus: [], minus: [] }), 0);
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
    const room = this.scroller.clientHeight - this.head.offsetHeight;
    const screen = Math.max(1, Math.floor(room / this.active.offsetHeight) - 1);
    const steps = { ArrowUp: place - 1, ArrowDown: place + 1, PageUp: place - screen, PageDown: place + screen };
    Object.assign(steps, { Home: 0, End: this.rows.length - 1 });
    if (key in steps) this.moveTo(steps[key], shift && this.setup.selectable, key === "ArrowUp");
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

export default makeWidget(
  TableView,
  (model) => model.get("visible"),
  (model, visible) => {
    model.set("visible", visible);
    model.save_changes();
  },
);
