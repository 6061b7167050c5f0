"use strict";
// Draws the figures of the page, in the colours of light or dark mode.
const figures = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

function draw() {
  const css = getComputedStyle(document.documentElement);
  const text = css.getPropertyValue("--text").trim(), line = css.getPropertyValue("--line").trim();
  for (const place of document.querySelectorAll("[data-figure]")) {
    const { data, layout } = figures[place.dataset.figure];
    const axis = (kept) => ({ ...kept, gridcolor: line, linecolor: line, tickcolor: line });
    const coloured = { ...layout, font: { ...layout.font, color: text }, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) };
    Plotly.react(place, data, coloured, config);
  }
}

draw();
dark.addEventListener("change", draw);
