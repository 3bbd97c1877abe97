"use strict";
// Draws every plot of the page in the colours of the current theme; redraws on theme change, resize and print.
(() => {
  const style = () => getComputedStyle(document.documentElement);

  // Figures name CSS variables instead of colours; replace them by their present values.
  const themed = (value, css) => {
    if (typeof value === "string") {
      const found = /^var\((--[\w-]+)\)(?:\/([\d.]+))?$/.exec(value);  // "var(--series-1)/0.2": with an opacity
      if (!found) return value;
      const alpha = found[2] ? Math.round(255 * Number(found[2])).toString(16).padStart(2, "0") : "";
      return css.getPropertyValue(found[1]).trim() + alpha;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, css));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, css)]));
    }
    return value;
  };

  const merged = (base, over) => {
    const result = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const both = value && typeof value === "object" && !Array.isArray(value) && typeof base[key] === "object";
      result[key] = both ? merged(base[key], value) : value;
    }
    return result;
  };

  const baseLayout = (width) => {
    const axis = {
      gridcolor: "var(--grid)", linecolor: "var(--line)", zerolinecolor: "var(--line)",
      automargin: true, title: { standoff: 10 }, nticks: width < 480 ? 5 : 9,
    };
    return {
      autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: width < 480 ? 11 : 13, color: "var(--text)" },
      margin: { l: 48, r: 14, t: 26, b: 40 }, hovermode: "closest", showlegend: true,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--line)", font: { color: "var(--text)" } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--link)" },
      xaxis: axis, yaxis: axis,
    };
  };

  // Named buttons only: none of them sends anything anywhere. On narrow screens they would cover the plot.
  const config = (width) => ({
    responsive: true, displaylogo: false, displayModeBar: width < 480 ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  });

  // Beside the plot a colour bar would take half of a narrow screen. Above it, automatic margins misplace axis titles.
  const ABOVE = { orientation: "h", y: 1.02, yanchor: "bottom", title: { side: "top" } };
  const BELOW = { xaxis: { automargin: false, title: { standoff: 36 } }, margin: { b: 50 } };

  const cards = [...document.querySelectorAll("[data-plot]")].map((element) => ({
    plot: element.querySelector(".plot"),
    spec: JSON.parse(element.querySelector("script").textContent),
    radios: [...element.querySelectorAll("input[type=radio]")],
  }));

  const draw = ({ plot, spec, radios }) => {
    const css = style();
    const width = plot.clientWidth;
    // On narrow screens the legend takes half of the plot: make the plot higher by it.
    plot.dataset.height ??= parseInt(plot.style.height, 10);
    const named = spec.traces.filter((trace) => trace.showlegend !== false).length;
    const more = width < 480 && named > 1 && spec.layout.showlegend !== false ? Math.min(200, 20 * named) : 0;
    plot.style.height = `${Number(plot.dataset.height) + more}px`;
    const view = spec.views[Number(radios.find((radio) => radio.checked)?.value ?? 0)];
    let layout = merged(baseLayout(width), spec.layout);
    let traces = spec.traces;
    if (width < 480 && traces.some((trace) => trace.colorbar)) {
      traces = traces.map((trace) => merged(trace, { colorbar: ABOVE }));
      layout = merged(layout, BELOW);
    }
    if (view) {
      traces = traces.map((trace, i) => ({ ...trace, x: view.x[i] }));
      const scale = view.ticks.length ? { type: "log", tickvals: view.ticks } : { type: "linear" };
      layout.xaxis = merged(layout.xaxis, { title: { text: view.title }, tickformat: view.tickformat, ...scale });
      if (view.dtick) layout.xaxis.dtick = view.dtick;
    }
    if (traces.length < 2 && spec.layout.showlegend === undefined) layout.showlegend = false;
    return Plotly.react(plot, themed(traces, css), themed(layout, css), config(width));
  };

  // One plot at a time, with a pause for the browser in between: the page stays usable while it fills.
  let run = 0;
  const drawAll = async () => {
    const mine = ++run;
    delete document.documentElement.dataset.plots;
    for (const card of cards) {
      if (mine !== run) return;
      await draw(card);
      await new Promise((resolve) => { setTimeout(resolve, 0); });
    }
    document.documentElement.dataset.plots = String(cards.length);
  };

  cards.forEach((card) => card.radios.forEach((radio) => radio.addEventListener("change", () => draw(card))));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  // Paper does not wait for a pause: everything is drawn at once, light and as wide as a page.
  addEventListener("beforeprint", () => {
    run += 1;
    document.documentElement.dataset.print = "";
    cards.forEach(draw);
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    drawAll();
  });
  // Phones change the height while scrolling; only a new width needs new plots.
  let pending;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(pending);
    pending = setTimeout(drawAll, 150);
  });
  drawAll();
})();
