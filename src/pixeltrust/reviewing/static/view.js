// The image with its layers, and the part of it that is seen: zoom, pan, fingers. Knows nothing of decisions.
import { outlines } from "./mask.js";

const LARGEST = 64, MARGIN = 24;
const BROWN = [[208, 127], [131, 59], [44, 8]]; // red, green and blue of a doubt of ½ and of 1
export const COLOURS = { given: "#f2b34c", proposed: "#58c8f2", painted: "#ff8fd0" };
export const TINTS = [[255, 111, 190], [122, 220, 130], [178, 150, 255], [255, 214, 90], [110, 225, 225], [255, 150, 95], [200, 200, 200]];

export class View {
  constructor(canvas, painted, width, height, ignored) {
    Object.assign(this, { canvas, painted, width, height, ignored });
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
    this.corners = [];
    this.point = null; // of the keyboard, [x, y] in pixels of the mask
    this.brush = null; // {x, y, size, erases, down}: drawn as a ring
    this.fitted = true;
    new ResizeObserver(() => this.resized()).observe(canvas);
    this.resized();
  }

  resized() {
    const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    this.across = box.width;
    this.down = box.height;
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    if (this.fitted) this.fit(); else this.draw();
  }

  fit() {
    this.frame(0, 0, this.height, this.width, MARGIN);
    this.fitted = true;
  }

  /** Show a box [top, left, bottom, right) in the middle. */
  frame(top, left, bottom, right, margin) {
    const wide = Math.max(1, this.across - 2 * margin), high = Math.max(1, this.down - 2 * margin);
    this.scale = Math.min(wide / (right - left), high / (bottom - top), LARGEST);
    this.x = this.across / 2 - (this.scale * (left + right)) / 2;
    this.y = this.down / 2 - (this.scale * (top + bottom)) / 2;
    this.fitted = false;
    this.draw();
  }

  region({ top, left, bottom, right }) {
    const margin = Math.max(bottom - top, right - left, 16) * 0.35;
    this.frame(top - margin, left - margin, bottom + margin, right + margin, 0);
  }

  zoom(factor, x = this.across / 2, y = this.down / 2) {
    const least = 0.5 * Math.min(this.across / this.width, this.down / this.height);
    const scale = Math.min(Math.max(this.scale * factor, Math.min(least, 1)), LARGEST);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    const some = 40; // this much of the image stays visible
    this.x = Math.min(Math.max(this.x + dx, some - this.scale * this.width), this.across - some);
    this.y = Math.min(Math.max(this.y + dy, some - this.scale * this.height), this.down - some);
    this.fitted = false;
    this.draw();
  }

  /** A place on the screen, in pixels of the mask. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left - this.x) / this.scale, (event.clientY - box.top - this.y) / this.scale];
  }

  reveal(x, y) {
    const px = this.x + x * this.scale, py = this.y + y * this.scale, rim = 32;
    const dx = px < rim ? rim - px : Math.min(0, this.across - rim - px), dy = py < rim ? rim - py : Math.min(0, this.down - rim - py);
    if (dx || dy) this.pan(dx, dy);
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
        picture.data[place + 3] = 80;
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
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    c.drawImage(this.ground(ratio), 0, 0);
    c.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    if (this.shown.painted) {
      c.imageSmoothingEnabled = false;
      c.drawImage(this.painted, 0, 0);
    }
    const unit = 1 / this.scale;
    if (this.paths.given && this.shown.given) this.line(this.paths.given, COLOURS.given, 2.4 * unit, []);
    if (this.paths.proposed && this.shown.proposed) this.line(this.paths.proposed, COLOURS.proposed, 2.4 * unit, [9 * unit, 7 * unit]);
    if (this.paths.painted && this.shown.painted) this.line(this.paths.painted, COLOURS.painted, 1.8 * unit, [1.5 * unit, 4 * unit]);
    this.drawCorners(c, unit);
    this.drawPoint(c, unit);
  }

  /** The image under its doubt, as it is seen now; drawn again only when that changes, because strokes have to be quick. */
  ground(ratio) {
    const { canvas, back } = this, doubt = this.shown.doubt && this.doubt ? this.strength : 0;
    const key = [canvas.width, canvas.height, this.scale, this.x, this.y, doubt, Boolean(this.image)].join();
    if (key === this.drawn) return back;
    this.drawn = key;
    back.width = canvas.width;
    back.height = canvas.height;
    const c = back.getContext("2d");
    c.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    c.imageSmoothingEnabled = this.scale < 4;
    c.imageSmoothingQuality = "medium";
    if (this.image) c.drawImage(this.image, 0, 0, this.width, this.height);
    if (doubt) {
      c.globalAlpha = doubt;
      c.drawImage(this.doubt, 0, 0);
    }
    return back;
  }

  line(path, colour, width, dash) {
    const c = this.context;
    c.lineJoin = "round";
    c.setLineDash(dash);
    c.lineWidth = width * 2;
    c.strokeStyle = "rgba(0, 0, 0, 0.5)";
    c.stroke(path);
    c.lineWidth = width;
    c.strokeStyle = colour;
    c.stroke(path);
    c.setLineDash([]);
  }

  drawCorners(c, unit) {
    if (!this.corners.length) return;
    const path = new Path2D();
    this.corners.forEach(([x, y], place) => (place ? path.lineTo(x, y) : path.moveTo(x, y)));
    if (this.pointed) path.lineTo(...this.pointed);
    this.line(path, "#ffffff", 1.5 * unit, []);
    c.fillStyle = "#ffffff";
    for (const [x, y] of this.corners) c.fillRect(x - 3 * unit, y - 3 * unit, 6 * unit, 6 * unit);
  }

  drawPoint(c, unit) {
    if (this.brush) {
      const ring = new Path2D();
      ring.arc(this.brush.x, this.brush.y, Math.max(this.brush.size / 2, 2 * unit), 0, 2 * Math.PI);
      this.line(ring, "#ffffff", (this.brush.down ? 2.5 : 1.2) * unit, this.brush.erases ? [3 * unit, 3 * unit] : []);
    }
    if (this.point) {
      const [x, y] = this.point, arm = 9 * unit, cross = new Path2D();
      cross.moveTo(x - arm, y); cross.lineTo(x + arm, y);
      cross.moveTo(x, y - arm); cross.lineTo(x, y + arm);
      this.line(cross, "#ffffff", 1.5 * unit, []);
    }
  }
}
