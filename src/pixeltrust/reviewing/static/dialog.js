// The line of messages, the fault, and questions.
const byId = (name) => document.getElementById(name);

export function say(text) { byId("status").textContent = text; }

export function complain(text) {
  byId("fault").textContent = text;
  byId("fault").hidden = !text;
}

/** Ask; resolves to "yes", "other" or "no". */
export function ask(title, text, yes, no, other = "") {
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-yes").textContent = yes;
  byId("ask-no").textContent = no;
  byId("ask-other").textContent = other;
  byId("ask-other").hidden = !other;
  const dialog = byId("ask");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    // Not by "close", which comes in a task of its own: a key pressed before that would be lost, or would open the dialog again and have it answered.
    new MutationObserver((_, watching) => {
      if (dialog.open) return;
      watching.disconnect();
      resolve(dialog.returnValue);
    }).observe(dialog, { attributeFilter: ["open"] });
  });
}
