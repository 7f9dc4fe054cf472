// A picture enlarges on click, with all pictures of its case beside it; a table marked `sorts` sorts by its headings and can be searched.
(() => {
  const box = document.createElement("dialog");
  box.className = "large";
  document.body.append(box);
  const close = () => box.close();
  box.addEventListener("click", close);
  for (const panels of document.querySelectorAll(".panels")) {
    for (const image of panels.querySelectorAll("img")) {
      const button = document.createElement("button");
      button.className = "enlarge";
      button.type = "button";
      button.title = "Enlarge";
      image.replaceWith(button);
      button.append(image);
      button.addEventListener("click", () => {
        const all = panels.cloneNode(true);
        for (const one of all.querySelectorAll(".enlarge")) one.replaceWith(one.firstChild);
        const title = document.createElement("h3");
        title.textContent = (panels.previousElementSibling || {}).textContent || "";
        const hint = document.createElement("p");
        hint.className = "aside";
        hint.textContent = "Click, or press Escape, to close.";
        box.replaceChildren(title, all, hint);
        box.showModal();
      });
    }
  }
  const number = (cell) => {
    const text = cell.firstChild ? cell.firstChild.textContent.replace(/[,%\u00a0 ]/g, "").replace("−", "-") : "";
    return text === "" || text === "–" ? NaN : Number(text);
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [row, number(row.cells[place]), row.cells[place].textContent.trim()]);
        const numeric = rows.some(([, value]) => !Number.isNaN(value));
        rows.sort(([, a, s], [, b, t]) => {
          if (!numeric) return down ? s.localeCompare(t) : t.localeCompare(s);
          if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
          return down ? a - b : b - a;
        });
        body.append(...rows.map(([row]) => row));
      });
    });
    if (body.rows.length > 8) {
      const search = document.createElement("input");
      search.type = "search";
      search.placeholder = "Search the table";
      search.setAttribute("aria-label", "Search the table");
      search.addEventListener("input", () => {
        const wanted = search.value.toLowerCase();
        for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
      });
      table.parentElement.before(search);
    }
  }
  for (const wide of document.querySelectorAll(".wide")) {
    const show = () => {
      wide.classList.toggle("more", wide.scrollLeft + wide.clientWidth < wide.scrollWidth - 1);
      if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
    };
    wide.addEventListener("scroll", show, {passive: true});
    addEventListener("resize", show);
    show();
  }
})();
