// One case: layers, tools and decisions, by buttons and keys.
import { follow } from "./learning.js";
import { runs } from "./mask.js";
import { decisionsKey, memory } from "./memory.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";
import { who } from "./who.js";

const byId = (name) => document.getElementById(name);
const info = JSON.parse(byId("case").dataset.info);
const planes = {}, tags = {};
const SAID = { given: "given accepted", proposed: "proposed accepted", mended: "mended", rejected: "rejected", skipped: "skipped" };

const painted = document.createElement("canvas");
painted.id = "painted";
painted.hidden = true;
byId("case").append(painted);
const view = new View(byId("view"), painted, info.width, info.height, info.ignored);
const tools = new Tools(view, { start: () => planes[byId("from").value], notify: say, pointed: read });
let busy = false, leaving = false, region = -1;

// --- layers and messages

function say(text) { byId("status").textContent = text; }

function complain(text) {
  byId("fault").textContent = text;
  byId("fault").hidden = !text;
}

function read(x, y) {
  const column = Math.floor(x), row = Math.floor(y);
  if (column < 0 || row < 0 || column >= info.width || row >= info.height) return;
  const at = row * info.width + column;
  const parts = [`x ${column}  y ${row}`];
  if (planes.given) parts.push(`given ${planes.given[at]}`);
  if (planes.proposed) parts.push(`proposed ${planes.proposed[at]}`);
  if (tools.painting.mask) parts.push(`painted ${tools.painting.mask[at]}`);
  if (planes.confidence) parts.push(`doubt ${100 - Math.round(planes.confidence[at] / 2.55)} %`);
  byId("readout").textContent = parts.join("   ");
}

function address(path, values) {
  const query = new URLSearchParams(info.query);
  for (const [name, value] of Object.entries(values)) query.set(name, value);
  return `${path}?${query}`;
}

async function plane(name) {
  const answer = await fetch(`/plane/${name}?${new URLSearchParams({ id: info.id })}`);
  if (!answer.ok) throw new Error((await answer.json()).error);
  planes[name] = new Uint8Array(await answer.arrayBuffer());
  tags[name] = answer.headers.get("ETag");
  return planes[name];
}

async function picture() {
  const image = new Image();
  image.src = `/image?${new URLSearchParams({ id: info.id })}`;
  try {
    await image.decode();
  } catch {
    const answer = await fetch(image.src); // the answer says what is wrong
    throw new Error(answer.ok ? "The image cannot be shown: this browser cannot read its file." : (await answer.json()).error);
  }
  view.image = image;
  view.draw();
}

async function load() {
  const work = [
    picture(),
    plane("given").then((mask) => view.setOutline("given", mask)),
    ...(info.judged ? [
      plane("proposed").then((mask) => view.setOutline("proposed", mask)),
      plane("confidence").then((confidence) => view.setDoubt(confidence)),
    ] : []),
  ];
  if (info.mended) {
    work.push(plane("decided").then((mask) => {
      byId("from").value = "decided";
      tools.load(mask);
    }));
  }
  const faults = (await Promise.allSettled(work)).filter((done) => done.status === "rejected").map((done) => done.reason.message);
  if (faults.length) complain(faults.join(" "));
  tools.loaded();
  document.body.dataset.ready = "true";
}

// --- questions

