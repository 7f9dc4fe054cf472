import { follow } from "./learning.js";
import { decisionsKey, memory } from "./memory.js";
import "./page.js";

const queue = document.querySelector("main");
const say = (text) => { document.getElementById("status").textContent = text; };

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

document.getElementById("kind")?.addEventListener("change", (event) => event.target.form.submit());

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, button, a") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter") document.querySelector(".begin")?.click();
  if (event.key.toLowerCase() === "u") back();
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector("input[name=find]").focus();
  }
});

/** Show the new queue, unless somebody is typing. */
function ranked() {
  if (document.activeElement.matches("input")) return say("The queue was ranked anew; load the page to see it");
  memory.set("said", "The queue was ranked anew");
  location.reload();
}

say(memory.take("said", ""));
follow({ ranked, say });
document.body.dataset.ready = "true";
