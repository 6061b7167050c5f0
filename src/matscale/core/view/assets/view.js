"use strict";
// The page holds structures with labels and predictions by run and step. `state` says what is shown; `draw` shows it.
(() => {
  const view = JSON.parse(document.getElementById("view-data").textContent);
  const state = { structure: 0, position: null, of: 0, scale: 1, labels: false };
  const get = (id) => document.getElementById(id);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const element = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text }, more);
  const format = (value, digits = 3) => (value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toString());
  const QUANTITIES = [
    { key: "energy", title: "energy", unit: "eV/atom", error: "meV/atom" },
    { key: "forces", title: "force components", unit: "eV/Å", error: "meV/Å" },
    { key: "stress", title: "stress components", unit: "eV/Å³", error: "meV/Å³" },
  ];
  // The table of the first lines has every run at its own step, so this is where the slider starts.
  const lastStep = Math.max(...view.runs.map((run) => run.step));

  const chosen = () => view.structures[state.structure];
  // Steps at which a structure has predictions, of all runs together.
  const stepsOf = (structure) => [...new Set(structure.predictions.flat().map(([step]) => step))].sort((a, b) => a - b);
  // The prediction of a run: that of the table, or the latest one that is not after the step of the slider.
  function predicted(structure, run, step) {
    const all = structure.predictions[run];
    const wanted = step === null ? view.runs[run].step : step;
    const before = all.filter(([at]) => at <= wanted);
    const [at, energy, forces, stress] = before.length ? before[before.length - 1] : all[0] || [null, null, null, null];
    return { at, energy, forces, stress };
  }
  const step = () => (state.position === null ? null : stepsOf(chosen())[state.position]);

  // --- the viewer

  let scene = null;
  let camera = null; // structure that the camera was set for
  function startScene() {
    const canvas = document.createElement("canvas"); // 3Dmol says nothing where there is no WebGL
    if (canvas.getContext("webgl2") || canvas.getContext("webgl"))
      scene = $3Dmol.createViewer(get("scene"), { antialias: true, backgroundColor: colour("card"), disableFog: true });
    get("none").hidden = Boolean(scene);
    get("atoms").open = !scene;
  }

  const vector = (flat, k) => ({ x: flat[3 * k], y: flat[3 * k + 1], z: flat[3 * k + 2] });
  const length = (flat, k) => Math.hypot(flat[3 * k], flat[3 * k + 1], flat[3 * k + 2]);
  const longest = (flat) => (flat ? Math.max(0, ...Array.from({ length: flat.length / 3 }, (_, k) => length(flat, k))) : 0);

  function drawScene() {
    const structure = chosen();
    const n = structure.numbers.length;
    const label = `Structure of row ${structure.row}, ${structure.formula}, ${n} atoms, with labelled and predicted forces`;
    get("scene").setAttribute("aria-label", label);
    // Arrows keep their scale from step to step: the longest force of the labels, or else of the predictions, is 1.5 Å.
    const known = [structure.forces, ...view.runs.map((_, k) => predicted(structure, k, null).forces)].filter(Boolean);
    const reference = known.length ? Math.max(longest(known[0]), 0.05) : 0;
    const factor = reference ? (1.5 * state.scale) / reference : 0;
    get("longest").textContent = reference ? `${format(reference)} eV/Å is drawn ${format(1.5 * state.scale, 2)} Å long` : "no forces";
    if (!scene) return;
    const kept = camera === state.structure ? scene.getView() : null;
    scene.removeAllModels();
    scene.removeAllShapes();
    scene.removeAllLabels();
    scene.setBackgroundColor(colour("card"));
    const model = scene.addModel();
    model.addAtoms(structure.numbers.map((z, k) => ({ elem: view.symbols[z], serial: k, index: k, bonds: [], bondOrder: [], ...vector(structure.positions, k) })));
    model.setStyle({}, { sphere: { scale: 0.34, colorscheme: "Jmol" } });
    cell(structure);
    const arrows = (forces, stroke, radius) => {
      if (!forces || !factor) return;
      for (let k = 0; k < n; k++) {
        const from = vector(structure.positions, k);
        const size = length(forces, k) * factor;
        if (size < 0.04) continue;
        const [dx, dy, dz] = [0, 1, 2].map((a) => forces[3 * k + a] * factor);
        scene.addArrow({ start: from, end: { x: from.x + dx, y: from.y + dy, z: from.z + dz }, radius, radiusRatio: 2.2, mid: Math.max(0, 1 - 0.28 / size), color: stroke });
      }
    };
    arrows(structure.forces, colour("truth"), 0.055);
    view.runs.forEach((run, k) => {
      if (state.of === -1 || state.of === k) arrows(predicted(structure, k, step()).forces, run.colour, 0.09);
    });
    if (state.labels)
      for (let k = 0; k < n; k++)
        scene.addLabel(`${view.symbols[structure.numbers[k]]}${k}`, { position: vector(structure.positions, k), fontSize: 11, fontColor: colour("text"), backgroundColor: colour("card"), backgroundOpacity: 0.7, inFront: true });
    if (kept) scene.setView(kept);
    else aim();
    scene.render();
    camera = state.structure;
  }

  // Looks at a structure with its longest lattice vector lying down, tilted a little so that depth is seen.
  function aim() {
    const vectors = [0, 1, 2].map((k) => vector(chosen().cell, k));
    const size = ({ x, y, z }) => Math.hypot(x, y, z);
    const v = vectors.reduce((long, other) => (size(other) > 1.01 * size(long) ? other : long));
    const n = size(v) || 1;
    const lies = size(v) ? unit([0, v.z / n, -v.y / n, 1 + v.x / n]) : [0, 0, 0, 1]; // turns v to the x axis
    const turn = (degrees, axis) => [0, 1, 2].map((k) => (k === axis ? Math.sin((degrees * Math.PI) / 360) : 0)).concat(Math.cos((degrees * Math.PI) / 360));
    scene.setView([0, 0, 0, 0, ...times(times(turn(14, 0), turn(-16, 1)), lies)]);
    scene.zoomTo();
    // `zoomTo` fits a sphere around the structure; a long cell has room to the left and to the right of it.
    const across = Math.hypot(...vectors.filter((other) => other !== v).map(size));
    const { clientWidth, clientHeight } = get("scene");
    const diagonal = Math.hypot(n, across);
    scene.zoom(size(v) ? Math.max(0.8, Math.min(0.75 * (clientWidth / clientHeight) * (diagonal / n), 0.75 * (diagonal / Math.max(across, 0.4 * n)))) : 0.85);
  }
  const unit = (q) => { const n = Math.hypot(...q); return n > 1e-6 ? q.map((x) => x / n) : [0, 0, 1, 0]; };
  function times([a, b, c, d], [e, f, g, h]) { // quaternions x, y, z, w
    return [d * e + a * h + b * g - c * f, d * f - a * g + b * h + c * e, d * g + a * f - b * e + c * h, d * h - a * e - b * f - c * g];
  }

  function cell(structure) {
    const [a, b, c] = [0, 1, 2].map((k) => vector(structure.cell, k));
    if ([a, b, c].some((v) => Math.hypot(v.x, v.y, v.z) === 0)) return;
    const corner = (i, j, k) => ({ x: i * a.x + j * b.x + k * c.x, y: i * a.y + j * b.y + k * c.y, z: i * a.z + j * b.z + k * c.z });
    for (const [i, j] of [[0, 0], [0, 1], [1, 0], [1, 1]])
      for (const [start, end] of [[corner(0, i, j), corner(1, i, j)], [corner(i, 0, j), corner(i, 1, j)], [corner(i, j, 0), corner(i, j, 1)]])
        scene.addLine({ start, end, color: colour("soft") });
  }

  function drawCorner() {
    const structure = chosen();
    const n = structure.numbers.length;
    const pressure = (stress) => (stress ? -(stress[0] + stress[1] + stress[2]) / 3 * 160.21766 : null);
    const table = document.createElement("table");
    const row = (stroke, name, cells, tag = "td") => {
      const line = table.insertRow();
      const head = element("th", "");
      if (stroke) head.append(Object.assign(element("span", "", { className: "key" }), { style: `background:${stroke}` }));
      head.append(name);
      head.scope = "row";
      line.append(head, ...cells.map((text) => element(tag, text, { className: "num" })));
    };
    row("", `${structure.formula}, row ${structure.row}`, ["eV/atom", "max |F| eV/Å", "pressure GPa"], "th");
    row(colour("truth"), "label", [format(structure.energy === null ? null : structure.energy / n, 5), format(structure.forces && longest(structure.forces)), format(pressure(structure.stress))]);
    view.runs.forEach((run, k) => {
      const { at, energy, forces, stress } = predicted(structure, k, step());
      row(run.colour, view.runs.length > 1 || at !== run.step ? `${run.name}, step ${at}` : run.name, [format(energy === null ? null : energy / n, 5), format(forces && longest(forces)), format(pressure(stress))]);
    });
    get("corner").replaceChildren(table);
  }

  function drawAtoms() {
    const structure = chosen();
    const table = get("atoms").querySelector("table");
    get("atoms-caption").textContent = `Forces in ${structure.formula}, row ${structure.row} [eV/Å]: x, y, z`;
    const names = view.runs.map((run, k) => `${run.name}, step ${predicted(structure, k, step()).at}`);
    const head = document.createElement("tr");
    head.append(...["atom", "label", ...names].map((text) => element("th", text, { scope: "col" })));
    table.tHead.replaceChildren(head);
    const text = (forces, k) => (forces ? [0, 1, 2].map((a) => forces[3 * k + a].toFixed(3)).join(" ") : "–");
    table.tBodies[0].replaceChildren(
      ...structure.numbers.map((z, k) => {
        const line = document.createElement("tr");
        line.append(element("th", `${view.symbols[z]} ${k}`, { scope: "row" }), element("td", text(structure.forces, k)));
        view.runs.forEach((_, r) => line.append(element("td", text(predicted(structure, r, step()).forces, k))));
        return line;
      }),
    );
  }

  function drawControls() {
    const steps = stepsOf(chosen());
    const slider = get("step");
    slider.max = String(steps.length - 1);
    const at = state.position === null ? steps.findLastIndex((s) => s <= lastStep) : state.position;
    slider.value = String(at);
    slider.disabled = get("play").disabled = steps.length < 2;
    slider.setAttribute("aria-valuetext", `step ${steps[at]}`);
    get("step-out").textContent = steps.length < 2 ? `${steps[at]} (the only one stored)` : `${steps[at].toLocaleString("en")} (${at + 1} of ${steps.length})`;
    document.querySelectorAll("#list button").forEach((button, k) => button.setAttribute("aria-current", String(k === state.structure)));
  }

  // --- figures

  const config = { responsive: true, displaylogo: false, displayModeBar: isTouch ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  function layout(more) {
    const axis = { gridcolor: colour("grid"), linecolor: colour("line"), tickcolor: colour("line"), zeroline: false, automargin: true, ticks: "outside", ticklen: 4 };
    const { xaxis = {}, yaxis = {}, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("text"), size: 12, family: getComputedStyle(document.body).fontFamily },
      margin: { l: 56, r: 14, t: 10, b: 46 }, hovermode: "closest", dragmode: isTouch ? false : "zoom",
      hoverlabel: { align: "left", bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("text") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft") },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }

  // [label, prediction] of a structure in a parity plot: energy per atom, or the component with the largest error.
  function pair(structure, prediction, key) {
    const n = structure.numbers.length;
    if (key === "energy") return structure.energy === null || prediction.energy === null ? null : [structure.energy / n, prediction.energy / n];
    const [labels, values] = [structure[key], prediction[key]];
    if (!labels || !values) return null;
    let worst = 0;
    labels.forEach((label, k) => { if (Math.abs(values[k] - label) > Math.abs(values[worst] - labels[worst])) worst = k; });
    return [labels[worst], values[worst]];
  }

  function startParity() {
    view.runs.forEach((run, r) =>
      QUANTITIES.forEach(({ key, title, unit, error }) => {
        if (!run.grids[key]) return;
        const figure = document.createElement("figure");
        const plot = Object.assign(document.createElement("div"), { className: "plot" });
        plot.dataset.parity = `${r}-${key}`;
        plot.setAttribute("role", "img");
        plot.setAttribute("aria-label", `Predicted against labelled ${title} of ${run.name} [${unit}]; the table of structures has the numbers`);
        const outside = run.grids[key].outside;
        const mean = run.errors[key] === null || run.errors[key] === undefined ? "" : `MAE ${format(1000 * run.errors[key])} ${error}`;
        const note = outside ? `; ${outside.toLocaleString("en")} predictions lie beyond the axis` : "";
        figure.append(element("h3", `${view.runs.length > 1 ? `${run.name}: ` : ""}${title}`), plot, element("figcaption", mean + note));
        get("parities").append(figure);
      }),
    );
  }

  function drawParity(r, { key, unit }) {
    const plot = document.querySelector(`[data-parity="${r}-${key}"]`);
    if (!plot) return;
    const { low, high, bins, cells } = view.runs[r].grids[key];
    const width = (high - low) / bins;
    const z = Array.from({ length: bins }, () => Array(bins).fill(null));
    const n = Array.from({ length: bins }, () => Array(bins).fill(null));
    for (const [i, j, count] of cells) { z[j][i] = Math.log10(count) + 0.35; n[j][i] = count; }
    const centres = Array.from({ length: bins }, (_, k) => low + (k + 0.5) * width);
    const stroke = view.runs[r].colour;
    const points = { x: [], y: [], text: [], customdata: [] };
    view.structures.forEach((structure, k) => {
      const found = pair(structure, predicted(structure, r, step()), key);
      if (!found) return;
      points.x.push(found[0]);
      points.y.push(found[1]);
      points.text.push(`${structure.formula}, row ${structure.row}<br>${format(found[1], 4)} for ${format(found[0], 4)} ${unit}`);
      points.customdata.push(k);
    });
    const at = points.customdata.indexOf(state.structure);
    const faint = (alpha) => `rgba(${[1, 3, 5].map((k) => parseInt(stroke.slice(k, k + 2), 16)).join(",")},${alpha})`;
    const traces = [
      { type: "heatmap", x: centres, y: centres, z, customdata: n, zmin: 0, showscale: false, hoverongaps: false, colorscale: [[0, faint(0.08)], [1, faint(0.75)]], hovertemplate: "%{customdata} near %{x:.3g}, %{y:.3g}<extra></extra>" },
      { type: "scatter", mode: "lines", x: [low, high], y: [low, high], line: { color: colour("soft"), width: 1 }, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", ...points, marker: { color: colour("card"), size: 7, line: { color: stroke, width: 1.6 } }, hovertemplate: "%{text}<extra></extra>" },
      { type: "scatter", mode: "markers", x: at < 0 ? [] : [points.x[at]], y: at < 0 ? [] : [points.y[at]], marker: { color: colour("text"), size: 17, symbol: "circle-open", line: { width: 2.5 } }, hoverinfo: "skip" },
    ];
    const more = { showlegend: false, uirevision: "kept", xaxis: { title: { text: `label [${unit}]` }, range: [low, high] }, yaxis: { title: { text: `predicted [${unit}]` }, range: [low, high] } };
    Plotly.react(plot, traces, layout(more), config);
    if (!plot.dataset.listens) {
      plot.dataset.listens = "yes";
      plot.on("plotly_click", ({ points: [point] }) => { if (typeof point.customdata === "number" && point.curveNumber === 2) choose(point.customdata, true); });
    }
  }

  // Place of an element on the periodic table: [group, period]; lanthanides and actinides in two rows below.
  function place(z) {
    const rows = [[1, 2], [3, 10], [11, 18], [19, 36], [37, 54], [55, 86], [87, 118]];
    const period = rows.findIndex(([, end]) => z <= end);
    const k = z - rows[period][0];
    if (period === 0) return [k === 0 ? 1 : 18, 1];
    if (period < 3) return [k < 2 ? k + 1 : k + 11, period + 1];
    if (period < 5) return [k + 1, period + 1];
    if (k < 2) return [k + 1, period + 1];
    return k <= 16 ? [k + 1.5, period + 3.4] : [k - 13, period + 1];
  }

  function drawElements() {
    const { ways, name } = view.groups[Number(get("element-of").value)];
    const metric = Number(get("metric").value);
    const found = Object.entries(ways.element || {}).filter(([, values]) => values[metric] !== null);
    const values = found.map(([, v]) => v[metric]);
    const everywhere = Array.from({ length: 118 }, (_, k) => k + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const traces = [
      { type: "scatter", mode: "markers+text", x: everywhere.map((z) => place(z)[0]), y: everywhere.map((z) => place(z)[1]), text: everywhere.map((z) => view.symbols[z]), textfont: { size: isTouch ? 7 : 10, color: colour("soft") }, hoverinfo: "skip",
        marker: { symbol: "square", size: tile(), color: colour("page"), line: { width: 0 } } },
      { type: "scatter", mode: "markers+text", x: found.map(([s]) => place(view.symbols.indexOf(s))[0]), y: found.map(([s]) => place(view.symbols.indexOf(s))[1]),
        text: found.map(([s]) => s), textfont: { size: isTouch ? 8 : 12, color: "#ffffff" }, customdata: found.map(([s, v]) => `${s}: ${format(v[metric])}, in ${v[0].toLocaleString("en")} structures`), hovertemplate: "%{customdata}<extra></extra>",
        marker: { symbol: "square", size: tile(), color: values, colorscale: [[0, "#355CAA"], [0.5, "#7C7B78"], [1, dark ? "#C98A12" : "#B57A0A"]], showscale: true, colorbar: { thickness: 10, outlinewidth: 0, tickfont: { color: colour("text") } }, cmin: Math.min(...values), cmax: Math.max(...values) } },
    ];
    const none = { visible: false, fixedrange: true };
    Plotly.react(get("by-element"), traces, layout({ showlegend: false, margin: { l: 6, r: 6, t: 6, b: 6 }, xaxis: { ...none, range: [0.3, 18.7] }, yaxis: { ...none, range: [10, 0.4] } }), config);
    get("by-element").setAttribute("aria-label", `Error by element of ${name}, on a periodic table; the table below has the numbers`);
  }
  const tile = () => Math.max(8, Math.min(34, (get("by-element").clientWidth - 80) / 20.5));

  const called = (name, k) => (k < view.runs.length ? name : `${name} (baseline)`);
  const look = (k) => (k < view.runs.length ? view.runs[k].colour : "#808890");
  const metricName = () => get("metric").selectedOptions[0].textContent;

  function drawSizes() {
    const metric = Number(get("metric").value);
    const traces = view.groups.map(({ name, ways }, k) => {
      const found = Object.entries(ways.n_atoms || {}).filter(([, v]) => v[metric] !== null);
      return { type: "scatter", mode: "lines+markers", name: called(name, k), x: found.map(([n]) => Number(n)), y: found.map(([, v]) => v[metric]), text: found.map(([, v]) => `${v[0].toLocaleString("en")} structures`),
        line: { color: look(k), width: 1.2, dash: k < view.runs.length ? "solid" : "dot" }, marker: { color: look(k), size: 6 }, hovertemplate: "%{x} atoms: %{y:.3g}, %{text}<extra>%{fullData.name}</extra>" };
    });
    Plotly.react(get("by-size"), traces, layout({ showlegend: true, xaxis: { title: { text: "atoms of a structure" } }, yaxis: { title: { text: metricName() }, rangemode: "tozero" } }), config);
  }

  function drawSources() {
    const metric = Number(get("metric").value);
    const short = (name) => (name.length > 24 ? `…${name.slice(-23)}` : name);
    const traces = view.groups.map(({ name, ways }, k) => {
      const found = Object.entries(ways.source || {}).filter(([, v]) => v[metric] !== null);
      return { type: "bar", orientation: "h", name: called(name, k), y: found.map(([s]) => short(s)), x: found.map(([, v]) => v[metric]), text: found.map(([s, v]) => `${s}: ${format(v[metric])}, ${v[0].toLocaleString("en")} structures`), textposition: "none",
        marker: { color: look(k), opacity: k < view.runs.length ? 1 : 0.5 }, hovertemplate: "%{text}<extra>%{fullData.name}</extra>" };
    });
    Plotly.react(get("by-source"), traces, layout({ showlegend: true, bargap: 0.35, xaxis: { title: { text: metricName() }, rangemode: "tozero" }, yaxis: { type: "category", autorange: "reversed" } }), config);
  }

  function fillGroups() {
    const rows = [];
    for (const [way, says] of [["element", "element"], ["n_atoms", "atoms"], ["source", "source"]])
      for (const key of Object.keys((view.groups[0].ways || {})[way] || {}))
        for (const { name, ways } of view.groups) {
          const [n, ...errors] = ways[way][key] || [0, null, null, null];
          const line = document.createElement("tr");
          line.append(element("td", says), element("th", key, { scope: "row" }), element("td", name), element("td", n.toLocaleString("en"), { className: "num" }), ...errors.map((e) => element("td", format(e), { className: "num" })));
          rows.push(line);
        }
    get("group-table").tBodies[0].replaceChildren(...rows);
  }

  const drawGroups = () => { drawElements(); drawSizes(); drawSources(); };
  const drawParities = () => view.runs.forEach((_, r) => QUANTITIES.forEach((quantity) => drawParity(r, quantity)));
  function draw() {
    drawControls();
    drawScene();
    drawCorner();
    drawAtoms();
    drawParities();
  }

  // --- what a reader does

  function remember() {
    const at = step();
    history.replaceState(null, "", `#row=${chosen().row}${at === null ? "" : `&step=${at}`}`);
  }
  function choose(k, scrolls = false) {
    state.structure = (k + view.structures.length) % view.structures.length;
    state.position = null;
    draw();
    remember();
    document.querySelector('#list [aria-current="true"]').scrollIntoView({ block: "nearest" });
    if (scrolls) get("structures").scrollIntoView();
  }
  function move(position) {
    state.position = position;
    draw();
    remember();
  }

  let playing = null;
  function play() {
    const stop = () => { clearInterval(playing); playing = null; get("play").textContent = "Play"; get("play").setAttribute("aria-pressed", "false"); };
    if (playing) return stop();
    get("play").textContent = "Stop";
    get("play").setAttribute("aria-pressed", "true");
    const n = stepsOf(chosen()).length;
    let at = -1;
    playing = setInterval(() => (++at < n ? move(at) : stop()), 600);
  }

  get("previous").onclick = () => choose(state.structure - 1);
  get("next").onclick = () => choose(state.structure + 1);
  get("play").onclick = play;
  get("reset").onclick = () => { if (scene) { aim(); scene.render(); } };
  get("step").oninput = (event) => move(Number(event.target.value));
  get("scale").oninput = (event) => { state.scale = 2 ** Number(event.target.value); drawScene(); };
  get("labels").onchange = (event) => { state.labels = event.target.checked; drawScene(); };
  get("of").onchange = (event) => { state.of = Number(event.target.value); drawScene(); };
  get("metric").onchange = drawGroups;
  get("element-of").onchange = drawElements;
  get("list").onclick = (event) => { const button = event.target.closest("button"); if (button) choose(Number(button.dataset.structure)); };
  get("scene").onkeydown = (event) => {
    const turn = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] }[event.key];
    const zoom = { "+": 1.2, "=": 1.2, "-": 1 / 1.2 }[event.key];
    if (event.key === "n") choose(state.structure + 1);
    if (event.key === "p") choose(state.structure - 1);
    if (scene && turn) scene.rotate(...turn);
    if (scene && zoom) scene.zoom(zoom);
    if (turn || zoom) event.preventDefault();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { draw(); drawGroups(); });
  addEventListener("resize", drawElements);

  const linked = new URLSearchParams(location.hash.slice(1));
  const row = view.structures.findIndex((structure) => String(structure.row) === linked.get("row"));
  if (row >= 0) state.structure = row;
  const wanted = stepsOf(chosen()).findIndex((s) => String(s) === linked.get("step"));
  if (wanted >= 0) state.position = wanted;
  get("element-of").parentElement.hidden = view.runs.length < 2;
  get("of").parentElement.hidden = view.runs.length < 2;
  if (view.runs.length > 1) { state.of = -1; get("of").value = "-1"; }
  startScene();
  startParity();
  fillGroups();
  draw();
  drawGroups();
})();
