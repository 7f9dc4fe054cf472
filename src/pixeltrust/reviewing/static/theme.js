// Dark or light: as the system has it, until a person switches; the browser then keeps that.
const KEY = "pixeltrust.theme", root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: light)");
const read = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
const isLight = () => (root.dataset.theme ?? (system.matches ? "light" : "dark")) === "light";

if (read()) root.dataset.theme = read();
document.getElementById("theme")?.addEventListener("click", () => {
  root.dataset.theme = isLight() ? "dark" : "light";
  try { localStorage.setItem(KEY, root.dataset.theme); } catch { /* a browser that keeps nothing */ }
});

// Times are the server's, in UTC; people read their own.
for (const time of document.querySelectorAll("time")) {
  time.title = `${time.textContent} UTC`;
  time.textContent = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" });
}
