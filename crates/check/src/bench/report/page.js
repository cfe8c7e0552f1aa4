// Sorts a table by a column, and keeps the rows that have a word. The page says all it has to say without it.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], rows = Array.from(body.rows), heads = Array.from(table.tHead.rows[0].cells);
    const key = (row, column) => {
      const cell = row.cells[column];
      return "order" in cell.dataset ? Number(cell.dataset.order) : cell.classList.contains("figure") ? NaN : cell.textContent;
    };
    const compare = (a, b, sign) => {
      if (typeof a === "string") return sign * a.localeCompare(b, "en", { numeric: true });
      // What has no number stands last either way.
      return isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : sign * (a - b);
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const sign = head.ariaSort === "ascending" ? -1 : 1;
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
        const keyed = rows.map(row => [key(row, column), row]);
        body.append(...keyed.sort((a, b) => compare(a[0], b[0], sign)).map(pair => pair[1]));
      });
    });
    const filter = document.createElement("input");
    filter.className = "filter";
    filter.type = "search";
    filter.placeholder = filter.ariaLabel = "only rows with these words";
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/);
      for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    });
    table.parentElement.before(filter);
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(details => { details.open = true; }));
});
