// The footer of a panel, and what a panel needs of the browser beyond ipywidgets: whether it can be seen, keys that stay in
// it, and a focus that is not lost.

const TRAITS = ["status", "warning", "alert", "line", "at", "paused", "busy", "handled", "question", "batch", "ahead", "tz"];
const PATIENCE = 700; // milliseconds that the kernel may take to hear of a click before this is said:
const KERNEL_GONE = "The kernel was restarted or has ended: run the cells from the top, which make what this panel shows.";
const NO_ANSWER = "No answer from the kernel yet. While a cell runs, the answer may come when the cell has ended.";

/** The batches about whose end this page notifies. browser_tab.js has the same set. */
const notified = (globalThis[Symbol.for("cloudtasks_nb.notified")] ??= new Set());

/** "seen 12:03:04, 2 s ago"; the header says in which zone. */
function age(at, zone, now) {
  const ago = relativeText(Math.min(at * 1000, now), now);
  return `seen ${timeMode() === "relative" ? "" : `${timeText(at * 1000, zone)}, `}${ago}`;
}

/** Whether the comm of a model still leads to its kernel. */
function hasKernel(model) {
  return model.comm_live && !model.comm?.jsServicesComm?.isDisposed;
}

/** The rule that hides the static copy of a panel, with the space that JupyterLab gives to an output. */
function copyRule(id) {
  return `[data-ctn-copy="${id}"], .jp-OutputArea-child:has([data-ctn-copy="${id}"]) { display: none; }`;
}

class FooterView {
  constructor(model, el, seen) {
    Object.assign(this, { model, el, seen });
    this.acts = 0; // number of the last click
    this.build();
    this.endChanges = onChanges(model, TRAITS, () => this.draw());
    this.draw();
    this.attach();
  }

  build() {
    this.status = make("span", { role: "status", class: "ctn-status" });
    this.warning = make("div", { role: "status", class: "ctn-warning" });
    this.age = make("span", { class: "ctn-age" });
    this.waits = make("div", { role: "status", class: "ctn-waits" });
    this.alert = make("div", { role: "alert", class: "ctn-error" });
    this.code = make("code", { tabindex: "-1" });
    this.copied = make("button", { type: "button", class: "ctn-copy", title: "Copy this line of Python" }, "Copy");
    this.copied.addEventListener("click", () => copyFrom(this.copied, () => this.model.get("line")));
    this.line = make("div", { class: "ctn-line" }, this.code, this.copied);
    this.bell = make("input", { type: "checkbox" });
    this.bell.addEventListener("change", () => this.allowNotification());
    this.bellText = make("span");
    this.offer = make("label", { class: "ctn-offer" }, this.bell, this.bellText);
    this.el.classList.add("ctn-footer");
    this.el.tabIndex = -1; // where the focus goes when the button that had it is gone
    const statusLine = make("div", { class: "ctn-status-line" }, this.status, this.offer, this.age);
    this.dialog = make("dialog", { role: "alertdialog", class: "ctn-question" });
    this.dialog.addEventListener("cancel", () => this.answer(null)); // by Escape
    this.el.append(this.alert, this.warning, this.waits, statusLine, this.line, this.dialog);
  }

  draw() {
    const get = (name) => this.model.get(name);
    setText(this.status, get("status"));
    setText(this.warning, get("warning"));
    setText(this.code, get("line"));
    this.line.hidden = !get("line");
    if (get("handled") >= this.acts) this.handled();
    this.drawAlert(get("alert"));
    this.drawAge();
    this.drawOffer();
    this.root?.setAttribute("aria-busy", get("busy"));
    if (get("question") !== this.asked) this.ask((this.asked = get("question")));
    if (!get("busy") && this.wasBusy) setTimeout(() => this.gone || this.keepFocus());
    this.wasBusy = get("busy");
  }

