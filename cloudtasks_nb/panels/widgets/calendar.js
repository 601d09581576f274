// The calendar of a backfill. Its squares come as HTML in which Python has escaped everything; here they keep focus and
// selection while their colours change.

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const KEPT = ["title", "aria-label", "style"];

class View {
  constructor(model, el) {
    Object.assign(this, { model, el, picked: new Set(), n: 0 });
    this.draw = this.draw.bind(this);
    this.taken = this.taken.bind(this);
    el.addEventListener("click", (event) => this.click(event));
    el.addEventListener("keydown", (event) => this.keydown(event));
    model.on("change:html", this.draw);
    model.on("change:_picked", this.taken);
    this.draw();
    this.taken();
  }

  get squares() {
    return [...this.el.querySelectorAll("button[data-key]")];
  }

  draw() {
    const fresh = document.createElement("template");
    fresh.innerHTML = this.model.get("html");
    const [old, made] = [this.squares, [...fresh.content.querySelectorAll("button[data-key]")]];
    const same = old.length === made.length && old.every((square, i) => square.dataset.key === made[i].dataset.key);
    if (same && old.length) {
      old.forEach((square, i) => this.patch(square, made[i]));
      const label = fresh.content.querySelector("[role=group]").getAttribute("aria-label");
      this.el.querySelector("[role=group]").setAttribute("aria-label", label);
      this.el.lastElementChild.replaceWith(fresh.content.lastElementChild); // the legend
    } else {
      const focused = this.el.contains(document.activeElement) ? document.activeElement.dataset.key : null;
      this.el.replaceChildren(fresh.content);
      if (focused) this.squares.find((square) => square.dataset.key === focused)?.focus();
    }
    this.mark();
  }

  patch(square, made) {
    for (const name of KEPT) {
      if (square.getAttribute(name) !== made.getAttribute(name)) square.setAttribute(name, made.getAttribute(name));
    }
    if (square.textContent !== made.textContent) square.textContent = made.textContent;
  }

  mark() {
    for (const square of this.squares) square.setAttribute("aria-pressed", this.picked.has(square.dataset.key));
  }

  taken() {
    const answer = this.model.get("_picked");
    if (answer.n < this.n) return; // the answer to an earlier click
    this.n = answer.n;
    this.picked = new Set(answer.keys);
    this.mark();
  }

  click(event) {
    const square = event.target.closest("button[data-key]");
    if (!square) return;
    const key = square.dataset.key;
    if (!this.picked.delete(key)) this.picked.add(key);
    this.send();
    this.focus(square);
  }

  send() {
    this.mark();
    this.n += 1;
    this.model.send({ n: this.n, keys: [...this.picked] });
  }

  keydown(event) {
    if (event.key === "Escape" && this.picked.size) {
      this.picked.clear();
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
    this.model.off("change:html", this.draw);
    this.model.off("change:_picked", this.taken);
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.close();
  },
};