/** Ask; resolves to "yes", "other" or "no". */
function ask(title, text, yes, no, other = "") {
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

async function mayLeave() {
  tools.lift();
  if (!tools.painting.changed && !view.corners.length) return true;
  return (await ask("The painted mask is not saved", "It is lost if you continue. M saves it.", "Continue without it", "Stay")) === "yes";
}

// --- decisions

const MADE = decisionsKey(info.audit);

function go(path, words) {
  if (words) memory.set("said", words);
  leaving = true;
  location.assign(path);
}

/** Post a change; if somebody has decided meanwhile, show who and what, and ask. */
async function change(path, values, body, anyway) {
  for (;;) {
    let answer, content;
    try {
      answer = await fetch(address(path, { ...values, who: who() }), { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
      content = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
    } catch {
      complain("The server does not answer; nothing was written. Is `pixeltrust review` still running?");
      return null;
    }
    if (answer.ok) return content;
    if (answer.status !== 409) {
      complain(content.error);
      return null;
    }
    const lines = content.later.map((made) => `${made.who}: ${made.what} (${made.at.slice(0, 16).replace("T", " ")} UTC)`);
    const choice = await ask("Somebody has decided meanwhile", lines.join(" · "), anyway, "Cancel", "Look at it");
    if (choice === "other" && (await mayLeave())) go(address("/case", { id: values.id }));
    if (choice !== "yes") return null;
    values = { ...values, seen: content.later.at(-1).number };
  }
}

async function decide(what) {
  if (busy || leaving) return;
  tools.lift();
  if (what === "proposed" && !info.judged) return say("Nothing is proposed yet: accept what is given, or paint");
  if (["given", "proposed"].includes(what) && !planes[what]) return say(`The ${what} mask is not shown yet; wait for it, or read what is wrong`);
  if (what === "mended" && !tools.painting.changed) return say("Nothing is painted yet: use the brush B, the eraser E or the polygon O");
  if (what === "mended" && view.corners.length) return say("The polygon is open: Enter fills it, Esc cancels it");
  busy = true;
  try {
    if (what !== "mended" && !(await mayLeave())) return;
    const body = what === "mended" ? runs(tools.painting.mask) : undefined;
    const made = await change("/decide", { id: info.id, what, seen: info.seen, version: info.version, shown: tags[what] ?? "" }, body, "Decide anyway");
    if (!made) return;
    memory.set(MADE, [...memory.get(MADE, []), { id: info.id, number: made.number }].slice(-200));
    const words = `${info.id}: ${SAID[what]}. U`;
    if (made.next === null) go(`/?${info.query}`, `${words} goes back to it`); else go(address("/case", { id: made.next }), `${words} undoes it`);
  } finally {
    busy = false;
  }
}

async function undo(last = true) {
  if (busy || leaving) return;
  const made = memory.get(MADE, []);
  const own = last ? made.at(-1) : null;
  if (last && !own) return say(`Nothing was decided in this tab${info.decision ? "; 'Undo the decision on this case' is further down" : ""}`);
  const [id, seen] = own ? [own.id, own.number] : [info.id, info.seen];
  busy = true;
  try {
    if (!(await mayLeave())) return;
    const undone = await change("/undo", { id, seen }, undefined, "Undo that one");
    if (!undone) return;
    const left = own ? made.slice(0, -1) : made.filter((each) => each.id !== id);
    memory.set(MADE, left.map((each) => (each.id === id ? { id, number: undone.number } : each))); // what was seen of the case by now
    go(address("/case", { id }), `${id}: undone`);
  } finally {
    busy = false;
  }
}

async function renew(event) {
  event.preventDefault();
  if (!busy && !leaving && (await mayLeave())) go(byId("renewed").getAttribute("href"));
}

async function step(link) {
  if (busy || leaving) return;
  const path = byId(link).getAttribute("href");
  if (!path) return say(link === "next" ? "This is the last one" : "This is the first one");
  if (await mayLeave()) go(path);
}

// --- controls

function pick(name, value) {
  const field = document.querySelector(`input[name="${name}"][value="${value}"]`);
  if (field && !field.checked) field.click();
}

async function startOver() {
  tools.lift();
  if (tools.painting.changed && (await ask("Start over?", "What you have painted is lost.", "Start over", "Keep it")) !== "yes") return;
  tools.dropCorners();
  if (tools.painting.mask) tools.load(planes[byId("from").value]);
  say(`The painted mask starts from the ${byId("from").selectedOptions[0].textContent} mask`);
}

function zoomTo(place) {
  const all = document.querySelectorAll("[data-region]");
  if (!info.regions.length) return say("No doubtful region");
  region = (place + info.regions.length) % info.regions.length;
  all.forEach((button, number) => button.setAttribute("aria-current", String(number === region)));
  all[region].scrollIntoView({ block: "nearest" });
  view.region(info.regions[region]);
  const shown = info.regions[region];
  say(`Region ${shown.region}: ${shown.kind}, ${shown.area} pixels`);
}

function layer(name, on) {
  view.shown[name] = on;
  view.draw();
}

function resize(size) {
  const field = byId("size");
  tools.size = Math.min(Math.max(size, Number(field.min)), Number(field.max));
  field.value = tools.size;
  byId("size-text").textContent = tools.size;
  if (view.brush) view.brush.size = tools.size;
  view.draw();
}

function strength(value) {
  if (!info.judged) return;
  byId("strength").value = value;
  view.strength = Number(byId("strength").value) / 100;
  view.draw();
}

document.querySelectorAll("[data-decide]").forEach((button) => button.addEventListener("click", () => decide(button.dataset.decide)));
document.querySelectorAll("[data-region]").forEach((button) => button.addEventListener("click", () => zoomTo(Number(button.dataset.region))));
document.querySelectorAll("input[name=tool]").forEach((field) => field.addEventListener("change", () => tools.take(field.value)));
document.querySelectorAll("input[name=label]").forEach((field) => field.addEventListener("change", () => { tools.label = Number(field.value); }));
for (const name of ["given", "proposed", "doubt", "painted"]) byId(`show-${name}`)?.addEventListener("change", (event) => layer(name, event.target.checked));
byId("strength")?.addEventListener("input", (event) => strength(event.target.value));
byId("size").addEventListener("input", (event) => resize(Number(event.target.value)));
byId("again").addEventListener("click", startOver);
byId("from").addEventListener("pointerdown", () => { byId("from").dataset.pointed = "true"; });
byId("from").addEventListener("change", () => {
  tools.lift();
  if (tools.painting.mask && !tools.painting.changed) tools.load(planes[byId("from").value]);
  if (byId("from").dataset.pointed) view.canvas.focus({ preventScroll: true }); // so that keys are commands again
});
byId("stroke-undo").addEventListener("click", () => turn("undo"));
byId("stroke-redo").addEventListener("click", () => turn("redo"));
byId("undo").addEventListener("click", () => undo());
byId("undo-here")?.addEventListener("click", () => undo(false));
byId("help-button").addEventListener("click", () => byId("help").showModal());
for (const link of ["previous", "next"]) {
  byId(link).addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    step(link);
  });
}
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // from the browser's cache: what it shows is old
window.addEventListener("beforeunload", (event) => {
  if (!leaving && tools.painting.changed) event.preventDefault();
});

function turn(which) {
  if (!tools.turn(which)) say(which === "undo" ? "No stroke to undo" : "No stroke to redo");
}

// --- keys

function arrows(event, dx, dy) {
  if (tools.paints) tools.step(...[dx, dy].map((part) => part * (event.shiftKey ? 10 : 1)));
  else view.pan(-60 * dx, -60 * dy);
}

const KEYS = {
  a: () => decide("given"),
  p: () => decide("proposed"),
  m: () => decide("mended"),
  r: () => decide("rejected"),
  s: () => decide("skipped"),
  u: () => undo(),
  n: (event) => step(event.shiftKey ? "previous" : "next"),
  pagedown: () => step("next"),
  pageup: () => step("previous"),
  g: (event) => zoomTo(event.shiftKey ? region - 1 : region + 1),
  1: () => byId("show-given").click(),
  2: () => byId("show-proposed")?.click(),
  3: () => byId("show-doubt")?.click(),
  4: () => byId("show-painted").click(),
  5: () => strength(100 * view.strength - 10),
  6: () => strength(100 * view.strength + 10),
  "+": () => view.zoom(1.25),
  "=": () => view.zoom(1.25),
  "-": () => view.zoom(0.8),
  0: () => view.fit(),
  arrowleft: (event) => arrows(event, -1, 0),
  arrowright: (event) => arrows(event, 1, 0),
  arrowup: (event) => arrows(event, 0, -1),
  arrowdown: (event) => arrows(event, 0, 1),
  h: () => pick("tool", "hand"),
  b: () => pick("tool", "brush"),
  e: () => pick("tool", "eraser"),
  o: () => pick("tool", "polygon"),
  " ": () => tools.press(),
  enter: () => tools.close(),
  escape: () => tools.dropCorners(),
  backspace: () => { view.corners.pop(); view.draw(); },
  ",": () => resize(tools.size - (tools.size > 20 ? 4 : 1)),
  ".": () => resize(tools.size + (tools.size >= 20 ? 4 : 1)),
  x: () => {
    const fields = [...document.querySelectorAll("input[name=label]")];
    if (fields.length) fields[(fields.findIndex((field) => field.checked) + 1) % fields.length].click();
  },
  "?": () => byId("help").showModal(),
};
const OF_FIELDS = ["arrowleft", "arrowright", "arrowup", "arrowdown", "pagedown", "pageup"];
const OF_BUTTONS = ["enter", " "];

document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase(), target = event.target;
  if (document.querySelector("dialog[open]") || event.isComposing) return;
  if (target.matches("select, input:not([type=checkbox], [type=radio], [type=range])")) return;
  if (event.ctrlKey || event.metaKey) {
    const which = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : "";
    if (which) {
      event.preventDefault();
      turn(which);
    }
    return;
  }
  if (event.altKey || !byId("single-keys").checked) return;
  if (target.matches("input") && OF_FIELDS.includes(key)) return;
  if (target.matches("input, button, a") && OF_BUTTONS.includes(key)) return;
  if (event.repeat && "apmrsun".includes(key) && key.length === 1) return; // a key that is held down decides once
  const act = KEYS[key];
  if (!act) return;
  event.preventDefault();
  act(event);
});

say(memory.take("said", ""));
strength(memory.get("strength", 60));
window.addEventListener("pagehide", () => memory.set("strength", Math.round(100 * view.strength)));
byId("renewed").addEventListener("click", renew);
follow({ ranked: () => { byId("ranked").hidden = false; }, say });
view.canvas.focus({ preventScroll: true });
load();
