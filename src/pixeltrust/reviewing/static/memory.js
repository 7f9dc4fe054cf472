// Values that a browser remembers, as JSON: `memory` in a tab until it is closed, `settings` for good. One without storage forgets them.
function read(storage, name) { try { return JSON.parse(storage().getItem(name)); } catch { return null; } }
function write(storage, name, value) { try { storage().setItem(name, JSON.stringify(value)); } catch { /* not stored */ } }
const ofTab = () => sessionStorage, forGood = () => localStorage;

export const memory = {
  get(name, otherwise) { return read(ofTab, name) ?? otherwise; },
  set(name, value) { write(ofTab, name, value); },
  take(name, otherwise) {
    const value = this.get(name, otherwise);
    this.set(name, null);
    return value;
  },
};

const KEY = "pixeltrust.review";
/** How a person works, from case to case. */
export const settings = {
  tool: "hand", size: 12, label: 1, ball: false,
  given: true, proposed: true, doubt: true, painted: true, strength: 60,
  brightness: 100, contrast: 100, beside: false,
  ...read(forGood, KEY),
};
export function keep(name, value) {
  settings[name] = value;
  write(forGood, KEY, settings);
}

/** The name under which a tab remembers its decisions on this audit: [{id, number}], the last one last. */
export function decisionsKey(audit) { return `made ${audit}`; }
