// Buttons with counts, of which at most one is pressed, each perhaps with a button beside it that does something.

class View {
  constructor(model, el) {
    Object.assign(this, { model, nodes: new Map() });
    this.root = make("div", { class: `ctn-choices ctn-${model.get("kind")}`, role: "group" });
    this.root.setAttribute("aria-label", model.get("label"));
    this.root.addEventListener("click", (event) => this.click(event));
    el.append(this.root);
    this.end = onChanges(model, ["items", "picked"], () => this.draw());
    this.draw();
  }

  draw() {
    const items = this.model.get("items");
    const old = this.nodes;
    this.nodes = new Map(items.map((item) => [item.key, old.get(item.key) ?? this.make(item.key)]));
    for (const [key, node] of old) if (!this.nodes.has(key)) node.root.remove();
    items.forEach((item, at) => {
      const node = this.nodes.get(item.key);
      this.patch(node, item);
      // A node that is moved loses the focus.
      if (this.root.children[at] !== node.root) this.root.insertBefore(node.root, this.root.children[at] ?? null);
    });
    this.mark(this.model.get("picked"));
  }

  make(key) {
    const names = ["count", "text", "note", "common", "percent"];
    const [count, text, note, common, percent] = names.map((name) => make("span", { class: `ctn-${name}` }));
    const share = make("span", { class: "ctn-share", "aria-hidden": "true" }, make("i"), percent);
    const course = make("div", { class: "ctn-course", role: "img" });
    const pick = make("button", { type: "button", class: "ctn-pick", "data-key": key, "data-do": "pick" }, count, share, text);
    const more = make("div", { class: "ctn-below" }, note, common);
    const act = make("button", { type: "button", class: "ctn-act", "data-key": key, "data-do": "act" });
    return { root: make("div", { class: "ctn-choice" }, pick, course, act, more), pick, course, count, text, note, common, percent, share, act };
  }

  patch(node, item) {
    for (const name of ["count", "text", "note", "common", "percent"]) setText(node[name], item[name] ?? "");
    node.share.hidden = !item.share;
    node.share.style.setProperty("--ctn-part", item.share);
    setText(node.act, item.act ?? "");
    this.drawCourse(node.course, item);
    node.act.hidden = !item.act;
    node.act.title = item.tip ?? "";
    node.act.setAttribute("aria-label", `${item.act ?? ""}: ${item.text}`);
    node.pick.title = item.text;
    node.root.toggleAttribute("data-dot", Boolean(item.colour));
    node.root.style.setProperty("--ctn-dot", item.colour);
  }

  /** Draw a bar for each part of the time; the tooltip has the times in words. */
  drawCourse(node, { course = [], between = [] }) {
    node.hidden = !course.length;
    const zone = shownZone(this.root);
    const text = `failed ${between.length > 1 ? "from" : "at"} ${between.map((at) => timeText(at, zone)).join(" to ")}`;
    if (node.title !== text) node.title = text;
    node.setAttribute("aria-label", text);
    const bars = JSON.stringify(course);
    if (node.dataset.bars === bars) return;
    node.dataset.bars = bars;
    node.replaceChildren(...course.map((part) => make("i", { style: `height:${100 * part}%` })));
  }

  mark(picked) {
    for (const [key, node] of this.nodes) node.pick.setAttribute("aria-pressed", String(key === picked));
  }

  click(event) {
    const button = event.target.closest("button[data-do]");
    if (!button) return;
    const { key, do: what } = button.dataset;
    // The kernel may be busy: show at once what was pressed.
    if (what === "pick") this.mark(button.getAttribute("aria-pressed") === "true" ? null : key);
    this.model.send({ do: what, key });
  }

  close() {
    this.end();
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.close();
  },
};
