// One volume in three planes with a common cross. Slices come from the server as they are looked at, and strokes go to it at once.
import { Controls } from "./controls.js";
import { Decisions } from "./decisions.js";
import { ask, complain, say } from "./dialog.js";
import { listen } from "./keys.js";
import { follow } from "./learning.js";
import { keep, memory, settings } from "./memory.js";
import { Slices, Voxels } from "./slices.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";
import { who } from "./who.js";
import "./page.js";

const byId = (name) => document.getElementById(name);
const info = JSON.parse(byId("case").dataset.info);
const unit = Math.min(...info.spacing); // mm of a pixel of the brush
const named = (label) => info.names[label] ?? label;
const voxels = new Voxels(info.planes, info.shape);
const slices = new Slices(info, () => byId("from").value, who);
let draft = { exists: false, undo: 0, redo: 0 }, region = -1, active = 0, range = null, edits = Promise.resolve(), waiting = 0;

const panes = info.planes.map((plane, place) => {
  const painted = document.createElement("canvas");
  painted.id = `painted-${plane.name}`;
  painted.hidden = true;
  byId("case").append(painted);
  const view = new View(byId(`plane-${plane.name}`), painted, { ...plane, ignored: info.ignored });
  const pane = { plane, view, shown: null };
  pane.tools = new Tools(view, {
    start: () => pane.mask,
    notify: say,
    pointed: (x, y) => point(pane, x, y),
    clicked: (x, y) => { voxels.move(plane, x, y); show(); },
    paints: () => controls.showPainted(),
    painted: (stroke, path) => send(pane, stroke, path),
    wheel: (event) => turnWheel(pane, event),
  });
  view.canvas.addEventListener("pointerenter", () => activate(place));
  view.canvas.addEventListener("focus", () => activate(place));
  return pane;
});
const views = panes.map((pane) => pane.view), tools = panes.map((pane) => pane.tools);
const controls = new Controls(views, tools);
const decisions = new Decisions(info, {
  stays: true,
  lift: () => tools.forEach((each) => each.lift()),
  unsaved: () => draft.exists,
  refuse,
  body: () => undefined,
  tag: () => "",
});

function activate(place) {
  active = place;
  panes.forEach((pane, number) => { pane.view.canvas.dataset.active = String(number === place); });
}

// --- what is shown

/** Show the slices through the cross. */
function show() {
  for (const pane of panes) {
    const { view, plane } = pane, [x, y] = voxels.on(plane);
    view.cross = [x, y];
    view.draw();
    showSlice(pane);
  }
  read();
}

async function showSlice(pane) {
  const { plane } = pane, at = voxels.at[plane.axis], { version } = slices;
  if (pane.wanted === at && pane.version === version) return;
  if (pane.wanted !== at) pane.tools.lift();
  pane.wanted = at;
  pane.version = version;
  pane.fetching = (pane.fetching ?? 0) + 1;
  sayBusy();
  try {
    const [slice, mask] = await Promise.all([slices.get(plane, at), slices.draft(plane, at).catch((error) => ({ error }))]);
    if (mask.error && !slice.fault) throw mask.error; // else the image is shown all the same
    if (pane.wanted !== at || pane.version !== version) return; // another one is looked at by now, or is painted anew
    if (pane.tools.stroke) { // it is finished first, and all is asked for again
      pane.version = null;
      return;
    }
    pane.slice = slice;
    pane.at = at;
    pane.mask = mask.labels ?? new Uint8Array(plane.width * plane.height);
    if (slice.fault) complain(slice.fault);
    draft = mask.draft ?? draft;
    draw(pane);
    for (const next of [at + 1, at - 1]) if (next >= 0 && next < plane.slices) slices.get(plane, next).catch(() => null);
  } catch (error) {
    if (pane.version === version) pane.version = null; // asked for again with whatever is shown next
    complain(error.message);
  } finally {
    pane.fetching--;
    sayBusy();
  }
}

