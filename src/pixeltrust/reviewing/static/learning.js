// The bar under the header: pairs, learning, expected quality. The server draws it; this asks for it anew, and works its buttons.
const BUSY = 1000, IDLE = 10000; // milliseconds between two looks
const bar = document.getElementById("learning");
const now = () => bar.firstElementChild.dataset;
let told = now().version, waiting = 0, tell = {};

/** Follow the bar: `ranked()` is called when the queue was ranked anew, `say(text)` with what a button has met. */
export function follow(calls) {
  tell = calls;
  bar.querySelector("#quality")?.toggleAttribute("open", document.body.classList.contains("plain"));
  later();
}

function later() {
  clearTimeout(waiting);
  waiting = setTimeout(look, ["running", "elsewhere"].includes(now().state) ? BUSY : IDLE);
}

async function look() {
  try {
    const answer = document.hidden ? null : await fetch("/learning");
    if (answer?.ok) show(await answer.text());
  } catch { /* the server has ended, or this page */ }
  later();
}

/** Put a new bar in place of the old one; what is open stays open, and what has the focus keeps it. */
function show(text) {
  const focused = bar.contains(document.activeElement) && document.activeElement.id;
  const open = new Map([...bar.querySelectorAll("details")].map((part) => [part.id, part.open]));
  bar.innerHTML = text;
  for (const part of bar.querySelectorAll("details")) part.open = open.get(part.id) ?? document.body.classList.contains("plain");
  if (focused) bar.querySelector(`#${focused}`)?.focus();
  if (now().version === told) return;
  told = now().version;
  tell.ranked();
}

bar.addEventListener("click", async (event) => {
  const what = event.target.closest("button")?.id.replace("learning-", "");
  if (!what) return;
  event.target.disabled = true;
  const answer = await fetch(`/learning/${what}`, { method: "POST" }).catch(() => null);
  if (!answer?.ok) tell.say(answer ? (await answer.json()).error : "The server does not answer. Is `pixeltrust review` still running?");
  look();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