  drawAlert(alert) {
    const text = JSON.stringify(alert);
    if (text === this.shownAlert) return;
    this.shownAlert = text;
    if (!alert.text) return this.alert.replaceChildren();
    const words = make("div", {}, make("div", {}, alert.text));
    if (alert.hint) words.append(make("div", { class: "ctn-hint" }, alert.hint));
    if (alert.trace) words.append(make("details", {}, make("summary", {}, "Traceback"), make("pre", {}, alert.trace)));
    const close = make("button", { type: "button", class: "ctn-copy" }, "Dismiss");
    close.addEventListener("click", () => {
      this.model.send({ do: "dismiss" });
      this.el.focus({ preventScroll: true });
    });
    this.alert.replaceChildren(words, close);
  }

  drawOffer() {
    const batch = this.model.get("batch");
    this.offer.hidden = !batch || !window.isSecureContext || !("Notification" in window);
    if (this.offer.hidden) return;
    const denied = Notification.permission === "denied";
    this.bell.checked = notified.has(batch) && !denied;
    this.bell.disabled = denied;
    setText(this.bellText, denied ? "The browser blocks notifications here" : "Notify me when it ends");
  }

  async allowNotification() {
    const batch = this.model.get("batch");
    const wanted = this.bell.checked && (await Notification.requestPermission()) === "granted";
    wanted ? notified.add(batch) : notified.delete(batch);
    this.drawOffer();
  }

  drawAge() {
    const at = this.model.get("at");
    const paused = this.model.get("paused");
    setText(this.age, [at ? age(at, shownZone(this.el), serviceNow(this.el)) : "", paused].filter(Boolean).join(", "));
  }

  // -- the panel around ------------------------------------------------------------------------------------------------

  /** Find the panel as soon as this is in the page, which may be after it was drawn. */
  attach() {
    if (this.gone) return;
    if (!this.el.isConnected) return void requestAnimationFrame(() => this.attach());
    this.root = this.el.closest(".ctn-panel") ?? this.el;
    this.top = this.root; // the outermost panel, which knows whether the user has done something
    for (let around; (around = this.top.parentElement?.closest(".ctn-panel")); ) this.top = around;
    this.root.setAttribute("role", "region");
    this.root.setAttribute("aria-label", this.root.querySelector(".ctn-heading")?.textContent ?? "panel");
    this.root.setAttribute("aria-busy", this.model.get("busy"));
    this.listening = new AbortController();
    const { signal } = this.listening;
    this.root.addEventListener("focusin", (event) => this.focusin(event), { signal, capture: true });
    for (const name of ["click", "keydown"]) {
      this.root.addEventListener(name, () => (this.top.ctnActed = true), { signal, capture: true });
    }
    for (const name of ["click", "change"]) {
      this.root.addEventListener(name, (event) => this.act(event), { signal, capture: true });
    }
    this.root.addEventListener("keydown", (event) => this.keepKey(event), { signal });
    keepKeys(this.root, signal);
    this.observer = new IntersectionObserver((seen) => this.appear(seen.at(-1).isIntersecting));
    this.observer.observe(this.root);
    this.changes = new MutationObserver(() => this.changed());
    this.changes.observe(this.root, { subtree: true, childList: true, attributeFilter: ["disabled", "title"] });
    keepTimes(() => (this.drawTimes(), this.drawZones(), this.drawKernel()), signal);
    this.changed();
    this.findPanel();
  }

  async findPanel() {
    const id = this.model.get("panel");
    if (!id || this.root.parentElement.closest(".ctn-panel")) return; // the panel around this one looks after both
    this.panel = await this.model.widget_manager.get_model(id);
    if (!this.gone) this.drawKernel();
  }

  /**
   * Show the live panel, or its static copy. A panel that never had a kernel on this page is hidden: the copy is there.
   * One whose kernel went away stays, dimmed, with a note.
   */
  drawKernel() {
    const live = this.panel && hasKernel(this.panel);
    if (!this.panel || live === this.live) return;
    const wasLive = this.live;
    this.live = live;
    this.root.classList.toggle("ctn-absent", !live && !wasLive);
    this.root.classList.toggle("ctn-dead", !live && Boolean(wasLive));
    for (const part of this.root.children) part.inert = !live;
    if (!live) this.dialog.close();
    this.note?.remove();
    if (live) document.head.append((this.hideCopy ??= make("style", {}, copyRule(this.model.get("panel")))));
    else if (wasLive) this.root.prepend((this.note = make("div", { role: "alert", class: "ctn-warning" }, KERNEL_GONE)));
  }

