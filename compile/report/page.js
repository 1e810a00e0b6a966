// Sorts the table by a click on a column header; without this script it is sorted by time.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const key = (row) => {
      const cell = row.cells[column];
      if (!head.classList.contains("number")) return cell.textContent;
      return "value" in cell.dataset ? Number(cell.dataset.value) : -Infinity;
    };
    const compare = (a, b) =>
      typeof a === "number" ? (a > b) - (b > a) : a.localeCompare(b, "en", { numeric: true });
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      // The first click sorts numbers from the largest, and text from A.
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((a, b) => sign * compare(key(a), key(b))));
    });
  });
}
for (const note of document.querySelectorAll(".scripted")) note.hidden = false;
