"use strict";
(() => {
  function filled(value, style) {
    if (typeof value === "string") {
      return value.startsWith("var:") ? style.getPropertyValue("--" + value.slice(4)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => filled(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, filled(item, style)]));
    }
    return value;
  }

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
        const order = (a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          const sign = down ? -1 : 1;
          return sign * (isNaN(x) || isNaN(y) ? String(x).localeCompare(y) : Number(x) - Number(y));
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
      });
    });
  }

  // One device's part of the page: its panels, with a chart, tables and a filter of their own.
  function device(panels) {
    const all = (selector) => panels.flatMap((panel) => [...panel.querySelectorAll(selector)]);
    const chart = all(".front-chart")[0];
    const source = JSON.parse(all(".front-data")[0].textContent);

    function draw() {
      if (!chart || !source || panels[0].hidden) return;
      const narrow = window.matchMedia("(max-width: 900px)").matches;
      const family = getComputedStyle(document.body).fontFamily;
      const grid = {
        gridcolor: "var:line", linecolor: "var:line", zeroline: false, ticks: "outside", tickcolor: "var:line",
        automargin: true, fixedrange: narrow,
      };
      const figure = filled({
        data: source.data,
        layout: {
          ...source.layout,
          xaxis: { ...grid, ...source.layout.xaxis }, yaxis: { ...grid, ...source.layout.yaxis },
          paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
          font: { family, size: 12.5, color: "var:soft" },
          margin: { l: 56, r: 12, t: 30, b: 48 }, hovermode: "closest",
          hoverlabel: { bgcolor: "var:card", bordercolor: "var:line", font: { family, size: 12, color: "var:ink" }, align: "left" },
          modebar: { bgcolor: "rgba(0,0,0,0)", color: "var:muted", activecolor: "var:ink" },
          legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: "var:soft" } },
        },
      }, getComputedStyle(document.documentElement));
      const first = !chart.on;
      Plotly.react(chart, figure.data, figure.layout, {
        responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
        modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
        toImageButtonOptions: { filename: "vlmfront-front", scale: 2 },
      });
      if (first) chart.on("plotly_click", (event) => select(event.points[0].customdata));
    }

    function select(number) {
      for (const panel of all(".detail [data-detail]")) panel.hidden = panel.dataset.detail !== String(number);
      for (const row of all("tr[data-trial]")) row.classList.toggle("on", row.dataset.trial === String(number));
      if (!chart || !chart.data) return;
      for (const [curve, trace] of chart.data.entries()) {
        const point = (trace.customdata || []).indexOf(Number(number));
        if (point >= 0) Plotly.Fx.hover(chart, [{ curveNumber: curve, pointNumber: point }]);
      }
    }

    function filter() {
      const words = all(".filter-text")[0].value.toLowerCase().split(/\s+/).filter(Boolean);
      const state = all(".filter-state")[0].value;
      for (const row of all(".all-trials tbody tr")) {
        const text = row.textContent.toLowerCase();
        row.hidden = !(words.every((word) => text.includes(word)) && (!state || row.dataset.state === state));
      }
    }

    for (const row of all("tr[data-trial]")) {
      row.addEventListener("click", () => select(row.dataset.trial));
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") select(row.dataset.trial); });
    }
    for (const field of all(".filter-text, .filter-state")) field.addEventListener("input", filter);
    draw();
    return {
      draw,
      show(shown) {
        for (const panel of panels) panel.hidden = !shown;
        draw();
      },
    };
  }

  const devices = new Map();
  for (const panel of document.querySelectorAll(".device")) {
    const name = panel.dataset.device;
    devices.set(name, [...(devices.get(name) || []), panel]);
  }
  for (const [name, panels] of devices) devices.set(name, device(panels));

  const tabs = [...document.querySelectorAll("[data-tab]")];
  function choose(tab) {
    for (const other of tabs) other.setAttribute("aria-selected", String(other === tab));
    for (const [name, one] of devices) one.show(name === tab.dataset.tab);
  }
  for (const tab of tabs) tab.addEventListener("click", () => choose(tab));
  document.querySelectorAll("table.sortable").forEach(sortable);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const one of devices.values()) one.draw();
  });
})();
