// Names to choose from.

export default {
  render({ model, el }) {
    const legend = make("span", { class: "ctn-legend-text", "aria-hidden": "true" }, model.get("label"));
    const names = make("div", { class: "ctn-names" });
    const note = make("span", { class: "ctn-quiet ctn-nothing" });
    const group = make("div", { class: "ctn-picker", role: "group", "aria-label": model.get("label") }, legend, names);
    let boxes = new Map();

    const choose = () => {
      model.set("value", [...boxes].filter(([, box]) => box.checked).map(([name]) => name));
      model.save_changes();
      showNote();
    };
    const showNote = () => {
      const none = ![...boxes.values()].some((box) => box.checked);
      note.textContent = none ? model.get("nothing") : "";
    };
    const offer = () => {
      boxes = new Map(model.get("options").map((name) => [name, make("input", { type: "checkbox" })]));
      const parts = [...boxes].map(([name, box]) => {
        box.addEventListener("change", choose);
        return make("label", { class: "ctn-name", title: name }, box, make("span", {}, name));
      });
      names.replaceChildren(...parts, note);
      tick();
    };
    const tick = () => {
      const chosen = new Set(model.get("value"));
      for (const [name, box] of boxes) box.checked = chosen.has(name);
      showNote();
    };

    offer();
    el.append(group);
    const offered = () => offer();
    const ticked = () => tick();
    model.on("change:options", offered);
    model.on("change:value", ticked);
    return () => {
      model.off("change:options", offered);
      model.off("change:value", ticked);
    };
  },
};
