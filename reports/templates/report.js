"use strict";
// Rows are sorted inside their block, so that published rows never mix with ours. `#sort=TABLE:COLUMN[:ascending]`
// in the address sorts too; COLUMN counts from 0.
(() => {
  const tables = new Map([...document.querySelectorAll("table.figures")].map((table) => [table.dataset.name, table]));

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (cell === undefined) return null;
    if (cell.dataset.value === undefined) return (cell.dataset.text ?? cell.textContent).trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  const sort = (table, column, ascending) => {
    const sign = ascending ? 1 : -1;
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("heading"));
      const keyed = rows.map((row) => [keyOf(row, column), row]);
      keyed.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * compare(a, b);
      });
      body.append(...keyed.map(([, row]) => row));
    }
    const heads = [...table.tHead.rows].at(-1).cells;
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };

  const follow = () => {
    const [, name, column, order] = /^#sort=([\w-]+):(\d+)(?::(ascending|descending))?$/.exec(location.hash) ?? [];
    const table = tables.get(name);
    if (table === undefined || Number(column) >= [...table.tHead.rows].at(-1).cells.length) return;
    sort(table, Number(column), order === "ascending");
    table.scrollIntoView();
  };

  for (const [name, table] of tables) {
    [...[...table.tHead.rows].at(-1).cells].forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const ascending = now === null ? !head.classList.contains("number") : now === "descending";
        sort(table, column, ascending);
        history.replaceState(null, "", `#sort=${name}:${column}:${ascending ? "ascending" : "descending"}`);
      });
    });
  }
  addEventListener("hashchange", follow);
  follow();

  // A trial is described inside folded parts of the page; a link to it opens them, and closes the figure it stands in.
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    let part = target?.closest("details");
    if (!part) return;
    for (; part; part = part.parentElement.closest("details")) part.open = true;
    target.scrollIntoView();
    target.focus();
  };
  addEventListener("click", (event) => {
    const link = event.target.closest("[popover] a[href^='#']");
    if (link === null) return;
    link.closest("[popover]").hidePopover();
    if (link.hash === location.hash) reveal();
  });
  addEventListener("hashchange", reveal);
  reveal();

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });
})();
