// The sweep: what each axis does, in a sentence and a chart, and how the run went.

const METRICS = [
  ["inference_ms", "Inference time", spreadChart, spreadWords],
  ["latency_ms", "Latency", spreadChart, spreadWords],
  ["failed", "Failed", rateChart, rateWords],
  ["nsfw", "Flagged NSFW", rateChart, rateWords],
];

const sweepView = (panel) => {
  const page = el("div", { class: "sweep scroller", tabindex: "0" });
  panel.append(page);

  const figure = (name, value) => el("div", { class: "figure" }, el("dt", { text: name }), el("dd", { text: value }));
  const share = (rate) => (rate ? `${(rate.share * 100).toFixed(1)} %` : "–");

  const figures = (sweep) =>
    el("dl", { class: "figures" },
      figure("cells", count(sweep.cells)),
      figure("completed", count(sweep.by_status.completed)),
      figure("median inference", milliseconds(sweep.inference_ms?.median)),
      figure("95th percentile", milliseconds(sweep.inference_ms?.p95)),
      figure("median latency", milliseconds(sweep.latency_ms?.median)),
      figure("failed", share(sweep.failed)),
      figure("flagged NSFW", share(sweep.nsfw)),
      figure(run.rehearsal ? "play money" : "spent", dollars(sweep.cost_usd)),
    );

  // All numbers of a chart, for who can't see it or wants to copy them.
  const numbers = (axis, name, say) => el("details", {}, el("summary", { text: "numbers" }), el("ul", {}, ...axis.values.map((value) => el("li", {}, words(say(value, name))))));

  const axisPart = (axis) => {
    const part = el("section", { class: "axis", "aria-label": axis.name }, el("h2", { text: axis.name }));
    const said = el("ul", { class: "said-list" });
    for (const effect of axis.effects) {
      const kind = effect.is_effect === null ? "untold" : effect.is_effect ? "effect" : "none";
      said.append(el("li", { class: kind, "data-metric": effect.metric }, words(effect.sentence)));
    }
    part.append(said);
    const table = el("div", { class: "charts" });
    const names = el("div", { class: "names", "aria-hidden": "true", style: { "--line": `${LINE}px` } }, ...axis.values.map((value) => el("div", { title: value.value }, words(value.value))));
    for (const [name, title, draw, tell] of METRICS) {
      if (!axis.values.some((value) => value[name] && (value[name].median !== undefined || axis.values.some((other) => other[name]?.hits)))) continue;
      table.append(el("figure", { class: "withnames" }, el("figcaption", { text: title }), el("div", { class: "named" }, names.cloneNode(true), draw(`${title} by ${axis.name}`, axis.values, name)), numbers(axis, name, tell)));
    }
    part.append(table);
    if (axis.n_values > axis.values.length) part.append(el("p", { class: "hint", text: `The first ${axis.values.length} of ${count(axis.n_values)} values are drawn.` }));
    return part;
  };

  const timePart = (timeline) => {
    const length = timeline.bin_ms * timeline.in_flight.length;
    const charts = [
      ["Completed a minute", timeline.completed_per_min, { show: (value) => count(value) }],
      ["In flight", timeline.in_flight, { show: (value) => count(value) }],
      [run.rehearsal ? "Play money" : "Spent", timeline.spent_usd, { show: (value) => `$${value.toLocaleString("en", { maximumFractionDigits: 2 })}`, isLine: true }],
    ];
    return el("section", { "aria-label": "Over the run's time" }, el("h2", { text: "Over the run's time" }), el("p", { class: "hint", text: `From ${moment(timeline.begin_at_ms)}, ${seconds(length / 1000)} in all` }),
      el("div", { class: "charts" }, ...charts.map(([title, series, how]) => el("figure", {}, el("figcaption", { text: title }), timeChart(title, series, { length, ...how })))));
  };

  const cellList = (title, indexes, { tell, note, why }) => {
    const list = el("table", { class: "cells" }, el("tbody"));
    for (const index of indexes) {
      const name = el("td", {});
      const link = el("td", {}, button("Show", () => openLightbox(index), { class: "small", "aria-label": `Show ${cellWords(index)}` }));
      const showName = () => name.replaceChildren(words(textsNow(rowOf(index))?.name ?? "", { class: "rowname" }), " ", words(promptNow(index), { class: "prompt" }), ...(why ? [words(why(index), { class: "why" })] : []));
      if (textsNow(rowOf(index))) showName();
      else textsOf(rowOf(index)).then(showName);
      list.firstChild.append(el("tr", {}, el("td", { text: tell(index), class: "time" }), name, el("td", {}, words(axisWords(index))), link));
    }
    return el("section", { "aria-label": title }, el("h2", { text: title }), note ? el("p", { class: "hint", text: note }) : null, list);
  };

  // How many cells failed of what; there may be more of them than are listed.
  const failures = (listed) => {
    const kinds = new Map();
    let all = 0;
    for (let index = 0; index < run.cells; index += 1) {
      if (STATUSES[run.status[index]] !== "failed") continue;
      all += 1;
      kinds.set(run.kind[index], (kinds.get(run.kind[index]) ?? 0) + 1);
    }
    const said = [...kinds].sort((a, b) => b[1] - a[1]).map(([kind, n]) => `${count(n)} × ${run.kinds[kind] || "no reason said"}`).join(", ");
    return all > listed ? `${said}; the first ${count(listed)} are listed, the gallery's filters find all` : said;
  };

  let drawn = null; // of which data: a live page's change
  return {
    draw: async () => {
      if (drawn === FOLDER) return;
      if (drawn === null) page.replaceChildren(el("p", { class: "hint", text: "Loading the figures" }));
      drawn = FOLDER;
      const sweep = await load("sweep");
      const parts = [figures(sweep), ...sweep.axes.filter((axis) => axis.n_values > 1).map(axisPart)];
      if (sweep.axes.some((axis) => axis.n_values > 1)) parts.push(el("p", { class: "hint", text: "Bars hold the middle half of the cells, thin lines 5 to 95 %, dots the median or the share with its 95 % interval. Values are compared within the same prompt and the same other values where the grid has them (times by aligned ranks, shares by Cochran's Q), else across it (Kruskal-Wallis); p is corrected for the number of tests on this page (Holm)." }));
      if (sweep.timeline) parts.push(timePart(sweep.timeline));
      if (sweep.failed_listed.length) parts.push(cellList(`Failed cells: ${count(sweep.by_status.failed)}`, sweep.failed_listed, { tell: (index) => run.kinds[run.kind[index]], note: failures(sweep.failed_listed.length), why: (index) => run.reasons[run.reason[index]] }));
      if (sweep.slowest.length) parts.push(cellList("Slowest cells", sweep.slowest, { tell: (index) => milliseconds(run.inference[index] >= 0 ? run.inference[index] : run.latency[index]) }));
      const opened = [...page.querySelectorAll("details")].map((details) => details.open);
      page.replaceChildren(...parts);
      page.querySelectorAll("details").forEach((details, place) => (details.open = opened[place] ?? false));
    },
    update: () => {},
  };
};