/** Mark the planes as busy while slices or strokes are on their way. */
function sayBusy() {
  document.querySelector(".planes").setAttribute("aria-busy", String(waiting > 0 || panes.some((pane) => pane.fetching > 0)));
}

function draw(pane) {
  const { view, slice, tools: own, plane } = pane;
  if (!slice) return;
  view.setImage(slice.picture(plane, range));
  view.setOutline("given", slice.given);
  if (slice.proposed) view.setOutline("proposed", slice.proposed);
  if (slice.confidence) view.setDoubt(slice.confidence);
  if (draft.exists || own.tool !== "hand") own.load(pane.mask);
  else {
    own.painting.clear(null);
    view.tint.clearRect(0, 0, view.width, view.height);
    own.outline();
  }
  view.caption = `${plane.name} ${pane.at + 1} / ${plane.slices}`;
  view.canvas.dataset.slice = String(pane.at);
  read();
  if (panes.every((each) => each.slice)) document.body.dataset.ready = "true";
}

function point(pane, x, y) {
  const at = voxels.of(pane.plane, x, y);
  if (at) read(at);
}

/** Say what is at a voxel; at the cross where none is said. */
function read(at = voxels.at) {
  const parts = [`x ${at[2]}  y ${at[1]}  slice ${at[0]}`];
  const pane = panes.find((each) => each.slice && each.at === at[each.plane.axis]);
  if (pane) {
    const [x, y] = voxels.on(pane.plane, at), place = Math.floor(y) * pane.plane.width + Math.floor(x), { slice } = pane;
    parts.push(`value ${slice.value(place)}`, `given ${named(slice.given[place])}`);
    if (slice.proposed) parts.push(`proposed ${named(slice.proposed[place])}`);
    if (pane.tools.painting.mask) parts.push(`painted ${named(pane.tools.painting.mask[place])}`);
    if (slice.confidence) parts.push(`doubt ${100 - Math.round(slice.confidence[place] / 2.55)} %`);
  }
  byId("readout").textContent = parts.join("   ");
}

// --- slices

function turnWheel(pane, event) {
  pane.turned = (pane.turned ?? 0) + event.deltaY * (event.deltaMode === 1 ? 33 : 1);
  const by = Math.trunc(pane.turned / 90) || (Math.abs(event.deltaY) >= 90 ? Math.sign(event.deltaY) : 0);
  if (!by) return;
  pane.turned = 0;
  step(pane, by);
}

function step(pane, by) {
  const { plane } = pane;
  voxels.at[plane.axis] = Math.min(Math.max(voxels.at[plane.axis] + by, 0), plane.slices - 1);
  show();
}

function arrows(event, dx, dy) {
  const far = event.shiftKey ? 10 : 1, pane = panes[active];
  if (pane.tools.paints) return pane.tools.step(dx * far, dy * far);
  const [x, y] = voxels.on(pane.plane);
  voxels.move(pane.plane, x + dx * far, y + dy * far);
  show();
}

function zoomTo(place, scrolls = true) {
  const all = document.querySelectorAll("[data-region]");
  if (!info.regions.length) return say("No doubtful region");
  region = (place + info.regions.length) % info.regions.length;
  all.forEach((button, number) => button.setAttribute("aria-current", String(number === region)));
  if (scrolls) all[region].scrollIntoView({ block: "nearest" });
  const shown = info.regions[region], box = [[shown.first, shown.last], [shown.top, shown.bottom], [shown.left, shown.right]];
  voxels.at = [shown.slice, ...box.slice(1).map(([first, behind]) => Math.floor((first + behind) / 2))];
  for (const { plane, view } of panes) view.region(voxels.box(plane, box));
  show();
  say(`Region ${shown.region}: ${shown.kind}, ${shown.mm3.toLocaleString()} mm³, slices ${shown.first} to ${shown.last - 1}`);
}

function alone(on) {
  keep("beside", on);
  byId("show-alone").checked = on;
  byId("case").dataset.alone = on ? info.planes[active].name : "";
}

// --- level and window

