// A button that reads a file and sends it in parts; each part is sent when the kernel has the one before.

const PART = 2 ** 20;

class UploadView {
  constructor(model, el) {
    this.model = model;
    this.input = make("input", { type: "file", accept: model.get("accept"), hidden: "", tabindex: "-1" });
    this.input.addEventListener("change", () => this.start(this.input.files[0]));
    this.button = make("button", { type: "button", class: "jupyter-button ctn-upload", title: model.get("tip") });
    this.button.addEventListener("click", () => this.input.click());
    this.received = ({ received }) => this.file && this.next(received);
    model.on("msg:custom", this.received);
    this.show(model.get("label"), false);
    el.append(this.button, this.input);
  }

  show(text, busy) {
    setText(this.button, text);
    this.button.disabled = busy;
  }

  start(file) {
    this.input.value = ""; // so that the same file can be chosen again
    if (!file) return;
    this.file = file;
    this.next(0);
  }

  async next(start) {
    const { file } = this;
    if (start > 0 && start >= file.size) {
      this.file = undefined;
      return this.show(this.model.get("label"), false);
    }
    this.show(`Uploading ${Math.floor((100 * start) / Math.max(file.size, 1))} %`, true);
    const part = await file.slice(start, start + PART).arrayBuffer();
    if (file.size === 0) this.file = undefined;
    this.model.send({ name: file.name, size: file.size, start }, undefined, [part]);
    if (file.size === 0) this.show(this.model.get("label"), false);
  }

  close() {
    this.model.off("msg:custom", this.received);
  }
}

export default {
  render({ model, el }) {
    const view = new UploadView(model, el);
    return () => view.close();
  },
};
