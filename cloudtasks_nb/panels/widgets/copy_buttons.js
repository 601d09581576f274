// Buttons that copy texts to the clipboard.

export default {
  render({ model, el }) {
    const draw = () => {
      const buttons = Object.keys(model.get("texts")).map((label) => {
        const button = make("button", { type: "button", class: "ctn-copy" }, label);
        button.addEventListener("click", () => copyFrom(button, () => model.get("texts")[label]));
        return button;
      });
      el.replaceChildren(...buttons);
    };
    el.classList.add("ctn-copies");
    model.on("change:texts", draw);
    draw();
    return () => model.off("change:texts", draw);
  },
};
