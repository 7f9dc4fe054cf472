import "./who.js";

document.getElementById("kind").addEventListener("change", (event) => event.target.form.submit());

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, button, a") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter") document.querySelector(".begin")?.click();
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector("input[name=find]").focus();
  }
});

document.body.dataset.ready = "true";
