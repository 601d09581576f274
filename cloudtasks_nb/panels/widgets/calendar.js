// The calendar of a backfill. Its squares come as HTML in which Python has escaped everything; here they keep focus and
// selection while their colours change. A range is what lies between two squares in time, in all bands between theirs.

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const KEPT = ["title", "aria-label", "style"];
const FAILED = "✕";
const ALL = "all together";

class View {
  constructor(model, el) {
    Object.assign(this, { model, el, picked: new Set(), base: new Set(), anchor: null, drag: null, n: 0 });
    this.failedOnly = make("input", { type: "checkbox" });
    this.only = make("label", { class: "ctn-only" }, this.failedOnly, "failed only");
    this.select = make("select", { "aria-label": "Show" });
    this.shown = make("label", { class: "ctn-shown" }, "Show ", this.select);
    this.hint = make("span", { class: "ctn-quiet" }, "Select a range by dragging, or with Shift");
    this.grid = make("div");
    this.status = make("div", { role: "status", class: "ctn-selected" });
    el.append(make("div", { class: "ctn-calendar-tools" }, this.only, this.shown, this.hint), this.grid, this.status);
    this.listening = new AbortController();
    const on = (node, name, work) => node.addEventListener(name, (event) => work(event), { signal: this.listening.signal });
    on(this.grid, "click", (event) => this.click(event));
    on(this.grid, "keydown", (event) => this.keydown(event));
    on(this.grid, "pointerdown", (event) => this.pointerdown(event));
    on(this.grid, "pointerover", (event) => this.pointerover(event));
    on(window, "pointerup", () => this.pointerup());
    on(this.failedOnly, "change", () => this.mark());
    on(this.select, "change", () => this.choose());
    this.ends = [
      onChanges(model, ["html", "words", "choices", "choice"], () => this.draw()),
      onChanges(model, ["_picked"], () => this.taken()),
    ];
    this.draw();
    this.taken();
  }

  get squares() {
    return [...this.grid.querySelectorAll("button[data-key]")];
  }

  draw() {
    const fresh = document.createElement("template");
    fresh.innerHTML = this.model.get("html");
    const [old, made] = [this.squares, [...fresh.content.querySelectorAll("button[data-key]")]];
    const same = old.length === made.length && old.every((square, i) => square.dataset.key === made[i].dataset.key);
    if (same && old.length) {
      const all = (root) => [...root.querySelectorAll("button[data-key], [role=group], [data-text]")];
      const nodes = all(fresh.content);
      all(this.grid).forEach((node, i) => this.patch(node, nodes[i]));
      this.grid.lastElementChild.replaceWith(fresh.content.lastElementChild); // the legend
    } else {
      const focused = this.grid.contains(document.activeElement) ? document.activeElement.dataset.key : null;
      this.grid.replaceChildren(fresh.content);
      if (focused) this.squares.find((square) => square.dataset.key === focused)?.focus();
    }
    this.drawChoices();
    setText(this.status, this.model.get("words"));
    this.mark();
  }

