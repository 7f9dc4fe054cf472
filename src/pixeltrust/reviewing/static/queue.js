import { decisionsKey, memory } from "./memory.js";
import "./who.js";

const queue = document.querySelector("main");

/** Open the last case that was decided in this tab, where U undoes it. */
function back() {
  const last = memory.get(decisionsKey(queue.dataset.audit), []).at(-1);
  if (!last) return;
  const query = new URLSearchParams(location.search);
  query.delete("page");
  query.set("id", last.id);
  memory.set("said", "U undoes what was decided here");
  location.assign(`/case?${query}`);
}

document.getElementById("kind").addEventListener("change", (event) => event.target.form.submit());

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, button, a") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter") document.querySelector(".begin")?.click();
  if (event.key.toLowerCase() === "u") back();
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector("input[name=find]").focus();
  }
});

document.getElementById("status").textContent = memory.take("said", "");
document.body.dataset.ready = "true";
