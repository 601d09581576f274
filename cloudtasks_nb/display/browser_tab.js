// The title of the browser's tab: how far the batches of the page's kernels are, in front of the page's own title. And
// notifications of their ends, for batches that the user has chosen.

/** The batches about whose end this page notifies. footer.js has the same set. */
const notified = (globalThis[Symbol.for("cloudtasks_nb.notified")] ??= new Set());

/** What all kernels of this page share, so that the title has one writer. */
const title = (globalThis[Symbol.for("cloudtasks_nb.title")] ??= makeTitle());

function makeTitle() {
  const texts = new Map(); // by model: the text of its kernel
  let shown = "";
  const draw = () => {
    let own = document.title;
    if (shown && own.startsWith(shown)) own = own.slice(shown.length).replace(/^ · /, "");
    shown = [...texts.values()].join(", ");
    const wanted = [shown, own].filter(Boolean).join(" · ");
    if (document.title !== wanted) document.title = wanted;
  };
  // JupyterLab writes the title too, when another document is opened or its file gets another name.
  new MutationObserver(draw).observe(document.head, { subtree: true, childList: true, characterData: true });
  return {
    set(model, text) {
      if (text) texts.set(model, text);
      else texts.delete(model);
      draw();
    },
  };
}

function notify({ batch, text, detail }) {
  if (!notified.delete(batch)) return;
  const message = new Notification(`${text}: batch ${batch}`, { body: detail, tag: `cloudtasks_nb ${batch}` });
  message.onclick = () => window.focus();
}

export default {
  initialize({ model }) {
    let itself; // the model as ipywidgets has it, which knows whether its kernel is there
    let hasKernel = false;
    const draw = () => title.set(model, hasKernel ? model.get("text") : "");
    const checkKernel = async () => {
      itself ??= await model.widget_manager.get_model(model.get("key"));
      hasKernel = itself.comm_live && !itself.comm?.jsServicesComm?.isDisposed;
      draw();
    };
    const onMessage = (content) => content.do === "ended" && notify(content);
    const onUse = () => {
      if (!hasKernel || !model.get("ended") || !model.get("text")) return;
      title.set(model, ""); // the user has come back, and has seen it
      model.send({ do: "seen" });
    };
    const listening = new AbortController();
    for (const name of ["pointerdown", "keydown"]) {
      window.addEventListener(name, onUse, { capture: true, signal: listening.signal });
    }
    model.on("change:text", draw);
    model.on("msg:custom", onMessage);
    const clock = setInterval(checkKernel, 1000);
    checkKernel();
    return () => {
      clearInterval(clock);
      listening.abort();
      title.set(model, "");
    };
  },
};
