// Masks as bytes, one label per pixel, row by row. Everything here is exact: a pixel is painted or it is not.

/** The middle of a brush about a place: a corner of pixels if it is an even number of them wide, else the centre of one. */
export function middle(at, diameter, extent) {
  return Math.round(diameter / extent) % 2 === 0 && diameter >= extent ? Math.round(at) : Math.floor(at) + 0.5;
}

/**
 * The pixels of a disc of this diameter about a point, as spans [row, first, behind]; centres within half the diameter count.
 * `stretch` says how wide and high a pixel is, in units of the diameter.
 */
export function disc(x, y, diameter, [across, down] = [1, 1]) {
  const cx = middle(x, diameter, across), cy = middle(y, diameter, down), spans = [];
  const radius = diameter / 2, high = Math.max(radius / down, 0.5);
  for (let row = Math.floor(cy - high); row < cy + high; row++) {
    const dy = (row + 0.5 - cy) * down, rest = radius * radius - dy * dy;
    if (rest < 0) continue;
    const half = Math.sqrt(rest) / across;
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

/** The pixels for which `same(place)` holds and that are connected with one of the seeds (places; by corners too), as spans. */
export function area(seeds, width, height, same, corners = false) {
  const seen = new Uint8Array(width * height), stack = [];
  const visit = (place) => {
    if (seen[place] || !same(place)) return;
    seen[place] = 1;
    stack.push(place);
  };
  seeds.forEach(visit);
  while (stack.length) {
    const place = stack.pop(), column = place % width, row = (place - column) / width;
    for (let down = -1; down <= 1; down++) {
      if (row + down < 0 || row + down >= height) continue;
      for (let right = -1; right <= 1; right++) {
        if (column + right < 0 || column + right >= width || (down && right && !corners)) continue;
        visit(place + down * width + right);
      }
    }
  }
  return spansOf(seen, width, height);
}

/** Where a mask of 0 and 1 is 1, as spans. */
function spansOf(mask, width, height) {
  const spans = [];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      if (!mask[row * width + column]) continue;
      const first = column;
      while (column < width && mask[row * width + column]) column++;
      spans.push([row, first, column]);
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
