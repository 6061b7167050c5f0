"use strict";
// Every figure is drawn from what the page holds and from `state`; a control changes `state` and draws again.
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const state = { off: { architecture: new Set(), data: new Set() }, run: null, views: {} };
  const drawn = new Set();
  const table = document.getElementById("runs-table");
  const panel = document.getElementById("chosen");
  const isTouch = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page, it does not zoom a figure

  const isShown = (run) =>
    run < 0 || (!state.off.architecture.has(report.architecture[run]) && !state.off.data.has(String(report.data[run])));
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  for (const [name, figure] of Object.entries(report.figures)) {
    const { xaxis, yaxis, meta } = figure.layout;
    state.views[name] = { scale: { x: xaxis.type, y: yaxis.type }, choice: { x: null, y: null, by: meta ? meta.by : null } };
  }

  // What a trace shows for this choice of axes, groups, architectures and amounts of data.
  function view(trace, choice, legend) {
    const meta = trace.meta || {};
    const out = { ...trace };
    for (const axis of ["x", "y"]) out[axis] = (meta.choices && choice[axis] && meta.choices[axis][choice[axis]]) || trace[axis];
    if (meta.by && choice.by) {
      const [label, stroke, dash] = meta.by[choice.by];
      out.name = out.legendgroup = label;
      out.line = { ...trace.line, color: stroke, dash };
    }
    if (meta.segments) out.visible = meta.segments.some(([run]) => isShown(run));
    if (meta.architecture) out.visible = !state.off.architecture.has(meta.architecture);
    if (meta.runs) {
      out.y = out.y.map((value, k) => (isShown(meta.runs[k]) ? value : null));
      out.visible = meta.runs.some(isShown);
    }
    if (meta.by && out.visible) {
      out.showlegend = !legend.has(out.name);
      legend.add(out.name);
    }
    return out;
  }

  // The chosen run once more, on top: its points ringed, its curve thick.
  function highlights(traces) {
    const found = [];
    for (const trace of traces) {
      const meta = trace.meta || {};
      const add = (k, end, style) =>
        found.push({ type: "scatter", x: trace.x.slice(k, end), y: trace.y.slice(k, end), showlegend: false,
          name: "chosen", hoverinfo: "skip", ...style });
      if (state.run === null || trace.visible === false) continue;
      const at = meta.runs ? meta.runs.indexOf(state.run) : -1;
      if (at >= 0) add(at, at + 1, { mode: "markers", marker: { size: 17, symbol: "circle-open", color: colour("text"), line: { width: 2.5 } } });
      for (const [run, start, end] of meta.segments || [])
        if (run === state.run)
          add(start, end, { mode: "lines+markers", line: { width: 3, color: colour("text") }, marker: { size: 5, color: colour("text") } });
    }
    return found;
  }

  function layout(name) {
    const { scale, choice } = state.views[name];
    const base = report.figures[name].layout;
    const axis = (key) => {
      const select = document.querySelector(`select[data-of="${name}"][data-choice="${key}"]`);
      const title = select ? { text: select.selectedOptions[0].textContent } : base[`${key}axis`].title;
      const line = colour("line");
      const own = base[`${key}axis`];
      const minor = { ...own.minor, tickcolor: line };
      return { ...own, title, type: scale[key], gridcolor: colour("grid"), linecolor: line, tickcolor: line, minor };
    };
    return {
      ...base, height: undefined, autosize: true, xaxis: axis("x"), yaxis: axis("y"),
      font: { ...base.font, color: colour("text") },
      hoverlabel: { ...base.hoverlabel, bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("text") } },
      dragmode: isTouch ? false : "zoom",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("text") },
      uirevision: JSON.stringify([scale, choice.x, choice.y]),
    };
  }

  function draw(name) {
    const div = document.querySelector(`.plot[data-figure="${name}"]`);
    const legend = new Set();
    if (!drawn.has(name)) div.replaceChildren(); // the still picture that stands there without scripts
    const traces = report.figures[name].data.map((trace) => view(trace, state.views[name].choice, legend));
    // Named one by one: plotly's own set has a button that would send the figure to a server.
    const buttons = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
    const config = { responsive: true, displaylogo: false, displayModeBar: isTouch ? false : "hover", modeBarButtons: buttons };
    Plotly.react(div, [...traces, ...highlights(traces)], layout(name), config);
    if (!drawn.has(name)) div.on("plotly_click", (event) => choose(runOf(event.points[0])));
    drawn.add(name);
  }

  const redraw = () => drawn.forEach(draw);

  function runOf(point) {
    const { runs, segments } = point.data.meta || {};
    if (runs) return runs[point.pointNumber];
    const found = (segments || []).find(([, start, end]) => point.pointNumber >= start && point.pointNumber < end);
    return found ? found[0] : null;
  }

  // A run is chosen by a click on its point or its curve, by its name in the table, or by the page's address.
  function choose(run) {
    if (run === null || run === undefined || run < 0) return;
    state.run = run;
    table.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    const row = document.getElementById(`run-${run}`);
    row.classList.add("chosen");
    const box = row.closest(".scroll");
    box.scrollTop = row.offsetTop - box.clientHeight / 2;
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    const link = (href, text) => Object.assign(document.createElement("a"), { href, textContent: text });
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "close", onclick: clear });
    panel.replaceChildren(Object.assign(document.createElement("strong"), { textContent: row.cells[0].textContent }));
    for (let k = 1; k < heads.length; k++) {
      const fact = document.createElement("span");
      fact.append(`${heads[k]} `, Object.assign(document.createElement("b"), { textContent: row.cells[k].textContent }));
      panel.append(fact);
    }
    for (const [what, value] of JSON.parse(row.dataset.more)) {
      const fact = document.createElement("span");
      fact.append(`${what} `, Object.assign(document.createElement("b"), { textContent: value }));
      panel.append(fact);
    }
    panel.append(link(`#run-${run}`, "in the table"));
    if (document.getElementById("curves")) panel.append(link("#curves", "its curve"));
    panel.append(close);
    panel.hidden = false;
    history.replaceState(null, "", `#run-${run}`);
    redraw();
  }

  function clear() {
    state.run = null;
    panel.hidden = true;
    table.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    history.replaceState(null, "", location.pathname + location.search);
    redraw();
  }

  function select() {
    for (const row of table.tBodies[0].rows) row.hidden = !isShown(Number(row.id.slice(4)));
    redraw();
  }

  function sort(button) {
    const head = button.closest("th");
    const falls = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const number = (text) => Number(text.replaceAll(",", ""));
    const keys = [...table.tBodies[0].rows].map((row) => [row.cells[head.cellIndex].textContent, row]);
    keys.sort(([a], [b]) => {
      const [x, y] = [number(a), number(b)];
      if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // what is not known comes last
      return (Number.isNaN(x) ? a.localeCompare(b) : x - y) * (falls ? -1 : 1);
    });
    table.tBodies[0].append(...keys.map(([, row]) => row));
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.run) choose(Number(button.dataset.run));
    if (button.dataset.sort) sort(button);
    if (button.dataset.scale) {
      const { scale } = state.views[button.dataset.of];
      scale[button.dataset.scale] = scale[button.dataset.scale] === "log" ? "linear" : "log";
      button.setAttribute("aria-pressed", String(scale[button.dataset.scale] === "log"));
      draw(button.dataset.of);
    }
  });
  document.addEventListener("change", (event) => {
    const { kind, choice, of } = event.target.dataset;
    if (kind) {
      state.off[kind][event.target.checked ? "delete" : "add"](event.target.value);
      select();
    }
    if (choice) {
      state.views[of].choice[choice] = event.target.value;
      draw(of);
    }
  });
  document.addEventListener("reset", () => {
    state.off.architecture.clear();
    state.off.data.clear();
    select();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && !panel.hidden && clear());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  for (const box of document.querySelectorAll('select[data-choice="by"]')) box.value = state.views[box.dataset.of].choice.by;
  const near = new IntersectionObserver(
    (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => { near.unobserve(e.target); draw(e.target.dataset.figure); }),
    { rootMargin: "500px" },
  );
  document.querySelectorAll(".plot").forEach((div) => near.observe(div));
  addEventListener("beforeprint", () => Object.keys(report.figures).forEach(draw));
  const linked = /^#run-(\d+)$/.exec(location.hash);
  if (linked && document.getElementById(`run-${linked[1]}`)) choose(Number(linked[1]));

  // Only a page that `matscale report --serve` gave out asks whether there are newer records.
  const version = document.body.dataset.version;
  if (version)
    setInterval(async () => {
      const answer = await fetch("/version", { cache: "no-store" }).catch(() => null); // the server was stopped: stay
      if (answer && answer.ok && (await answer.text()) !== version) location.reload();
    }, 3000);
})();
