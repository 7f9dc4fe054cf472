// Single keys as commands.
const OF_FIELDS = ["arrowleft", "arrowright", "arrowup", "arrowdown", "pagedown", "pageup"];
const OF_BUTTONS = ["enter", " "];
const ONCE = ["a", "p", "m", "r", "s", "u", "n", "t", "d"]; // held down, they act once

/**
 * Listen to keys.
 * @param keys what each of them does, with the event
 * @param held what those do that act while they are held: with true, and with false once they are let go
 * @param turn undoes or does again a stroke: "undo" or "redo"
 */
export function listen(keys, held, turn) {
  const down = new Set();
  const release = (key) => { if (down.delete(key)) held[key](false); };
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase(), target = event.target;
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    if (target.matches("select, input:not([type=checkbox], [type=radio], [type=range])")) return;
    if (event.ctrlKey || event.metaKey) {
      const which = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : "";
      if (!which) return;
      event.preventDefault();
      turn(which);
      return;
    }
    if (event.altKey || !document.getElementById("single-keys").checked) return;
    if (target.matches("input") && OF_FIELDS.includes(key)) return;
    if (target.matches("input, button, a, summary") && OF_BUTTONS.includes(key)) return;
    if (event.repeat && ONCE.includes(key)) return;
    if (held[key]) {
      down.add(key);
      held[key](true);
    } else if (keys[key]) {
      event.preventDefault();
      keys[key](event);
    }
  });
  document.addEventListener("keyup", (event) => release(event.key.toLowerCase()));
  window.addEventListener("blur", () => [...down].forEach(release));
}
