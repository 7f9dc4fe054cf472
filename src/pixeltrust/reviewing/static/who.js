// The name that decisions carry: the login name until a person gives another one, which this browser then keeps.
const field = document.getElementById("who");
const KEY = `pixeltrust.who ${field.dataset.login}`; // under another --who it begins anew

function kept() {
  try { return localStorage.getItem(KEY); } catch { return null; }
}

export function who() {
  return field.value.trim() || field.dataset.login;
}

field.value = kept() || field.dataset.login;
field.addEventListener("change", () => {
  field.value = who();
  try { localStorage.setItem(KEY, field.value); } catch { /* a browser that keeps nothing */ }
});
