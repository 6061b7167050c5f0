"use strict";
// The page holds statistics of every head, and the weights of one structure. `state` says what is shown; `draw` shows it.
(() => {
  const view = JSON.parse(document.getElementById("attention-data").textContent);
  const state = { chosen: 0, atom: -1 };
  const get = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const element = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text }, more);
  const structure = view.structure;
  const n = structure.symbols.length;
  const called = (k) => `Layer ${view.heads[k].layer}, head ${view.heads[k].head}`;
  const atomName = (k) => `${structure.symbols[k]} ${k}`;
  const mapOf = (k) => structure.maps[view.heads[k].layer - 1][view.heads[k].head - 1];
  const faint = (hex, alpha) => `rgba(${[1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)).join(",")},${alpha})`;

  // --- figures

  const config = { responsive: true, displaylogo: false, displayModeBar: isTouch ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  function layout(more) {
    const axis = { gridcolor: colour("grid"), linecolor: colour("line"), tickcolor: colour("line"), zeroline: false, automargin: true, ticks: "outside", ticklen: 4 };
    const { xaxis = {}, yaxis = {}, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("text"), size: 12, family: getComputedStyle(document.body).fontFamily },
      margin: { l: 56, r: 14, t: 10, b: 46 }, hovermode: "closest", dragmode: isTouch ? false : "zoom", showlegend: false,
      hoverlabel: { align: "left", bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("text") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft") },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }
  const axes = { xaxis: { title: { text: "distance [Å]" }, rangemode: "tozero" }, yaxis: { title: { text: "weight, 1 = even" }, rangemode: "tozero" } };
  const even = () => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { color: colour("soft"), width: 1, dash: "dot" } });

  function drawHead() {
    const head = view.heads[state.chosen];
    const points = view.points[head.layer - 1];
    get("says-head").textContent = called(state.chosen);
    Plotly.react(get("one-head"), [
      { type: "scatter", mode: "markers", x: points[0], y: points[head.head], marker: { color: faint(head.colour, 0.35), size: 4 }, hovertemplate: "%{y:.3g} at %{x:.3g} Å<extra></extra>" },
      { type: "scatter", mode: "lines", x: [...head.x, ...[...head.x].reverse()], y: [...head.high, ...[...head.low].reverse()], fill: "toself", fillcolor: faint(head.colour, 0.3), line: { width: 0 }, hoverinfo: "skip" },
      { type: "scatter", mode: "lines+markers", x: head.x, y: head.y, line: { color: head.colour, width: 2 }, marker: { size: 5 }, customdata: head.x.map((_, k) => `${head.y[k]} [${head.low[k]}, ${head.high[k]}]`), hovertemplate: "%{customdata} at %{x:.3g} Å<extra></extra>" },
    ], layout({ ...axes, shapes: [even()] }), config);
  }

  function drawHeads() {
    const plot = get("all-heads");
    const traces = view.heads.map((head, k) => ({ type: "scatter", mode: "lines", name: called(k), x: head.x, y: head.y, opacity: k === state.chosen ? 1 : 0.55,
      line: { color: head.colour, dash: head.dash, width: k === state.chosen ? 3.5 : 1.4 }, hovertemplate: "%{y:.3g} at %{x:.3g} Å<extra>%{fullData.name}</extra>" }));
    Plotly.react(plot, traces, layout({ ...axes, shapes: [even()] }), config);
    if (!plot.dataset.listens) {
      plot.dataset.listens = "yes";
      plot.on("plotly_click", ({ points: [point] }) => choose(point.curveNumber));
    }
  }

  function startMaps() {
    view.heads.forEach((_, k) => {
      const figure = document.createElement("figure");
      const title = document.createElement("h3");
      title.append(element("button", called(k), { type: "button", onclick: () => choose(k) }));
      const plot = element("div", "", { className: "plot", id: `map-${k}` });
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", `Weights of ${called(k)} between the ${n} atoms`);
      figure.append(title, plot);
      get("all-maps").append(figure);
    });
  }

  function drawMaps() {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const names = structure.symbols.map((_, k) => atomName(k));
    view.heads.forEach((head, k) => {
      const axis = { showticklabels: false, ticks: "", showgrid: false, constrain: "domain" };
      Plotly.react(get(`map-${k}`), [{ type: "heatmap", z: mapOf(k), x: names, y: names, zmin: 0, colorscale: [[0, dark ? "#171c22" : "#f3f5f8"], [1, dark ? "#7cc0ee" : "#0a4f80"]],
        colorbar: { thickness: 8, outlinewidth: 0, nticks: 4, tickfont: { color: colour("text"), size: 10 } }, hovertemplate: "%{y} to %{x}: %{z:.3g}<extra></extra>" }],
      layout({ margin: { l: 6, r: 6, t: 6, b: 6 }, xaxis: { ...axis, type: "category" }, yaxis: { ...axis, type: "category", autorange: "reversed", scaleanchor: "x" } }), { ...config, displayModeBar: false });
      get(`map-${k}`).parentElement.setAttribute("aria-current", String(k === state.chosen));
    });
  }

  function fillMap() {
    const table = get("map-table");
    get("map-caption").textContent = `${called(state.chosen)}: weight of the atom of the row on the atom of the column`;
    const head = document.createElement("tr");
    head.append(...["", ...structure.symbols.map((_, k) => atomName(k))].map((text) => element("th", text, { scope: "col" })));
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...mapOf(state.chosen).map((row, k) => {
      const line = document.createElement("tr");
      line.append(element("th", atomName(k), { scope: "row" }), ...row.map((w) => element("td", w.toFixed(3), { className: "num" })));
      return line;
    }));
  }

  // --- graphs

  const scenes = {};
  let isAimed = false; // whether the reader's view is kept
  const vector = (flat, k) => ({ x: flat[3 * k], y: flat[3 * k + 1], z: flat[3 * k + 2] });
  const along = (from, v, t) => ({ x: from.x + t * v[0], y: from.y + t * v[1], z: from.z + t * v[2] });
  const distance = (i, j) => Math.hypot(...structure.vectors[i][j]);
  function startScenes() {
    const canvas = document.createElement("canvas"); // 3Dmol says nothing where there is no WebGL
    const works = canvas.getContext("webgl2") || canvas.getContext("webgl");
    get("none").hidden = Boolean(works);
    if (!works) return;
    for (const id of ["complete", "within", "learned"]) scenes[id] = $3Dmol.createViewer(get(id), { antialias: true, backgroundColor: colour("card"), disableFog: true });
    for (const one of Object.values(scenes)) one.setViewChangeCallback((seen) => follow(one, seen));
  }
  // Turns the other scenes as `leader`; they must not answer meanwhile.
  let isFollowing = false;
  function follow(leader, seen) {
    if (isFollowing) return;
    isFollowing = true;
    for (const scene of Object.values(scenes)) if (scene !== leader) { scene.setView(seen); scene.render(); }
    isFollowing = false;
  }

  // Draws atoms, cell, and halves of edges: `weight(i, j)` from 0 to 1 for the half at atom i, or null for none.
  function drawScene(id, weight, stroke) {
    let edges = 0;
    const scene = scenes[id];
    const kept = scene && isAimed ? scene.getView() : null;
    if (scene) {
      scene.removeAllModels();
      scene.removeAllShapes();
      scene.setBackgroundColor(colour("card"));
      const model = scene.addModel();
      model.addAtoms(structure.symbols.map((elem, k) => ({ elem, serial: k, index: k, bonds: [], bondOrder: [], ...vector(structure.positions, k) })));
      model.setStyle({}, { sphere: { scale: 0.26, colorscheme: "Jmol" } });
      cell(scene);
    }
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        const w = i === j || (state.atom !== -1 && state.atom !== i) ? null : weight(i, j);
        if (w === null) continue;
        edges += 1;
        if (!scene || w < 0.02) continue;
        const from = vector(structure.positions, i);
        // All of the edge where only one atom attends, its half otherwise.
        scene.addCylinder({ start: from, end: along(from, structure.vectors[i][j], state.atom === -1 ? 0.5 : 1), radius: 0.02 + 0.13 * w, color: stroke, opacity: 0.35 + 0.65 * w });
      }
    if (scene) {
      if (kept) scene.setView(kept);
      else { scene.setView([0, 0, 0, 0, 0.22, -0.3, 0.05, 0.92]); scene.zoomTo(); scene.zoom(0.9); }
      scene.render();
    }
    return edges;
  }

  function cell(scene) {
    const [a, b, c] = [0, 1, 2].map((k) => vector(structure.cell, k));
    if ([a, b, c].some((v) => Math.hypot(v.x, v.y, v.z) === 0)) return;
    const corner = (i, j, k) => ({ x: i * a.x + j * b.x + k * c.x, y: i * a.y + j * b.y + k * c.y, z: i * a.z + j * b.z + k * c.z });
    for (const [i, j] of [[0, 0], [0, 1], [1, 0], [1, 1]])
      for (const [start, end] of [[corner(0, i, j), corner(1, i, j)], [corner(i, 0, j), corner(i, 1, j)], [corner(i, j, 0), corner(i, j, 1)]])
        scene.addLine({ start, end, color: colour("soft") });
  }

  function drawGraphs() {
    const head = view.heads[state.chosen];
    const map = mapOf(state.chosen);
    const reach = Number(get("cutoff").value);
    get("cutoff-out").textContent = `${reach.toFixed(1)} Å`;
    const all = drawScene("complete", () => 0.2, colour("soft"));
    const near = drawScene("within", (i, j) => (distance(i, j) <= reach ? 0.2 : null), colour("link"));
    const asking = structure.symbols.map((_, i) => i).filter((i) => state.atom === -1 || state.atom === i);
    const largest = Math.max(1e-9, ...asking.map((i) => Math.max(0, ...map[i].filter((_, j) => j !== i))));
    drawScene("learned", (i, j) => map[i][j] / largest, head.colour);
    isAimed = true;
    get("says-complete").textContent = `${all} directed pairs`;
    get("says-within").textContent = `${near} of ${all} directed pairs within ${reach.toFixed(1)} Å`;
    const mean = asking.reduce((sum, i) => sum + map[i][i], 0) / asking.length;
    get("says-learned").textContent = `${called(state.chosen)}: the thickest edge has weight ${largest.toPrecision(2)}; mean weight on itself ${mean.toPrecision(2)}`;
  }

  function aim() {
    isAimed = false;
    drawGraphs();
  }

  // --- what a reader does

  function drawControls() {
    const head = view.heads[state.chosen];
    get("layer").value = String(head.layer);
    get("head").value = String(head.head);
    document.querySelectorAll("[data-head]").forEach((row) => row.setAttribute("aria-current", String(Number(row.dataset.head) === state.chosen)));
  }
  function draw() {
    drawControls();
    drawHead();
    drawHeads();
    drawGraphs();
    drawMaps();
    fillMap();
  }
  function remember() {
    const { layer, head } = view.heads[state.chosen];
    history.replaceState(null, "", `#layer=${layer}&head=${head}${state.atom === -1 ? "" : `&atom=${state.atom}`}`);
  }
  function choose(k) {
    state.chosen = k;
    draw();
    remember();
  }
  // The head with this layer and number; layers may differ in their number of heads.
  function find(layer, head) {
    const same = view.heads.map((one, k) => k).filter((k) => view.heads[k].layer === layer);
    return same.find((k) => view.heads[k].head === head) ?? same[0] ?? 0;
  }
  const byBoxes = () => choose(find(Number(get("layer").value), Number(get("head").value)));
  get("layer").onchange = byBoxes;
  get("head").onchange = byBoxes;
  get("atom").onchange = (event) => { state.atom = Number(event.target.value); drawGraphs(); remember(); };
  get("cutoff").oninput = drawGraphs;
  get("reset").onclick = aim;
  get("table").onclick = (event) => { const button = event.target.closest("[data-show]"); if (button) choose(Number(button.dataset.show)); };
  for (const id of ["complete", "within", "learned"])
    get(id).onkeydown = (event) => {
      const turn = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] }[event.key];
      const zoom = { "+": 1.2, "=": 1.2, "-": 1 / 1.2 }[event.key];
      if (scenes[id] && turn) scenes[id].rotate(...turn);
      if (scenes[id] && zoom) scenes[id].zoom(zoom);
      if (turn || zoom) event.preventDefault();
    };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  get("atom").querySelectorAll("option").forEach((option, k) => { if (k) option.textContent = atomName(k - 1); });
  const linked = new URLSearchParams(location.hash.slice(1));
  if (linked.has("layer")) state.chosen = find(Number(linked.get("layer")), Number(linked.get("head")));
  if (linked.has("atom") && Number(linked.get("atom")) < n) { state.atom = Number(linked.get("atom")); get("atom").value = String(state.atom); }
  startScenes();
  startMaps();
  draw();
})();
