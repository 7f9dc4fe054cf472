// The image with its layers, and the part of it that is seen: zoom, pan, fingers. Knows nothing of decisions.
import { outlines } from "./mask.js";

const LARGEST = 64, MARGIN = 24;
const BROWN = [[208, 127], [131, 59], [44, 8]]; // red, green and blue of a doubt of ½ and of 1
const TINT = 64; // how dense what is painted is, of 255
export const COLOURS = { given: "#f2b34c", proposed: "#58c8f2", painted: "#ff8fd0", cross: "#7fd7a0" };
export const TINTS = [[255, 111, 190], [122, 220, 130], [178, 150, 255], [255, 214, 90], [110, 225, 225], [255, 150, 95], [200, 200, 200]];

export class View {
  /**
   * @param canvas where it is drawn
   * @param painted a canvas for what is painted; a pixel of it is a pixel of the mask
   * @param stretch how wide and high a pixel is on the screen; the smaller of both is 1
   * @param beside a canvas that shows the image alone, or null
   */
  constructor(canvas, painted, { width, height, ignored, stretch = [1, 1], beside = null }) {
    Object.assign(this, { canvas, painted, width, height, ignored, stretch, beside });
    this.context = canvas.getContext("2d");
    painted.width = width;
    painted.height = height;
    this.tint = painted.getContext("2d", { willReadFrequently: true });
    this.back = document.createElement("canvas");
    this.image = null;
    this.doubt = null;
    this.paths = {};
    this.shown = { given: true, proposed: true, doubt: true, painted: true };
    this.strength = 0.6;
    this.look = "none"; // a filter of the image: its brightness and contrast
    this.bare = false; // show the image alone
    this.corners = [];
    this.point = null; // of the keyboard, [x, y] in pixels of the mask
    this.caption = "";
    this.cross = null; // where other planes cut this one
    this.brush = null; // {x, y, size, erases, down}: drawn as a ring
    this.fitted = true;
    const watch = new ResizeObserver(() => this.resized());
    for (const each of [canvas, beside]) if (each) watch.observe(each);
    this.resized();
  }

  resized() {
    const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    this.across = box.width;
    this.down = box.height;
    for (const canvas of [this.canvas, this.beside]) {
      if (!canvas) continue;
      canvas.width = Math.max(1, Math.round(box.width * ratio));
      canvas.height = Math.max(1, Math.round(box.height * ratio));
    }
    this.drawn = "";
    if (this.fitted) this.fit(); else this.draw();
  }

  /** Screen pixels of a pixel of the mask, across and down. */
  get steps() { return [this.scale * this.stretch[0], this.scale * this.stretch[1]]; }

  fit() {
    this.frame(0, 0, this.height, this.width, MARGIN);
    this.fitted = true;
  }

  /** Show a box [top, left, bottom, right) in the middle. */
  frame(top, left, bottom, right, margin) {
    const wide = Math.max(1, this.across - 2 * margin), high = Math.max(1, this.down - 2 * margin);
    this.scale = Math.min(wide / (this.stretch[0] * (right - left)), high / (this.stretch[1] * (bottom - top)), LARGEST);
    const [across, down] = this.steps;
    this.x = this.across / 2 - (across * (left + right)) / 2;
    this.y = this.down / 2 - (down * (top + bottom)) / 2;
    this.fitted = false;
    this.draw();
  }

  region({ top, left, bottom, right }) {
    const margin = Math.max(bottom - top, right - left, 16) * 0.35;
    this.frame(top - margin, left - margin, bottom + margin, right + margin, 0);
  }

  zoom(factor, x = this.across / 2, y = this.down / 2) {
    const [across, down] = [this.stretch[0] * this.width, this.stretch[1] * this.height];
    const least = 0.5 * Math.min(this.across / across, this.down / down);
    const scale = Math.min(Math.max(this.scale * factor, Math.min(least, 1)), LARGEST);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    const some = 40; // this much of the image stays visible
    const [across, down] = this.steps;
    this.x = Math.min(Math.max(this.x + dx, some - across * this.width), this.across - some);
    this.y = Math.min(Math.max(this.y + dy, some - down * this.height), this.down - some);
    this.fitted = false;
    this.draw();
  }