  patch(node, made) {
    for (const name of KEPT) {
      const value = made.getAttribute(name);
      if (value !== null && node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    if (!made.matches("[role=group]")) setText(node, made.textContent);
  }

  drawChoices() {
    const choices = this.model.get("choices");
    this.shown.hidden = !choices.length;
    if (choices.join("\n") !== this.offered) {
      this.offered = choices.join("\n");
      const option = (value) => make("option", { value }, value || ALL);
      this.select.replaceChildren(...["", ...choices].map(option));
    }
    this.select.value = this.model.get("choice");
  }

  choose() {
    this.picked.clear();
    this.base = new Set();
    this.anchor = null;
    this.send({ choice: this.select.value });
  }

  mark() {
    const squares = this.squares;
    this.only.hidden = !squares.some((square) => square.textContent === FAILED);
    if (this.only.hidden) this.failedOnly.checked = false;
    for (const square of squares) {
      square.setAttribute("aria-pressed", this.picked.has(square.dataset.key));
      square.classList.toggle("ctn-dim", this.failedOnly.checked && square.textContent !== FAILED);
    }
  }

  taken() {
    const answer = this.model.get("_picked");
    if (answer.n < this.n || this.drag) return; // the answer to an earlier click
    if (answer.n > this.n) [this.base, this.anchor] = [new Set(answer.keys), null];
    this.n = answer.n;
    this.picked = new Set(answer.keys);
    this.mark();
  }

  click(event) {
    const square = event.target.closest("button[data-key]");
    if (!square || this.dragged) return;
    const key = square.dataset.key;
    if (event.shiftKey && this.anchor) {
      this.extend(key);
    } else {
      if (!this.picked.delete(key)) this.picked.add(key);
      this.start(key);
    }
    this.send();
    this.focus(square);
  }

  /** Ranges begin at this square, and are added to what is selected now. */
  start(key) {
    this.anchor = key;
    this.base = new Set(this.picked);
  }

  /** Select what lies between the anchor and a square, without those that "failed only" dims. */
  extend(key) {
    const parts = (square) => {
      const [moment, ...band] = square.dataset.key.split(" ");
      return [Date.parse(moment), band.join(" ")];
    };
    const squares = this.squares;
    const bands = [...new Set(squares.map((square) => parts(square)[1]))];
    const ends = squares.filter((square) => [this.anchor, key].includes(square.dataset.key)).map(parts);
    const [times, rows] = [ends.map((end) => end[0]), ends.map((end) => bands.indexOf(end[1]))];
    const inside = (value, values) => value >= Math.min(...values) && value <= Math.max(...values);
    const found = squares.filter((square) => {
      const [moment, band] = parts(square);
      return inside(moment, times) && inside(bands.indexOf(band), rows) && !square.classList.contains("ctn-dim");
    });
    this.picked = new Set([...this.base, ...found.map((square) => square.dataset.key)]);
    this.mark();
  }

  pointerdown(event) {
    this.dragged = false;
    const square = event.target.closest("button[data-key]");
    if (!square || event.button || event.shiftKey || event.pointerType !== "mouse") return;
    this.drag = square.dataset.key;
  }

  pointerover(event) {
    const square = this.drag && event.target.closest("button[data-key]");
    if (!square || (square.dataset.key === this.drag && !this.dragged)) return;
    if (!this.dragged) this.start(this.drag);
    this.dragged = true;
    this.extend(square.dataset.key);
  }

  pointerup() {
    if (this.drag && this.dragged) this.send();
    this.drag = null;
  }

  send(more = {}) {
    this.mark();
    this.n += 1;
    this.model.send({ n: this.n, keys: [...this.picked], ...more });
  }

  keydown(event) {
    if (event.key === "Escape" && this.picked.size) {
      this.picked.clear();
      this.base = new Set();
      this.anchor = null;
      this.send();
      return;
    }
    const squares = this.squares;
    const at = squares.indexOf(event.target);
    if (at < 0) return;
    const next = event.key === "Home" ? squares[0] : event.key === "End" ? squares.at(-1) : this.beside(squares, at, event.key);
    if (!next) return;
    event.preventDefault();
    this.focus(next);
    if (!event.shiftKey) return;
    if (!this.anchor) this.start(event.target.dataset.key);
    this.extend(next.dataset.key);
    this.send();
  }

  /** The next square in a direction, over holes. */
  beside(squares, at, key) {
    if (!STEPS[key]) return null;
    const [down, right] = STEPS[key];
    const place = (square) => [parseInt(square.style.gridRowStart), parseInt(square.style.gridColumnStart)];
    const [row, column] = place(squares[at]);
    let best = null;
    let least = Infinity;
    for (const square of squares) {
      const [y, x] = place(square);
      const far = down ? (y - row) * down : (x - column) * right;
      if (far > 0 && far < least && (down ? x === column : y === row)) [best, least] = [square, far];
    }
    return best;
  }

  /** One tab stop: the square that was last in use. */
  focus(square) {
    for (const other of this.squares) other.tabIndex = other === square ? 0 : -1;
    square.focus();
  }

  close() {
    this.listening.abort();
    for (const end of this.ends) end();
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.close();
  },
};
