"use strict";
(() => {
  const page = JSON.parse(document.getElementById("figure-data").textContent);
  const canHover = window.matchMedia("(hover: hover)").matches; // elsewhere the bar would stay, and cover the legend
  const screenIsDark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displaylogo: false,
    responsive: true,
    typesetMath: false,
    modeBarButtonsToRemove: ["sendDataToCloud", "lasso2d", "select2d", "autoScale2d"],
  };

  // The figures hold light colours; on a dark screen each has one other colour that takes its place.
  function colored(text, dark) {
    if (!dark) return text;
    return Object.entries(page.dark).reduce((all, [from, to]) => all.replaceAll(from, to), text);
  }

  function fitted(figure, width) {
    if (width > 560) return figure;
    const layout = figure.layout;
    layout.font.size = 11;
    layout.margin = { ...layout.margin, l: 52, r: 8 };
    layout.dragmode = false; // a finger on a figure scrolls the page
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis/.test(name)) {
        layout[name].title.font.size = 11;
        if (name[0] === "x") layout[name].nticks = 6;
      }
    }
    return figure;
  }

  function draw(dark) {
    for (const [name, content] of Object.entries(page.figures)) {
      const place = document.getElementById(`figure-${name}`);
      const figure = fitted(JSON.parse(colored(JSON.stringify(content), dark)), place.clientWidth);
      Plotly.react(place, figure.data, figure.layout, { ...config, displayModeBar: canHover && place.clientWidth > 560 ? "hover" : false });
    }
    for (const element of document.querySelectorAll("[data-color]"))
      element.style.background = colored(element.dataset.color, dark);
    for (const element of document.querySelectorAll("[data-border]"))
      element.style.borderTopColor = colored(element.dataset.border, dark);
  }

  function keyOf(row, column) {
    const key = row.cells[column].dataset.key;
    if (key === undefined || key === "") return null;
    const value = Number(key);
    return Number.isNaN(value) ? key : value;
  }

  function compared(one, other) {
    if (typeof one === typeof other) return one < other ? -1 : one > other ? 1 : 0;
    return typeof one === "number" ? -1 : 1;
  }

  function sort(table, column, header) {
    const falling = header.getAttribute("aria-sort") === "ascending";
    const rows = Array.from(table.tBodies[0].rows).map((row) => [keyOf(row, column), row]);
    rows.sort(([one], [other]) => {
      if (one === null || other === null) return (one === null) - (other === null); // what is missing stays last
      return falling ? compared(other, one) : compared(one, other);
    });
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", falling ? "descending" : "ascending");
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      button.addEventListener("click", () => sort(table, column, header));
      header.replaceChildren(button);
    });
  }

  draw(screenIsDark.matches);
  screenIsDark.addEventListener("change", () => draw(screenIsDark.matches));
  window.addEventListener("beforeprint", () => draw(false));
  window.addEventListener("afterprint", () => draw(screenIsDark.matches));
})();
