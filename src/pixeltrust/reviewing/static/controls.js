// The panel's layers, light and tools, kept from case to case. `views` and `tools` follow it: one of each for a picture, three for a volume.
import { say } from "./dialog.js";
import { keep, settings } from "./memory.js";

const byId = (name) => document.getElementById(name);
const LAYERS = ["given", "proposed", "doubt", "painted"];
const NEUTRAL = 100; // percent of brightness and contrast

export class Controls {
  constructor(views, tools) {
    Object.assign(this, { views, tools });
    for (const name of LAYERS) {
      const box = byId(`show-${name}`);
      if (box) box.checked = settings[name];
      box?.addEventListener("change", () => this.layer(name, box.checked));
      this.layer(name, settings[name], false);
    }
    for (const name of ["strength", "brightness", "contrast"]) {
      byId(name)?.addEventListener("input", () => this.light(name, byId(name).value));
      this.light(name, settings[name]);
    }
    byId("plain")?.addEventListener("click", () => ["brightness", "contrast"].forEach((name) => this.light(name, NEUTRAL)));
    byId("size").addEventListener("input", () => this.resize(Number(byId("size").value)));
    this.resize(settings.size);
    for (const field of document.querySelectorAll("input[name=label]")) {
      field.addEventListener("change", () => {
        keep("label", Number(field.value));
        for (const each of tools) each.label = settings.label;
      });
    }
    for (const field of document.querySelectorAll("input[name=tool]")) field.addEventListener("change", () => this.take(field.value));
    byId("bare").addEventListener("pointerdown", () => this.bare(true));
    for (const end of ["pointerup", "pointerleave", "pointercancel"]) byId("bare").addEventListener(end, () => this.bare(false));
    byId("help-button").addEventListener("click", () => byId("help").showModal());
    this.pick("label", settings.label);
    this.pick("tool", settings.tool);
  }

  redraw() { for (const view of this.views) view.draw(); }

  layer(name, on, kept = true) {
    for (const view of this.views) view.shown[name] = on;
    if (kept) keep(name, on);
    this.redraw();
  }

  /** Show what is painted, so that nobody paints what cannot be seen. */
  showPainted() {
    const box = byId("show-painted");
    if (box.checked) return;
    box.checked = true;
    this.layer("painted", true);
    say("Painted: shown again (4)");
  }

  light(name, value) {
    const field = byId(name);
    if (!field) return;
    field.value = value;
    keep(name, Number(field.value));
    const plain = settings.brightness === NEUTRAL && settings.contrast === NEUTRAL;
    for (const view of this.views) {
      view.strength = settings.strength / 100;
      view.look = plain || !byId("brightness") ? "none" : `brightness(${settings.brightness}%) contrast(${settings.contrast}%)`;
    }
    this.redraw();
  }

  resize(size) {
    const field = byId("size");
    field.value = Math.min(Math.max(size, Number(field.min)), Number(field.max));
    keep("size", Number(field.value));
    byId("size-text").textContent = settings.size;
    for (const each of this.tools) each.size = settings.size;
    for (const view of this.views) if (view.brush) view.brush.size = settings.size;
    this.redraw();
  }

  /** Show the image alone, while a key or a button is held. */
  bare(on) {
    for (const view of this.views) view.bare = on;
    this.redraw();
  }

  take(tool) {
    keep("tool", tool);
    for (const each of this.tools) each.take(tool);
  }

  pick(name, value) {
    const field = document.querySelector(`input[name="${name}"][value="${value}"]`);
    if (field && !field.checked) field.click();
  }

  nextLabel() {
    const fields = [...document.querySelectorAll("input[name=label]")];
    if (fields.length) fields[(fields.findIndex((field) => field.checked) + 1) % fields.length].click();
  }

  /** What keys do here; those of the decisions and of the image are the page's. */
  get keys() {
    const tool = (name) => () => this.pick("tool", name), size = () => settings.size;
    const light = (name, by) => () => this.light(name, settings[name] + by);
    return {
      1: () => byId("show-given").click(),
      2: () => byId("show-proposed")?.click(),
      3: () => byId("show-doubt")?.click(),
      4: () => byId("show-painted").click(),
      5: light("strength", -10),
      6: light("strength", 10),
      "[": light("brightness", -10),
      "]": light("brightness", 10),
      "{": light("contrast", -10),
      "}": light("contrast", 10),
      h: tool("hand"),
      b: tool("brush"),
      e: tool("eraser"),
      o: tool("polygon"),
      c: tool("cut"),
      f: tool("bucket"),
      ",": () => this.resize(size() - (size() > 20 ? 4 : 1)),
      ".": () => this.resize(size() + (size() >= 20 ? 4 : 1)),
      x: () => this.nextLabel(),
      "?": () => byId("help").showModal(),
    };
  }

  get held() { return { v: (on) => this.bare(on) }; }
}