  /** Show the age of the panel and, for all panels within, the times in cards; a table shows its own. */
  drawTimes() {
    this.root.dataset.ctnAhead = this.model.get("ahead");
    this.root.dataset.ctnTz = this.model.get("tz");
    this.tellZone();
    this.drawAge();
    if (this.root.parentElement?.closest(".ctn-panel")) return;
    for (const node of this.root.querySelectorAll("time")) if (!node.closest(".ctn-table")) showTime(node);
  }

  /** Tell Python in which zone times are shown here, for the axes of its charts. */
  tellZone() {
    const zone = shownZone(this.root);
    if (zone === this.told) return; // not what another page has told
    this.told = zone;
    this.model.set("zone", zone);
    this.model.save_changes();
  }

  drawZones() {
    if (!this.zones) return;
    this.zones.value = timeMode();
    setText(this.zones.options[0], this.model.get("tz") || `Local (${zoneOf(this.root)})`);
  }

  /** Put the choice of how times are shown into the header, which may come later than this. */
  addZones() {
    const header = this.zones ? null : this.root.querySelector(":scope > .ctn-header > .ctn-row");
    if (!header) return;
    const options = ["Local", "UTC", "Relative"].map((text, place) => make("option", { value: TIMES[place] }, text));
    this.zones = make("select", { title: "How times are shown, in all panels of this page" }, ...options);
    this.zones.addEventListener("change", () => setTimeMode(this.zones.value));
    header.append(make("label", { class: "ctn-zones" }, "Times", this.zones));
    this.drawZones();
  }

  /** Ask whether the kernel hears of a click; where it has no subshells it does when the running cell has ended. */
  act(event) {
    const control = event.target.closest("button, select, input, textarea, tr[data-key], [role=tab]");
    if (!control || control.closest(".ctn-line, .ctn-zones") || event.target.closest(".ctn-panel") !== this.root) return;
    this.acts = Math.max(this.acts, this.model.get("handled")) + 1;
    this.model.send({ do: "act", number: this.acts });
    this.late ??= setTimeout(() => setText(this.waits, NO_ANSWER), PATIENCE);
  }

  handled() {
    clearTimeout(this.late);
    this.late = undefined;
    setText(this.waits, "");
  }

  keepKey(event) {
    if (!(event.ctrlKey || event.metaKey || event.altKey)) event.stopPropagation();
  }

  focusin(event) {
    if (this.dialog.contains(event.target)) return; // the browser gives the focus back when it is closed
    this.last = event.target.closest(".ctn-panel") === this.root ? event.target : null; // a panel within keeps its own
  }