function setRange(low, high) {
  range = [low, Math.max(high, low + slices.scale.slope)];
  memory.set(`range ${info.audit}`, range);
  const { first, last } = slices, whole = last - first;
  byId("level").value = (1000 * ((range[0] + range[1]) / 2 - first)) / whole;
  byId("window").value = (1000 * (range[1] - range[0])) / whole;
  byId("level-text").textContent = Number(((range[0] + range[1]) / 2).toPrecision(3));
  byId("window-text").textContent = Number((range[1] - range[0]).toPrecision(3));
  for (const pane of panes) if (pane.slice) pane.view.setImage(pane.slice.picture(pane.plane, range));
}

function shiftRange(level, window) {
  const middle = (range[0] + range[1]) / 2 + level * (range[1] - range[0]), half = ((range[1] - range[0]) / 2) * window;
  setRange(middle - half, middle + half);
}

function slide() {
  const { first, last } = slices, whole = (last - first) / 1000;
  const middle = first + whole * Number(byId("level").value), half = (whole * Number(byId("window").value)) / 2;
  setRange(middle - half, middle + half);
}

function offerWindows() {
  const offered = slices.first < -500 ? [["Soft", -160, 240], ["Lung", -1350, 150], ["Bone", -500, 1300], ["Brain", 0, 80]] : [];
  for (const [name, low, high] of offered) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "small", textContent: name });
    button.addEventListener("click", () => setRange(low, high));
    byId("windows").append(button);
  }
}

// --- painting: strokes go to the server one after another

/** Send a change behind those that are on their way, and show what came of it. */
function edit(what, values, body) {
  waiting++;
  sayBusy();
  const query = { id: info.id, who: who(), start: byId("from").value, ...values };
  edits = edits.then(async () => {
    const answer = await fetch(`/volume/${what}?${new URLSearchParams(query)}`, { method: "POST", body }).catch(() => null);
    waiting--;
    const content = answer ? await answer.json() : { error: "The server does not answer. Is `pixeltrust review` still running?" };
    if (!answer?.ok) {
      if (answer?.status === 404) say(content.error); else complain(content.error);
    } else draft = content;
    if (!waiting) {
      slices.version++;
      show();
    }
    sayBusy();
    return answer?.ok ? content : null;
  });
  return edits;
}

function send(pane, stroke, path) {
  const { plane } = pane, [top, left, bottom, right] = stroke.box, place = { axis: plane.axis, at: pane.at };
  draft.exists = true;
  if (!path || !settings.ball) return edit("paint", { ...place, top, left, bottom, right }, stroke.is);
  return edit("ball", { ...place, size: settings.size * unit, label: pane.tools.colour }, JSON.stringify(path));
}

async function turnChange(values) {
  const done = await edit("change", values);
  if (done) say(`${done.left ? "Left: as given" : "Taken: as proposed"}, ${done.voxels.toLocaleString()} voxels. T turns it back, M saves`);
  return done;
}

async function turnRegion(place) {
  const done = await turnChange({ region: place }), button = document.querySelector(`[data-turn="${place}"]`);
  if (!done) return;
  button.textContent = done.left ? "left" : "taken";
  button.setAttribute("aria-pressed", String(!done.left));
}

/** The key T: the change under the pointer, else that of the region that was gone to. */
function turnHere() {
  const pane = panes[active], at = pane.tools.over?.map(Math.floor), { slice, plane } = pane;
  const place = at && at[1] * plane.width + at[0];
  if (at && slice?.proposed && slice.given[place] !== slice.proposed[place]) turnChange({ axis: plane.axis, at: pane.at, x: at[0], y: at[1] });
  else if (region >= 0) turnRegion(region);
  else say("No change is proposed here");
}

async function turn(which) {
  tools.forEach((each) => each.lift());
  const done = await edit("turn", { what: which });
  if (done && !done.turned) say(which === "undo" ? "No stroke to undo" : "No stroke to redo");
}

async function startOver() {
  if (draft.exists && (await ask("Start over?", "What you have painted is lost.", "Start over", "Keep it")) !== "yes") return;
  tools.forEach((each) => each.dropCorners());
  await edit("drop", {});
  say(`The painted mask starts from the ${byId("from").selectedOptions[0].textContent} mask`);
}

