// Hand, brush, eraser, polygon, cut and bucket, by mouse, pen, fingers and keys, on the mask's own pixels.
import { area, disc, middle, polygon } from "./mask.js";
import { Painting } from "./painting.js";

const BRUSHES = ["brush", "eraser"], OUTLINED = ["polygon", "cut"];

export class Tools {
  /**
   * `start()` returns the mask to paint on; `notify(text)` shows a message; `pointed(x, y)` follows the pointer; `clicked(x, y)` is a click
   * of the hand; `paints()` comes before a stroke, `painted(stroke, path)` behind one that changed something: the path that a brush took.
   */
  constructor(view, { start, notify, pointed, clicked, paints = () => {}, painted = () => {}, wheel = null }) {
    Object.assign(this, { view, start, notify, pointed, clicked, painted, turned: wheel, begins: paints });
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
    canvas.addEventListener("pointerleave", () => { if (!this.pointers.size) this.left(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.close());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  get paints() { return this.tool !== "hand" && Boolean(this.painting.mask); }
  get erases() { return this.tool === "eraser" || this.tool === "cut"; }
  get colour() { return this.erases ? 0 : this.label; }
  get outlines() { return OUTLINED.includes(this.tool); }

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

  /** The middle of the brush about a place. */
  middle(x, y) { return [x, y].map((at, side) => middle(at, this.size, this.view.stretch[side])); }

  disc(x, y) { return disc(x, y, this.size, this.view.stretch); }

  begin(x, y) {
    this.begins();
    this.painting.begin();
    this.stroke = [x, y];
    this.path = [this.middle(x, y)];
    this.view.setOutline("painted", null); // drawn again when the stroke ends
    this.show(this.painting.fill(this.disc(x, y), this.colour));
  }

  extend(x, y) {
    const [fromX, fromY] = this.stroke;
    const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(x - fromX), Math.abs(y - fromY))));
    let [top, left, bottom, right] = [Infinity, Infinity, 0, 0];
    for (let step = 1; step <= steps; step++) {
      const part = step / steps;
      const box = this.painting.fill(this.disc(fromX + part * (x - fromX), fromY + part * (y - fromY)), this.colour);
      if (box) [top, left, bottom, right] = [Math.min(top, box[0]), Math.min(left, box[1]), Math.max(bottom, box[2]), Math.max(right, box[3])];
    }
    if (bottom) this.show([top, left, bottom, right]);
    this.stroke = [x, y];
    this.path.push(this.middle(x, y));
  }

  end(path = this.path) {
    this.stroke = null;
    const stroke = this.painting.end();
    this.outline();
    if (stroke) this.painted(stroke, path);
    return stroke !== null;
  }

  /** Paint spans in one go, with a label or as they are in another mask; returns whether that changed anything. */
  fill(spans, source) {
    this.lift();
    if (!this.painting.mask) this.load(this.start());
    this.begins();
    this.painting.begin();
    this.show(this.painting.fill(spans, source));
    return this.end(null);
  }

  /** Fill what is connected with a pixel and has its label; where it has the painted label already, it is erased. */
  pour(x, y) {
    const { width, height } = this.view, { mask } = this.painting, at = Math.floor(y) * width + Math.floor(x);
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const label = mask[at];
    this.fill(area([at], width, height, (place) => mask[place] === label), label === this.label ? 0 : this.label);
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
    if (!this.outlines || !view.corners.length) return;
    if (view.corners.length < 3) return this.notify("A polygon needs three corners");
    this.fill(polygon(view.corners, view.height), this.colour);
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
      const clicks = event.button === 0 ? this.tool : "";
      this.drag = drags || !BRUSHES.includes(this.tool) ? { x: event.clientX, y: event.clientY, far: 0, drags, clicks } : null;
      if (!this.drag) this.begin(...view.at(event));
    }
    this.fingers = Math.max(this.fingers || 1, this.pointers.size);
    this.ring(event);
  }

  move(event) {
    const known = this.pointers.get(event.pointerId);
    this.over = this.view.at(event);
    this.pointed(...this.over);
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
    else if (this.drag && this.drag.far < 6 && this.fingers === 1 && !broken && event.detail < 2) this.click(this.drag.clicks, ...this.view.at(event));
    this.drag = null;
    this.fingers = 0;
  }

  click(tool, x, y) {
    if (tool === "hand") this.clicked(x, y);
    else if (!this.paints) return;
    else if (tool === "bucket") this.pour(x, y);
    else if (OUTLINED.includes(tool)) this.corner(x, y);
  }

  /** The pointer has gone elsewhere. */
  left() {
    this.over = null;
    this.ring(null);
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
    if (this.turned && !event.ctrlKey) return this.turned(event);
    const box = this.view.canvas.getBoundingClientRect();
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.view.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
  }

  ring(event) {
    const shown = event && BRUSHES.includes(this.tool);
    const [x, y] = event ? this.view.at(event) : [0, 0];
    this.view.brush = shown ? { x, y, size: this.size, erases: this.erases, down: Boolean(this.stroke) } : null;
    this.view.draw();
  }

  // --- keys

  /** Move the keyboard's point; the brush paints where it is down. */
  step(dx, dy) {
    const { view } = this;
    const most = this.outlines ? [view.width, view.height] : [view.width - 1, view.height - 1];
    if (view.point) this.place = [Math.min(Math.max(this.place[0] + dx, 0), most[0]), Math.min(Math.max(this.place[1] + dy, 0), most[1])];
    this.showPoint();
    if (this.pen) this.extend(...this.centre());
    if (view.corners.length) view.pointed = this.place;
  }

  /** Space: the brush goes down or up, a corner is set. */
  press() {
    if (!this.paints) return;
    if (!this.view.point) return this.showPoint();
    if (this.outlines) return this.corner(...this.place);
    if (this.tool === "bucket") return this.pour(...this.centre());
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
    const [x, y] = this.outlines ? this.place : this.centre();
    view.point = [x, y];
    view.brush = BRUSHES.includes(this.tool) ? { x, y, size: this.size, erases: this.erases, down: this.pen } : null;
    view.reveal(x, y);
    view.draw();
    this.pointed(...this.place);
  }
}
