// Slices of a volume: fetched when they are looked at, a few kept; and where their pixels are in the volume.
const MOST = 160; // slices that are kept

async function bytes(path, values) {
  const answer = await fetch(`${path}?${new URLSearchParams(values)}`);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return { content: await answer.arrayBuffer(), headers: answer.headers };
}

class Slice {
  constructor(content, scale, pixels, judged, fault) {
    this.fault = fault; // why a mask is not there
    this.numbers = new Uint16Array(content, 0, pixels);
    this.scale = scale;
    const part = (place) => new Uint8Array(content, (2 + place) * pixels, pixels);
    this.given = part(0);
    if (judged) [this.proposed, this.confidence] = [part(1), part(2)];
  }

  value(place) { return Number((this.scale.offset + this.scale.slope * this.numbers[place]).toPrecision(5)); }

  /** A picture in which the values of a range are grey from black to white. */
  picture({ width, height }, [low, high]) {
    const canvas = document.createElement("canvas"), picture = new ImageData(width, height), { offset, slope } = this.scale;
    canvas.width = width;
    canvas.height = height;
    const factor = (255 * slope) / (high - low), base = (255 * (offset - low)) / (high - low);
    const words = new Uint32Array(picture.data.buffer);
    for (let place = 0; place < words.length; place++) {
      const grey = Math.min(Math.max(base + factor * this.numbers[place], 0), 255) & 255;
      words[place] = 0xff000000 | (grey * 0x10101);
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
    return canvas;
  }
}

export class Slices {
  /** `start()` names the mask that painting begins on, `who()` the person. */
  constructor(info, start, who) {
    Object.assign(this, { info, start, who });
    this.kept = new Map();
    this.version = 0; // of what is painted
  }

  /** Have a channel of the volume decoded. */
  async begin(channel = 0) {
    const answer = await fetch(`/volume/scale?${new URLSearchParams({ id: this.info.id, channel })}`), content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    this.scale = content;
    this.channel = channel;
    this.kept.clear();
    this.first = Math.min(content.offset, content.low);
    this.last = Math.max(content.high, content.low + content.slope);
  }

  get({ axis, width, height }, at) {
    const key = `${axis} ${at}`, known = this.kept.get(key);
    this.kept.delete(key);
    const slice = known ?? bytes("/volume/slice", { id: this.info.id, axis, at, channel: this.channel })
      .then(({ content, headers }) => new Slice(content, this.scale, width * height, this.info.judged, decodeURIComponent(headers.get("X-Fault") ?? "")));
    slice.catch(() => this.kept.delete(key));
    this.kept.set(key, slice);
    if (this.kept.size > MOST) this.kept.delete(this.kept.keys().next().value);
    return slice;
  }

  async draft({ axis }, at) {
    const values = { id: this.info.id, who: this.who(), start: this.start(), axis, at };
    const { content, headers } = await bytes("/volume/draft", values);
    return { labels: new Uint8Array(content), draft: JSON.parse(headers.get("X-Draft")) };
  }
}

export class Voxels {
  constructor(planes, shape) {
    this.shape = shape;
    this.at = shape.map((extent) => Math.floor(extent / 2)); // the cross
  }

  along({ axis, flip }, place) { return flip ? this.shape[axis] - 1 - place : place; }

  /** Where a voxel is on a plane: the middle of its pixel, [x, y]. */
  on({ rows, columns }, at = this.at) {
    return [this.along(columns, at[columns.axis]) + 0.5, this.along(rows, at[rows.axis]) + 0.5];
  }

  /** The voxel at a place of a plane, as [d, h, w]; null beyond it. */
  of({ axis, rows, columns, width, height }, x, y) {
    const [column, row] = [Math.floor(x), Math.floor(y)], at = [...this.at];
    if (column < 0 || row < 0 || column >= width || row >= height) return null;
    at[columns.axis] = this.along(columns, column);
    at[rows.axis] = this.along(rows, row);
    return at;
  }

  /** Put the cross to a place of a plane. */
  move(plane, x, y) {
    const inside = (value, extent) => Math.min(Math.max(value, 0), extent - 1);
    this.at = this.of(plane, inside(x, plane.width), inside(y, plane.height));
  }

  /** A box of the volume, [first, behind) along each axis, on a plane. */
  box({ rows, columns }, box) {
    const seen = (line) => {
      const [first, behind] = box[line.axis];
      return line.flip ? [this.shape[line.axis] - behind, this.shape[line.axis] - first] : [first, behind];
    };
    const [left, right] = seen(columns), [top, bottom] = seen(rows);
    return { top, left, bottom, right };
  }
}
