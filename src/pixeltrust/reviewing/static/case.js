// One picture: its layers, tools and decisions, by buttons and keys.
import { changeAt, changeOf, isTaken } from "./changes.js";
import { Controls } from "./controls.js";
import { Decisions } from "./decisions.js";
import { ask, complain, say } from "./dialog.js";
import { listen } from "./keys.js";
import { follow } from "./learning.js";
import { runs } from "./mask.js";
import { keep, memory, settings } from "./memory.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";
import "./page.js";

const byId = (name) => document.getElementById(name);
const info = JSON.parse(byId("case").dataset.info);
const planes = {}, tags = {};
let region = -1;

const painted = document.createElement("canvas");
painted.id = "painted";
painted.hidden = true;
byId("case").append(painted);
const view = new View(byId("view"), painted, { ...info, beside: byId("beside") });
const tools = new Tools(view, {
  start: () => planes[byId("from").value],
  notify: say,
  pointed: read,
  clicked: (x, y) => turnChange(changeAt(planes, x, y, info.width, info.height)),
  paints: () => controls.showPainted(),
  painted: () => markRegions(),
});
const controls = new Controls([view], [tools]);
const { painting } = tools;
const decisions = new Decisions(info, {
  lift: () => tools.lift(),
  unsaved: () => painting.changed || view.corners.length > 0,
  refuse,
  body: () => runs(painting.mask),
  tag: (what) => tags[what] ?? "",
});

// --- what is shown

function read(x, y) {
  const column = Math.floor(x), row = Math.floor(y);
  if (column < 0 || row < 0 || column >= info.width || row >= info.height) return;
  const at = row * info.width + column;
  const parts = [`x ${column}  y ${row}`];
  if (planes.given) parts.push(`given ${planes.given[at]}`);
  if (planes.proposed) parts.push(`proposed ${planes.proposed[at]}`);
  if (painting.mask) parts.push(`painted ${painting.mask[at]}`);
  if (planes.confidence) parts.push(`doubt ${100 - Math.round(planes.confidence[at] / 2.55)} %`);
  byId("readout").textContent = parts.join("   ");
  view.canvas.dataset.over = planes.given && planes.proposed && planes.given[at] !== planes.proposed[at] ? "change" : "";
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
  view.setImage(image);
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
  markRegions();
  document.body.dataset.ready = "true";
}

function lookBeside(on) {
  keep("beside", on);
  byId("beside").hidden = !on;
  byId("show-beside").checked = on;
}

// --- what may be decided

function refuse(what) {
  if (what === "proposed" && !info.judged) return "Nothing is proposed yet: accept what is given, or paint";
  if (["given", "proposed"].includes(what) && !planes[what]) return `The ${what} mask is not shown yet; wait for it, or read what is wrong`;
  if (what !== "mended") return "";
  if (view.corners.length) return "The polygon is open: Enter fills it, Esc cancels it";
  if (!painting.mask) return "Nothing is painted yet: use the brush B, the eraser E or the polygon O";
  for (const [name, key] of [["proposed", "P"], ["given", "A"]]) {
    if (planes[name] && (name === "given" || info.judged) && isSame(painting.mask, planes[name])) return `The same as ${name}: ${key} accepts it`;
  }
  return painting.changed ? "" : "Nothing is painted yet: this is the mask as it was saved";
}

function isSame(one, other) { return one.every((label, place) => label === other[place]); }

// --- regions, and what is proposed

/** Take a part of the proposal that is left, or leave one that is taken. */
function turnChange(spans) {
  if (!spans) return say(info.judged ? "No change is proposed here" : "");
  const mask = painting.mask ?? planes[byId("from").value];
  if (!mask) return say("The mask is not shown yet");
  const { taken, pixels } = isTaken(planes, mask, spans, info.width);
  tools.fill(spans, taken ? planes.given : planes.proposed);
  say(`${taken ? "Left: as given" : "Taken: as proposed"}, ${pixels.toLocaleString()} pixels. T or a click turns it back, M saves`);
}

function turnRegion(place) { turnChange(changeOf(planes, info.regions[place], info.width, info.height)); }

/** The key T: the change under the pointer, else that of the region that was zoomed to. */
function turnHere() {
  const at = view.point ? tools.place : tools.over, spans = at && changeAt(planes, at[0], at[1], info.width, info.height);
  if (spans || region < 0) turnChange(spans); else turnRegion(region);
}

/** Say in the list which regions are taken. */
function markRegions() {
  const mask = painting.mask ?? planes[byId("from").value];
  info.regions.forEach((shown, place) => {
    const button = document.querySelector(`[data-turn="${place}"]`), spans = mask && changeOf(planes, shown, info.width, info.height);
    button.hidden = !spans;
    if (!spans) return;
    const { taken } = isTaken(planes, mask, spans, info.width);
    button.textContent = taken ? "taken" : "left";
    button.setAttribute("aria-pressed", String(taken));
  });
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

// --- painting

async function startOver() {
  tools.lift();
  if (painting.changed && (await ask("Start over?", "What you have painted is lost.", "Start over", "Keep it")) !== "yes") return;
  tools.dropCorners();
  if (painting.mask) tools.load(planes[byId("from").value]);
  markRegions();
  say(`The painted mask starts from the ${byId("from").selectedOptions[0].textContent} mask`);
}

function turn(which) {
  if (!tools.turn(which)) say(which === "undo" ? "No stroke to undo" : "No stroke to redo");
  markRegions();
}

function arrows(event, dx, dy) {
  if (tools.paints) tools.step(...[dx, dy].map((part) => part * (event.shiftKey ? 10 : 1)));
  else view.pan(-60 * dx, -60 * dy);
}

document.querySelectorAll("[data-region]").forEach((button) => button.addEventListener("click", () => zoomTo(Number(button.dataset.region))));
document.querySelectorAll("[data-turn]").forEach((button) => button.addEventListener("click", () => turnRegion(Number(button.dataset.turn))));
byId("show-beside").addEventListener("change", (event) => lookBeside(event.target.checked));
byId("again").addEventListener("click", startOver);
byId("from").addEventListener("pointerdown", () => { byId("from").dataset.pointed = "true"; });
byId("from").addEventListener("change", () => {
  tools.lift();
  if (painting.mask && !painting.changed) tools.load(planes[byId("from").value]);
  markRegions();
  if (byId("from").dataset.pointed) view.canvas.focus({ preventScroll: true }); // so that keys are commands again
});
byId("stroke-undo").addEventListener("click", () => turn("undo"));
byId("stroke-redo").addEventListener("click", () => turn("redo"));

listen({
  ...controls.keys,
  ...decisions.keys,
  g: (event) => zoomTo(event.shiftKey ? region - 1 : region + 1),
  t: turnHere,
  d: () => lookBeside(!settings.beside),
  "+": () => view.zoom(1.25),
  "=": () => view.zoom(1.25),
  "-": () => view.zoom(0.8),
  0: () => view.fit(),
  arrowleft: (event) => arrows(event, -1, 0),
  arrowright: (event) => arrows(event, 1, 0),
  arrowup: (event) => arrows(event, 0, -1),
  arrowdown: (event) => arrows(event, 0, 1),
  " ": () => tools.press(),
  enter: () => tools.close(),
  escape: () => tools.dropCorners(),
  backspace: () => { view.corners.pop(); view.draw(); },
}, controls.held, turn);

decisions.listen();
lookBeside(settings.beside);
say(memory.take("said", ""));
follow({ ranked: () => { byId("ranked").hidden = false; }, say });
view.canvas.focus({ preventScroll: true });
load();
