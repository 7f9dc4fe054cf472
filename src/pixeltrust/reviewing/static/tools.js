// Hand, brush, eraser and polygon, by mouse, pen, fingers and keys, on the mask's own pixels.
import { Painting, disc, polygon } from "./mask.js";

export class Tools {
  /** `start()` returns the mask to paint on; `notify(text)` shows a message; `pointed(x, y)` follows the pointer. */
  constructor(view, { start, notify, pointed }) {
    Object.assign(this, { view, start, notify, pointed });
    this.painting = new Painting(view.width, view.height);
    this.tool = "hand";
    this.size = 12;
    this.label = 1;
    this.pointers = new Map();
    this.stroke = null; // the last point of the unfinished stroke
    this.pen = false; // whether the keyboard's brush is down
    this.place = [Math.floor(view.width / 2), Math.floor(view.height / 2)];
    const canvas = view.canvas;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.up(event, true));
    canvas.addEventListener("pointerleave", () => { if (!this.pointers.size) this.ring(null); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.close());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  get paints() { return this.tool !== "hand" && Boolean(this.painting.mask); }
  get colour() { return this.tool === "eraser" ? 0 : this.label; }

  take(tool) {
    this.lift();
    this.dropCorners();
    this.tool = tool;
    this.view.canvas.dataset.tool = tool;
    this.loaded();
    if (!this.paints) this.view.point = null;
    this.ring(null);
  }

  /** A tool may be selected before its mask has loaded. */
  loaded() {
    const mask = this.painting.mask || this.tool === "hand" ? null : this.start();
    if (mask) this.load(mask);
  }

  /** Start from a mask; what was painted is discarded. */
  load(mask) {
    this.lift();
    this.painting.clear(mask);
    this.show([0, 0, this.view.height, this.view.width]);
    this.outline();
  }

  show(box) { if (box) this.view.setPainted(this.painting.mask, box); }
  outline() { this.view.setOutline("painted", this.painting.mask); }

  turn(which) {
    this.lift();
    const box = this.painting[which]();
    this.show(box);
    if (box) this.outline();
    return box !== null;
  }

  // --- strokes

  begin(x, y) {
    this.painting.begin();
    this.stroke = [x, y];
    this.view.setOutline("painted", null); // drawn again when the stroke ends
    this.show(this.painting.fill(disc(x, y, this.size), this.colour));
  }

  extend(x, y) {
    const [fromX, fromY] = this.stroke;
    const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(x - fromX), Math.abs(y - fromY))));
    let [top, left, bottom, right] = [Infinity, Infinity, 0, 0];
    for (let step = 1; step <= steps; step++) {
      const part = step / steps;
      const box = this.painting.fill(disc(fromX + part * (x - fromX), fromY + part * (y - fromY), this.size), this.colour);
      if (box) [top, left, bottom, right] = [Math.min(top, box[0]), Math.min(left, box[1]), Math.max(bottom, box[2]), Math.max(right, box[3])];
    }
    if (bottom) this.show([top, left, bottom, right]);
    this.stroke = [x, y];
  }

  end() {
    this.stroke = null;
    this.painting.end();
    this.outline();
  }

  cancel() {
    if (!this.stroke) return;
    this.stroke = null;
    this.painting.cancel();
    this.show([0, 0, this.view.height, this.view.width]);
    this.outline();
  }

  lift() {
    if (this.pen && this.stroke) this.end();
    this.pen = false;
  }

  // --- polygon

  corner(x, y) {
    const { view } = this;
    const at = [Math.min(Math.max(Math.round(x), 0), view.width), Math.min(Math.max(Math.round(y), 0), view.height)];
    const first = view.corners[0], last = view.corners.at(-1);
    if (view.corners.length > 2 && Math.hypot(at[0] - first[0], at[1] - first[1]) * view.scale < 8) return this.close();
    if (!last || last[0] !== at[0] || last[1] !== at[1]) view.corners.push(at);
    view.draw();
  }

  close() {
    const { view } = this;
    if (this.tool !== "polygon" || !view.corners.length) return;
    if (view.corners.length < 3) return this.notify("A polygon needs three corners");
    this.painting.begin();
    this.show(this.painting.fill(polygon(view.corners, view.height), this.colour));
    this.painting.end();
    this.outline();
    this.dropCorners();
  }

  dropCorners() {
    this.view.corners = [];
    this.view.pointed = null;
    this.view.draw();
  }

  // --- mouse, pen, fingers

  down(event) {
    const { view } = this;
    view.canvas.focus({ preventScroll: true });
    view.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.view.point = null;
    event.preventDefault();
    if (this.pointers.size === 2) {
      this.cancel();
      this.drag = null;
    } else if (this.pointers.size === 1) {
      this.lift();
      this.fingers = 1;
      const drags = !this.paints || event.button !== 0;
      this.drag = drags || this.tool === "polygon" ? { x: event.clientX, y: event.clientY, far: 0, drags } : null;
      if (!this.drag) this.begin(...view.at(event));
    }
    this.fingers = Math.max(this.fingers || 1, this.pointers.size);
    this.ring(event);
  }

  move(event) {
    const known = this.pointers.get(event.pointerId);
    this.pointed(...this.view.at(event));
    if (known && this.pointers.size === 2) this.pinch(event);
    else if (known && this.drag) this.dragged(event);
    else if (known && this.stroke) {
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const each of passed.length ? passed : [event]) this.extend(...this.view.at(each));
    }
    if (known) this.pointers.set(event.pointerId, event);
    if (this.view.corners.length) this.view.pointed = this.view.at(event).map(Math.round);
    this.ring(event);
  }

  up(event, broken = false) {
    if (!this.pointers.delete(event.pointerId) || this.pointers.size) return;
    if (this.stroke && broken) this.cancel();
    else if (this.stroke && !this.pen) this.end();
    else if (this.drag && !this.drag.drags && this.drag.far < 6 && this.fingers === 1 && !broken && event.detail < 2) this.corner(...this.view.at(event));
    this.drag = null;
    this.fingers = 0;
  }

  dragged(event) {
    const dx = event.clientX - this.drag.x, dy = event.clientY - this.drag.y;
    this.drag.x = event.clientX;
    this.drag.y = event.clientY;
    this.drag.far += Math.hypot(dx, dy);
    if (this.drag.drags) this.view.pan(dx, dy);
  }

  pinch(event) {
    const [one, other] = [...this.pointers.values()];
    const moved = one.pointerId === event.pointerId ? [event, other] : [one, event];
    const apart = (a, b) => Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));
    const middle = (a, b) => [(a.clientX + b.clientX) / 2, (a.clientY + b.clientY) / 2];
    const box = this.view.canvas.getBoundingClientRect();
    const [x0, y0] = middle(one, other), [x1, y1] = middle(...moved);
    this.view.pan(x1 - x0, y1 - y0);
    this.view.zoom(apart(...moved) / apart(one, other), x1 - box.left, y1 - box.top);
  }

  wheel(event) {
    event.preventDefault();
    const box = this.view.canvas.getBoundingClientRect();
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.view.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
  }

  ring(event) {
    const shown = event && (this.tool === "brush" || this.tool === "eraser");
    const [x, y] = event ? this.view.at(event) : [0, 0];
    this.view.brush = shown ? { x, y, size: this.size, erases: this.tool === "eraser", down: Boolean(this.stroke) } : null;
    this.view.draw();
  }

  // --- keys

  /** Move the keyboard's point; the brush paints where it is down. */
  step(dx, dy) {
    const { view } = this;
    const most = this.tool === "polygon" ? [view.width, view.height] : [view.width - 1, view.height - 1];
    if (view.point) this.place = [Math.min(Math.max(this.place[0] + dx, 0), most[0]), Math.min(Math.max(this.place[1] + dy, 0), most[1])];
    this.showPoint();
    if (this.pen) this.extend(...this.centre());
    if (view.corners.length) view.pointed = this.place;
  }

  /** Space: the brush goes down or up, a corner is set. */
  press() {
    if (!this.paints) return;
    if (!this.view.point) return this.showPoint();
    if (this.tool === "polygon") return this.corner(...this.place);
    if (this.pen) {
      this.lift();
    } else {
      this.pen = true;
      this.begin(...this.centre());
    }
    this.notify(this.pen ? "Brush down: the arrows paint" : "Brush up");
    return this.showPoint();
  }

  centre() { return [this.place[0] + 0.5, this.place[1] + 0.5]; }

  showPoint() {
    const { view } = this;
    const [x, y] = this.tool === "polygon" ? this.place : this.centre();
    view.point = [x, y];
    view.brush = this.tool === "polygon" ? null : { x, y, size: this.size, erases: this.tool === "eraser", down: this.pen };
    view.reveal(x, y);
    view.draw();
    this.pointed(...this.place);
  }
}
