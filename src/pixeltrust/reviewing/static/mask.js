// Masks as bytes, one label per pixel, row by row. Everything here is exact: a pixel is painted or it is not.

/** The pixels of a disc of this diameter about a point, as spans [row, first, behind]; centres within half the diameter count. */
export function disc(x, y, diameter) {
  const odd = diameter % 2 === 1;
  const cx = odd ? Math.floor(x) + 0.5 : Math.round(x), cy = odd ? Math.floor(y) + 0.5 : Math.round(y);
  const radius = diameter / 2, spans = [];
  for (let row = Math.floor(cy - radius); row < cy + radius; row++) {
    const dy = row + 0.5 - cy, rest = radius * radius - dy * dy;
    if (rest < 0) continue;
    const half = Math.sqrt(rest);
    const first = Math.ceil(cx - half - 0.5), behind = Math.floor(cx + half - 0.5) + 1;
    if (behind > first) spans.push([row, first, behind]);
  }
  return spans;
}

/** The pixels whose centres lie in a polygon (even-odd) with corners [x, y], as spans [row, first, behind]. */
export function polygon(corners, height) {
  const spans = [];
  const rows = corners.map((corner) => corner[1]);
  const top = Math.max(0, Math.floor(Math.min(...rows))), bottom = Math.min(height, Math.ceil(Math.max(...rows)));
  for (let row = top; row < bottom; row++) {
    const y = row + 0.5, crossings = [];
    for (let i = 0; i < corners.length; i++) {
      const [x0, y0] = corners[i], [x1, y1] = corners[(i + 1) % corners.length];
      if (y0 <= y !== y1 <= y) crossings.push(x0 + ((y - y0) / (y1 - y0)) * (x1 - x0));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const first = Math.ceil(crossings[i] - 0.5), behind = Math.ceil(crossings[i + 1] - 0.5);
      if (behind > first) spans.push([row, first, behind]);
    }
  }
  return spans;
}

/** A mask for the server: a little-endian uint32 per run, the label in the low 8 bits, the length in the others. */
export function runs(mask) {
  const most = 2 ** 24 - 1, lengths = [];
  for (let start = 0; start < mask.length; ) {
    let end = start + 1;
    while (end < mask.length && mask[end] === mask[start] && end - start < most) end++;
    lengths.push((end - start) * 256 + mask[start]);
    start = end;
  }
  const bytes = new DataView(new ArrayBuffer(4 * lengths.length));
  lengths.forEach((run, place) => bytes.setUint32(4 * place, run, true));
  return bytes.buffer;
}

/** The closed outlines along the edges of pixels, one path for all labels but 0 and `ignored`. */
export function outlines(mask, width, height, ignored) {
  const path = new Path2D();
  const present = new Uint8Array(256);
  for (let at = 0; at < mask.length; at++) present[mask[at]] = 1;
  for (let label = 1; label < 256; label++) if (present[label] && label !== ignored) trace(path, mask, width, height, label);
  return path;
}

function trace(path, mask, width, height, label) {
  const across = width + 1, next = new Map();
  const edge = (from, to) => {
    const known = next.get(from);
    if (known === undefined) next.set(from, [to]); else known.push(to);
  };
  for (let row = 0, at = 0; row < height; row++) {
    for (let column = 0; column < width; column++, at++) {
      if (mask[at] !== label) continue;
      const corner = row * across + column;
      if (row === 0 || mask[at - width] !== label) edge(corner, corner + 1);
      if (column === width - 1 || mask[at + 1] !== label) edge(corner + 1, corner + 1 + across);
      if (row === height - 1 || mask[at + width] !== label) edge(corner + 1 + across, corner + across);
      if (column === 0 || mask[at - 1] !== label) edge(corner + across, corner);
    }
  }
  for (const start of next.keys()) {
    while (next.get(start).length) {
      let at = start, step = 0;
      path.moveTo(at % across, Math.floor(at / across));
      do {
        const to = next.get(at).pop();
        if (to - at !== step && at !== start) path.lineTo(at % across, Math.floor(at / across));
        step = to - at;
        at = to;
      } while (at !== start);
      path.closePath();
    }
  }
}

/** A mask that is painted on, and what undoes it. */
export class Painting {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.clear(null);
  }

  clear(mask) {
    this.mask = mask && mask.slice();
    this.done = [];
    this.undone = [];
    this.before = null;
  }

  /** Whether anything is painted, an unfinished stroke included. */
  get changed() { return this.done.length > 0 || (this.before !== null && this.box[2] > this.box[0]); }

  begin() {
    this.before = this.mask.slice();
    this.box = [this.height, this.width, 0, 0]; // top, left, bottom, right
  }

  /** Paint spans; returns the box they touch as [top, left, bottom, right], or null. */
  fill(spans, label) {
    let top = this.height, left = this.width, bottom = 0, right = 0;
    for (const [row, from, to] of spans) {
      const first = Math.max(0, from), behind = Math.min(this.width, to);
      if (row < 0 || row >= this.height || behind <= first) continue;
      this.mask.fill(label, row * this.width + first, row * this.width + behind);
      top = Math.min(top, row); bottom = Math.max(bottom, row + 1);
      left = Math.min(left, first); right = Math.max(right, behind);
    }
    if (bottom <= top) return null;
    const box = this.box;
    this.box = [Math.min(box[0], top), Math.min(box[1], left), Math.max(box[2], bottom), Math.max(box[3], right)];
    return [top, left, bottom, right];
  }

  /** End a stroke; one that changed nothing cannot be undone. */
  end() {
    const [top, left, bottom, right] = this.box;
    const before = this.before;
    this.before = null;
    if (bottom <= top) return;
    const was = this.cut(before, this.box), is = this.cut(this.mask, this.box);
    if (was.every((label, place) => label === is[place])) return;
    this.done.push({ box: [top, left, bottom, right], was, is });
    this.undone = [];
  }

  /** Discard the stroke. */
  cancel() {
    this.mask = this.before;
    this.before = null;
  }

  undo() { return this.turn(this.done, this.undone, "was"); }
  redo() { return this.turn(this.undone, this.done, "is"); }

  turn(from, to, which) {
    const stroke = from.pop();
    if (!stroke) return null;
    const [top, left, bottom, right] = stroke.box, across = right - left;
    for (let row = top; row < bottom; row++) {
      this.mask.set(stroke[which].subarray((row - top) * across, (row - top + 1) * across), row * this.width + left);
    }
    to.push(stroke);
    return stroke.box;
  }

  cut(mask, [top, left, bottom, right]) {
    const across = right - left, part = new Uint8Array(across * (bottom - top));
    for (let row = top; row < bottom; row++) part.set(mask.subarray(row * this.width + left, row * this.width + right), (row - top) * across);
    return part;
  }
}