  /** A place on the screen, in pixels of the mask. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [across, down] = this.steps;
    return [(event.clientX - box.left - this.x) / across, (event.clientY - box.top - this.y) / down];
  }

  reveal(x, y) {
    const [across, down] = this.steps;
    const px = this.x + x * across, py = this.y + y * down, rim = 32;
    const dx = px < rim ? rim - px : Math.min(0, this.across - rim - px), dy = py < rim ? rim - py : Math.min(0, this.down - rim - py);
    if (dx || dy) this.pan(dx, dy);
  }

  setImage(image) {
    this.image = image;
    this.drawn = "";
    this.draw();
  }

  setOutline(name, mask) {
    this.paths[name] = mask && outlines(mask, this.width, this.height, this.ignored);
    this.draw();
  }

  /** Show doubt, 1 minus confidence, in the brown of the audit's page: transparent where there is none, dark where the label is surely wrong. */
  setDoubt(confidence) {
    const canvas = document.createElement("canvas");
    canvas.width = this.width;
    canvas.height = this.height;
    const picture = new ImageData(this.width, this.height);
    for (let place = 0; place < confidence.length; place++) {
      const doubt = 1 - confidence[place] / 255, dark = Math.max(0, 2 * doubt - 1);
      BROWN.forEach(([half, sure], part) => { picture.data[4 * place + part] = half + dark * (sure - half); });
      picture.data[4 * place + 3] = 255 * Math.min(1, Math.max(0, (doubt - 0.1) / 0.6));
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
    this.doubt = canvas;
    this.drawn = "";
    this.draw();
  }

  /** Show what is painted within a box; label 0 is transparent. */
  setPainted(mask, [top, left, bottom, right]) {
    const across = right - left, picture = new ImageData(across, bottom - top);
    for (let row = top, place = 0; row < bottom; row++) {
      for (let column = left; column < right; column++, place += 4) {
        const label = mask[row * this.width + column];
        if (!label) continue;
        const tint = label === this.ignored ? [150, 150, 150] : TINTS[(label - 1) % TINTS.length];
        picture.data.set(tint, place);
        picture.data[place + 3] = TINT;
      }
    }
    this.tint.putImageData(picture, left, top);
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.drawNow();
    });
  }

  drawNow() {
    const c = this.context, ratio = this.canvas.width / Math.max(1, this.across);
    this.clear(c);
    c.drawImage(this.ground(ratio), 0, 0);
    if (this.shown.painted && !this.bare) {
      this.place(c, ratio);
      c.imageSmoothingEnabled = false;
      c.drawImage(this.painted, 0, 0);
    }
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (!this.bare) this.drawOutlines();
    if (this.cross && !this.bare) this.drawCross(this.cross);
    this.drawCorners(c);
    this.drawPoint();
    if (this.caption) this.drawCaption(c);
    if (this.beside) this.drawBeside(ratio);
  }

  clear(c) {
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Let a context draw in pixels of the mask. */
  place(c, ratio) {
    const [across, down] = this.steps;
    c.setTransform(ratio * across, 0, 0, ratio * down, ratio * this.x, ratio * this.y);
  }

  drawOutlines() {
    const { paths, shown } = this;
    if (paths.given && shown.given) this.line(paths.given, COLOURS.given, 2.4, []);
    if (paths.proposed && shown.proposed) this.line(paths.proposed, COLOURS.proposed, 2.4, [9, 7]);
    if (paths.painted && shown.painted) this.line(paths.painted, COLOURS.painted, 1.8, [1.5, 4]);
  }

  /** The image under its doubt, as it is seen now; drawn again only when that changes, because strokes have to be quick. */
  ground(ratio) {
    const { canvas, back } = this, doubt = this.shown.doubt && this.doubt && !this.bare ? this.strength : 0;
    const key = [canvas.width, canvas.height, this.scale, this.x, this.y, doubt, this.look].join();
    if (key === this.drawn) return back;
    this.drawn = key;
    back.width = canvas.width;
    back.height = canvas.height;
    const c = back.getContext("2d");
    this.drawImage(c, ratio);
    if (doubt) {
      c.globalAlpha = doubt;
      c.drawImage(this.doubt, 0, 0);
    }
    return back;
  }

  drawImage(c, ratio) {
    if (!this.image) return;
    this.place(c, ratio);
    c.imageSmoothingEnabled = this.scale < 4;
    c.imageSmoothingQuality = "medium";
    c.filter = this.look;
    c.drawImage(this.image, 0, 0, this.width, this.height);
    c.filter = "none";
  }

  drawBeside(ratio) {
    if (!this.beside.checkVisibility()) return;
    const c = this.beside.getContext("2d"), at = this.brush ?? (this.point && { x: this.point[0], y: this.point[1] });
    this.clear(c);
    this.drawImage(c, ratio);
    if (!at) return;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawCross([at.x, at.y], 9, c);
  }

  /** Stroke a path of the mask's pixels with lines of the screen's. */
  line(path, colour, width, dash, c = this.context) {
    const seen = new Path2D(), [across, down] = this.steps;
    seen.addPath(path, new DOMMatrix([across, 0, 0, down, this.x, this.y]));
    c.lineJoin = "round";
    c.setLineDash(dash);
    c.lineWidth = width * 2;
    c.strokeStyle = "rgba(0, 0, 0, 0.5)";
    c.stroke(seen);
    c.lineWidth = width;
    c.strokeStyle = colour;
    c.stroke(seen);
    c.setLineDash([]);
  }

  drawCorners(c) {
    if (!this.corners.length) return;
    const path = new Path2D(), [across, down] = this.steps;
    this.corners.forEach(([x, y], place) => (place ? path.lineTo(x, y) : path.moveTo(x, y)));
    if (this.pointed) path.lineTo(...this.pointed);
    this.line(path, "#ffffff", 1.5, []);
    c.fillStyle = "#ffffff";
    for (const [x, y] of this.corners) c.fillRect(this.x + across * x - 3, this.y + down * y - 3, 6, 6);
  }

  drawCaption(c) {
    c.font = "12px system-ui, sans-serif";
    c.textAlign = "right";
    c.lineWidth = 3;
    c.strokeStyle = "rgba(0, 0, 0, 0.8)";
    c.fillStyle = "#dde2e6";
    c.strokeText(this.caption, this.across - 8, 18);
    c.fillText(this.caption, this.across - 8, 18);
  }

  drawPoint() {
    if (this.brush) {
      const ring = new Path2D(), { x, y, size, erases, down } = this.brush, [across, high] = this.stretch.map((extent) => Math.max(size / 2, 2 / this.scale) / extent);
      ring.ellipse(x, y, across, high, 0, 0, 2 * Math.PI);
      this.line(ring, "#ffffff", down ? 2.5 : 1.2, erases ? [3, 3] : []);
    }
    if (this.point) this.drawCross(this.point, 9, this.context, "#ffffff");
  }

  /** Two lines through a point, of so many screen pixels to each side; right across where none are said. */
  drawCross([x, y], arm = Infinity, c = this.context, colour = COLOURS.cross) {
    const path = new Path2D(), [across, down] = this.steps;
    const [left, right] = arm === Infinity ? [0, this.width] : [x - arm / across, x + arm / across];
    const [top, bottom] = arm === Infinity ? [0, this.height] : [y - arm / down, y + arm / down];
    path.moveTo(left, y); path.lineTo(right, y);
    path.moveTo(x, top); path.lineTo(x, bottom);
    this.line(path, colour, arm === Infinity ? 0.75 : 1.5, [], c);
  }
}