function refuse(what) {
  if (what === "proposed" && !info.judged) return "Nothing is proposed yet: accept what is given, or paint";
  if (what !== "mended") return "";
  if (views.some((view) => view.corners.length)) return "The polygon is open: Enter fills it, Esc cancels it";
  if (waiting) return "A stroke is being written; press again";
  return draft.exists ? "" : `${tools[0].tool === "hand" ? "Nothing is painted yet" : `The same as ${byId("from").value}`}: use the brush B, the eraser E or the polygon O`;
}

// --- controls

document.querySelectorAll("[data-region]").forEach((button) => button.addEventListener("click", () => zoomTo(Number(button.dataset.region))));
document.querySelectorAll("[data-turn]").forEach((button) => button.addEventListener("click", () => turnRegion(Number(button.dataset.turn))));
for (const field of document.querySelectorAll("input[name=tool]")) field.addEventListener("change", () => panes.forEach(draw));
byId("show-alone").addEventListener("change", (event) => alone(event.target.checked));
byId("level").addEventListener("input", slide);
byId("window").addEventListener("input", slide);
byId("windows").firstElementChild.addEventListener("click", () => setRange(slices.first, slices.last));
byId("channel")?.addEventListener("change", async () => {
  await slices.begin(Number(byId("channel").value)).catch((error) => complain(error.message));
  setRange(slices.scale.low, slices.scale.high);
  slices.version++;
  show();
});
byId("again").addEventListener("click", startOver);
byId("ball").checked = settings.ball;
byId("ball").addEventListener("change", () => keep("ball", byId("ball").checked));
byId("from").addEventListener("change", () => {
  slices.version++;
  show();
});
byId("stroke-undo").addEventListener("click", () => turn("undo"));
byId("stroke-redo").addEventListener("click", () => turn("redo"));

const zoom = (factor) => () => panes[active].view.zoom(factor), here = () => panes[active].tools;
listen({
  ...controls.keys,
  ...decisions.keys,
  g: (event) => zoomTo(event.shiftKey ? region - 1 : region + 1),
  t: turnHere,
  d: () => alone(!settings.beside),
  k: () => byId("ball").click(),
  w: (event) => step(panes[active], event.shiftKey ? 10 : 1),
  q: (event) => step(panes[active], event.shiftKey ? -10 : -1),
  "[": () => shiftRange(-0.05, 1),
  "]": () => shiftRange(0.05, 1),
  "{": () => shiftRange(0, 0.9),
  "}": () => shiftRange(0, 1 / 0.9),
  "+": zoom(1.25),
  "=": zoom(1.25),
  "-": zoom(0.8),
  0: () => views.forEach((view) => view.fit()),
  arrowleft: (event) => arrows(event, -1, 0),
  arrowright: (event) => arrows(event, 1, 0),
  arrowup: (event) => arrows(event, 0, -1),
  arrowdown: (event) => arrows(event, 0, 1),
  " ": () => here().press(),
  enter: () => here().close(),
  escape: () => tools.forEach((each) => each.dropCorners()),
  backspace: () => { panes[active].view.corners.pop(); panes[active].view.draw(); },
}, controls.held, turn);

decisions.listen();
activate(0);
alone(settings.beside);
if (info.mended) byId("from").value = "decided";
const said = memory.take("said", "");
say(said || "The volume is being decoded …");
follow({ ranked: () => { byId("ranked").hidden = false; }, say });
views[0].canvas.focus({ preventScroll: true });
begin();

async function begin() {
  try {
    await slices.begin();
    const [low, high] = memory.get(`range ${info.audit}`, [slices.scale.low, slices.scale.high]);
    offerWindows();
    setRange(low, high);
    voxels.at = slices.scale.at ?? voxels.at;
    if (info.regions.length) zoomTo(0, false); else show();
    say(said);
    views.forEach((view) => view.fit());
  } catch (error) {
    complain(error.message);
  }
}