  /** Ask a question in a dialog, which moves nothing on the page; close the dialog if there is no question any more. */
  ask({ title, scope, line, verb, typed, danger }) {
    this.dialog.close();
    if (!title || !this.el.isConnected) return;
    const yes = make("button", { class: `jupyter-button mod-${danger ? "danger" : "primary"}` }, verb);
    const no = make("button", { type: "button", class: "jupyter-button" }, "Cancel");
    const field = make("input", { autocomplete: "off" });
    const parts = [make("strong", {}, title), make("p", {}, scope)];
    if (typed) parts.push(make("label", {}, `Type ${typed} to confirm`, field));
    const form = make("form", {}, ...parts, make("div", { class: "ctn-answers" }, yes, no));
    if (line) form.append(make("code", {}, line));
    no.addEventListener("click", () => this.answer(null));
    field.addEventListener("input", () => (yes.disabled = field.value.trim() !== typed));
    yes.disabled = Boolean(typed);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.answer(field.value);
    });
    this.dialog.setAttribute("aria-label", title);
    this.dialog.replaceChildren(form);
    this.dialog.showModal();
    (typed ? field : danger ? no : yes).focus();
  }

  answer(typed) {
    this.dialog.close();
    this.model.send({ do: "answer", typed });
  }

  /** Report whether the panel can be seen. When a button of another tab leads here, it is hidden and loses the focus. */
  appear(visible) {
    this.seen(this, visible);
    if (visible && this.hidden && document.activeElement === document.body) {
      this.field = null;
      this.focusForm();
    }
    this.hidden = !this.root.offsetParent; // by a tab, and not by scrolling
  }

  /** Put the focus into the first field of a form that was opened by hand. */
  focusForm() {
    const field = [...this.root.querySelectorAll(":is(.ctn-editor, .ctn-reopened) :is(input, select, textarea)")].find((node) => node.closest(".ctn-panel") === this.root);
    if (field && field !== this.field && this.awaited()) field.focus();
    this.field = field;
  }

  /** Whether the user has done something here, and has not moved on, to a field or away, while the kernel answered. */
  awaited() {
    if (!this.top.ctnActed) return false;
    const active = this.el.getRootNode().activeElement ?? document.body;
    if (active === document.body || active === this.field) return true; // fields are drawn one by one, in no order
    return this.top.contains(active) && !active.matches("input, select, textarea");
  }

  changed() {
    this.focusForm();
    this.nameFields();
    this.addZones();
    this.drawTimes();
    const away = Boolean(this.instead) && this.el.getRootNode().activeElement === this.instead;
    if (away !== Boolean(this.last?.disabled || !this.last?.isConnected)) this.keepFocus();
    const card = [...this.root.querySelectorAll(".ctn-follow .ctn-card")].find((node) => node.closest(".ctn-panel") === this.root);
    // What was opened by hand is to be seen; what only changes stays where it is.
    if (card && card.ariaLabel !== this.card && this.awaited()) card.scrollIntoView({ block: "nearest" });
    this.card = card?.ariaLabel;
  }

  /** Give fields without a label the tooltip as their name: not all screen readers read tooltips. */
  nameFields() {
    for (const field of this.root.querySelectorAll(":is(select, input, textarea)[title]:not([aria-label])")) {
      if (![...(field.labels ?? [])].some((label) => label.textContent.trim())) field.setAttribute("aria-label", field.title);
    }
  }

  /** Restore the focus to the element that had it; if that cannot have it any more, to one next to it. */
  keepFocus() {
    if (!this.last) return; // first of all: to ask for `offsetParent` lays the page out
    const active = this.el.getRootNode().activeElement;
    const lost = !active || active === document.body || active === this.instead || active.disabled || !active.offsetParent;
    if (!lost) return;
    const able = this.last.isConnected && !this.last.disabled && this.last.offsetParent;
    const stops = [...this.root.querySelectorAll('[role="grid"] [tabindex="0"]')].filter((node) => node.offsetParent);
    const wanted = this.last;
    const next = able ? wanted : (stops[0] ?? this.el);
    next.focus({ preventScroll: true });
    // A button that is disabled while work runs gets the focus back afterwards, unless the user has moved on.
    this.instead = able ? null : next;
    if (this.instead) this.last = wanted;
  }

  close() {
    this.gone = true;
    this.observer?.disconnect();
    this.changes?.disconnect();
    clearTimeout(this.late);
    this.hideCopy?.remove();
    this.listening?.abort();
    this.endChanges();
  }
}

/** The widget: Python is told when the first of its views comes on the screen, and when none is there any more. */
export default () => {
  const seen = new Set(); // views that are on the screen
  let model;
  let last = false;
  const update = () => {
    const visible = seen.size > 0 && !document.hidden;
    if (visible === last) return;
    last = visible;
    try {
      model.send({ do: "visible", visible });
    } catch {
      // The kernel is gone, and nobody is there to be told.
    }
  };
  const setVisible = (view, on) => {
    if (on) seen.add(view);
    else seen.delete(view);
    update();
  };
  return {
    initialize(context) {
      model = context.model;
      document.addEventListener("visibilitychange", update);
      return () => document.removeEventListener("visibilitychange", update);
    },
    render({ model: own, el }) {
      const view = new FooterView(own, el, setVisible);
      return () => {
        view.close();
        setVisible(view, false);
      };
    },
  };
};
