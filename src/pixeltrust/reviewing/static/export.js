// The button that makes a data folder of what is decided.
const byId = (name) => document.getElementById(name);
const dialog = byId("export");

async function post(path) {
  const answer = await fetch(path, { method: "POST" }).catch(() => null);
  return answer ? { ok: answer.ok, ...(await answer.json()) } : { ok: false, error: "The server does not answer. Is `pixeltrust review` still running?" };
}

byId("export-button").addEventListener("click", () => {
  byId("export-words").textContent = byId("export-words").dataset.before;
  byId("export-command").hidden = true;
  byId("export-start").hidden = false;
  dialog.showModal();
});

byId("export-start").addEventListener("click", async () => {
  byId("export-start").hidden = true;
  byId("export-words").textContent = "Writing …";
  const done = await post("/export");
  byId("export-words").textContent = done.ok ? done.words : done.error;
  byId("export-command").textContent = done.command ?? "";
  byId("export-command").hidden = !done.command;
});
