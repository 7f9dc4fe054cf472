// A mask that is painted on, and what undoes it.
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

  /** Paint spans with a label, or as they are in another mask; returns the box they touch as [top, left, bottom, right], or null. */
  fill(spans, source) {
    let top = this.height, left = this.width, bottom = 0, right = 0;
    for (const [row, start, end] of spans) {
      const first = Math.max(0, start), behind = Math.min(this.width, end);
      if (row < 0 || row >= this.height || behind <= first) continue;
      const from = row * this.width + first, to = row * this.width + behind;
      if (typeof source === "number") this.mask.fill(source, from, to); else this.mask.set(source.subarray(from, to), from);
      top = Math.min(top, row); bottom = Math.max(bottom, row + 1);
      left = Math.min(left, first); right = Math.max(right, behind);
    }
    if (bottom <= top) return null;
    const box = this.box;
    this.box = [Math.min(box[0], top), Math.min(box[1], left), Math.max(box[2], bottom), Math.max(box[3], right)];
    return [top, left, bottom, right];
  }

  /** End a stroke; returns it, or null where it changed nothing: then there is nothing to undo. */
  end() {
    const [top, left, bottom, right] = this.box;
    const before = this.before;
    this.before = null;
    if (bottom <= top) return null;
    const was = this.cut(before, this.box), is = this.cut(this.mask, this.box);
    if (was.every((label, place) => label === is[place])) return null;
    const stroke = { box: [top, left, bottom, right], was, is };
    this.done.push(stroke);
    this.undone = [];
    return stroke;
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
