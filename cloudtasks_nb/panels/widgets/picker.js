// Names to choose from: checkboxes, and for many names a search and buttons that choose all or none of the matches.

const MANY = 12; // from this number on there is a search

class PickerView {
  constructor(model, el) {
    this.model = model;
    this.boxes = new Map();
    this.build(el);
    this.offer();
    const ends = [onChanges(model, ["options"], () => this.offer()), onChanges(model, ["value"], () => this.tick())];
    this.close = () => ends.forEach((end) => end());
  }

  build(el) {
    const label = this.model.get("label");
    this.search = make("input", { type: "search", class: "ctn-search", "aria-label": `Search ${label}` });
    this.search.addEventListener("input", () => this.filter());
    this.all = this.button(true);
    this.none = this.button(false);
    this.found = make("span", { role: "status", class: "ctn-quiet" });
    this.tools = make("div", { class: "ctn-find" }, this.search, this.all, this.none, this.found);
    this.names = make("div", { class: "ctn-column-names" });
    this.note = make("div", { class: "ctn-quiet ctn-nothing" });
    const legend = make("span", { class: "ctn-legend-text", "aria-hidden": "true" }, label);
    this.choices = make("div", { class: "ctn-column-list" }, this.tools, this.names);
    this.group = make("div", { class: "ctn-picker", role: "group", "aria-label": label }, legend, this.choices);
    this.group.addEventListener("keydown", (event) => this.key(event));
    this.names.addEventListener("focusin", (event) => this.stop(event.target));
    el.append(this.group);
  }

  button(on) {
    const made = make("button", { type: "button", class: "ctn-copy" });
    made.addEventListener("click", () => {
      for (const box of this.matches) box.checked = on;
      this.choose();
    });
    return made;
  }

  offer() {
    this.boxes = new Map(this.model.get("options").map((name) => [name, make("input", { type: "checkbox" })]));
    const parts = [...this.boxes].map(([name, box]) => {
      box.addEventListener("change", () => this.choose());
      return make("label", { class: "ctn-column-name", title: name }, box, make("span", {}, name));
    });
    this.names.replaceChildren(...parts);
    this.tools.hidden = this.boxes.size < MANY;
    (this.tools.hidden ? this.names : this.choices).append(this.note);
    this.search.placeholder = `Search ${this.boxes.size} names`;
    if (this.tools.hidden) this.search.value = "";
    this.tick();
    this.filter();
  }

  /** Show the names that have each word of the search. */
  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/);
    for (const [name, box] of this.boxes) {
      box.parentElement.hidden = !words.every((word) => name.toLowerCase().includes(word));
    }
    this.matches = [...this.boxes.values()].filter((box) => !box.parentElement.hidden);
    const searched = this.search.value.trim() !== "";
    setText(this.all, searched ? `Choose these ${this.matches.length}` : "Choose all");
    setText(this.none, searched ? `Leave these ${this.matches.length}` : "Choose none");
    setText(this.found, searched ? `${this.matches.length} of ${this.boxes.size} match` : "");
    this.stop(this.matches[0]);
  }

  /** Make one checkbox the tab stop of the group; the arrows go to the others. */
  stop(box) {
    for (const other of this.boxes.values()) other.tabIndex = other === box ? 0 : -1;
  }

  key(event) {
    const at = this.matches.indexOf(event.target);
    if (event.target === this.search) {
      if (event.key === "ArrowDown") this.matches[0]?.focus();
      else if (event.key === "Escape" && this.search.value) {
        this.search.value = "";
        this.filter();
      } else return;
    } else if (at >= 0) {
      const last = this.matches.length - 1;
      const steps = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last };
      if (!(event.key in steps)) return;
      if (event.key === "ArrowUp" && at === 0 && !this.tools.hidden) this.search.focus();
      else this.matches[Math.min(Math.max(steps[event.key], 0), last)].focus();
    } else return;
    event.preventDefault();
  }

  choose() {
    this.model.set("value", [...this.boxes].filter(([, box]) => box.checked).map(([name]) => name));
    this.model.save_changes();
    this.describe();
  }

  tick() {
    const chosen = new Set(this.model.get("value"));
    for (const [name, box] of this.boxes) box.checked = chosen.has(name);
    this.describe();
  }

  /** Say what is chosen: with many names, some of the chosen ones may be out of sight. */
  describe() {
    const chosen = [...this.boxes].filter(([, box]) => box.checked).map(([name]) => name);
    const count = this.tools.hidden ? "" : `${chosen.length} of ${this.boxes.size} chosen: ${chosen.join(", ")}`;
    setText(this.note, chosen.length ? count : this.model.get("nothing"));
    this.note.title = chosen.length ? count : "";
  }
}

export default {
  render({ model, el }) {
    const view = new PickerView(model, el);
    return () => view.close();
  },
};
