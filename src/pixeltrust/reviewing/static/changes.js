// What a proposal changes: connected parts of a picture that can be taken or left one by one.
import { area } from "./mask.js";

function kindOf({ given, proposed }, place) {
  const [before, after] = [given[place], proposed[place]];
  return before === after ? "" : before === 0 ? "missing" : after === 0 ? "too much" : "other class";
}

/** The part of the change that holds a pixel, as spans; null where nothing is changed. */
export function changeAt(planes, x, y, width, height) {
  if (x < 0 || y < 0 || x >= width || y >= height || !planes.given || !planes.proposed) return null;
  const at = Math.floor(y) * width + Math.floor(x), kind = kindOf(planes, at);
  return kind ? area([at], width, height, (place) => kindOf(planes, place) === kind, true) : null;
}

/** The parts of the change that reach into the box of a region and are of its kind, as spans. */
export function changeOf(planes, region, width, height) {
  if (!planes.given || !planes.proposed) return null;
  const kinds = region.kind === "unsure" ? ["missing", "too much", "other class"] : [region.kind], seeds = [];
  for (let row = region.top; row < region.bottom; row++) {
    for (let column = region.left; column < region.right; column++) {
      const at = row * width + column;
      if (kinds.includes(kindOf(planes, at))) seeds.push(at);
    }
  }
  return seeds.length ? area(seeds, width, height, (place) => kinds.includes(kindOf(planes, place)), true) : null;
}

/** Whether most of what is painted on spans is as proposed, and how many pixels these are. */
export function isTaken(planes, painted, spans, width) {
  let taken = 0, pixels = 0;
  for (const [row, first, behind] of spans) {
    for (let at = row * width + first; at < row * width + behind; at++) taken += painted[at] === planes.proposed[at];
    pixels += behind - first;
  }
  return { taken: 2 * taken > pixels, pixels };
}
