// Charts as SVG: spreads and shares one line a value, and the run over its time. Colours come from the stylesheet.

const niceSteps = (top, wanted = 4) => {
  if (!(top > 0)) return [0, 1];
  const raw = top / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 2.5, 5, 10].find((times) => times * power >= raw) ?? 10);
  const steps = [];
  for (let value = 0; value < top + step * 0.999; value += step) steps.push(value);
  return steps;
};

const LINE = 26;
const WIDTH = 280;
const FOOT = 22;

// One line a value: `draw(value, x)` gives the line's marks around y = 0.
const linesChart = ({ title, values, top, show, draw, describe }) => {
  const steps = niceSteps(top);
  const last = steps.at(-1);
  const x = (value) => 14 + (value / last) * (WIDTH - 34);
  const height = values.length * LINE + FOOT;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "chart", role: "img", "aria-label": title, width: WIDTH, height });
  for (const step of steps) {
    chart.append(svg("line", { x1: x(step), x2: x(step), y1: 0, y2: height - FOOT, class: "rule" }));
    chart.append(svg("text", { x: x(step), y: height - 6, class: "tick", "text-anchor": "middle", text: show(step) }));
  }
  values.forEach((value, place) => {
    const line = svg("g", { transform: `translate(0 ${place * LINE + LINE / 2})` }, svg("title", { text: describe(value) }), svg("rect", { x: 0, y: -LINE / 2, width: WIDTH, height: LINE, class: "hit" }), ...draw(value, x));
    chart.append(line);
  });
  return chart;
};

const rect = (from, to, half, kind) => svg("rect", { x: from, y: -half, width: Math.max(1, to - from), height: 2 * half, rx: 2, class: kind });

// 5 to 95 % as a thin line, the middle half as a bar, the median with its interval.
const spreadChart = (title, values, name) =>
  linesChart({
    title,
    values,
    top: Math.max(...values.map((value) => value[name]?.p95 ?? 0)) / 1000,
    show: (step) => `${Number(step.toFixed(3))} s`,
    describe: (value) => spreadWords(value, name),
    draw: (value, x) => {
      const spread = value[name];
      if (!spread) return [svg("text", { x: 10, y: 4, class: "tick", text: "nothing known" })];
      const at = (ms) => x(ms / 1000);
      const marks = [rect(at(spread.p5), at(spread.p95), 1, "range"), rect(at(spread.p25), at(spread.p75), 6, "half")];
      if (spread.interval) marks.push(rect(at(spread.interval[0]), at(spread.interval[1]), 2.5, "interval"));
      return [...marks, svg("circle", { cx: at(spread.median), cy: 0, r: 4, class: "median" })];
    },
  });

const spreadWords = (value, name) => {
  const spread = value[name];
  if (!spread) return `${value.value}: nothing known`;
  const interval = spread.interval ? ` (95 % interval ${milliseconds(spread.interval[0])} to ${milliseconds(spread.interval[1])})` : "";
  return `${value.value}: median ${milliseconds(spread.median)}${interval}, 5 to 95 %: ${milliseconds(spread.p5)} to ${milliseconds(spread.p95)}, ${count(spread.n)} cells`;
};

const rateChart = (title, values, name) =>
  linesChart({
    title,
    values,
    top: Math.max(0.01, ...values.map((value) => value[name]?.interval[1] ?? 0)),
    show: (step) => `${Number((step * 100).toFixed(2))} %`,
    describe: (value) => rateWords(value, name),
    draw: (value, x) => {
      const rate = value[name];
      if (!rate) return [svg("text", { x: 10, y: 4, class: "tick", text: "nothing known" })];
      return [rect(x(rate.interval[0]), x(rate.interval[1]), 1, "range"), svg("circle", { cx: x(rate.share), cy: 0, r: 4, class: "median" })];
    },
  });

const rateWords = (value, name) => {
  const rate = value[name];
  if (!rate) return `${value.value}: nothing known`;
  return `${value.value}: ${(rate.share * 100).toFixed(1)} % (${count(rate.hits)} of ${count(rate.n)}; 95 % interval ${(rate.interval[0] * 100).toFixed(1)} to ${(rate.interval[1] * 100).toFixed(1)} %)`;
};

const seconds = (s) => (s < 120 ? `${Number(s.toFixed(1))} s` : s < 7200 ? `${Number((s / 60).toFixed(1))} min` : `${Number((s / 3600).toFixed(1))} h`);

// A quantity over the run's time, as steps or as a line.
const timeChart = (title, series, { length, show, isLine = false }) => {
  const [width, height, left, bottom] = [340, 150, 46, 20];
  const steps = niceSteps(Math.max(...series), 3);
  const x = (place) => left + (place / series.length) * (width - left - 6);
  const y = (value) => height - bottom - (value / steps.at(-1)) * (height - bottom - 8);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": title, width, height });
  for (const step of steps) {
    chart.append(svg("line", { x1: left, x2: width - 6, y1: y(step), y2: y(step), class: "rule" }));
    chart.append(svg("text", { x: left - 5, y: y(step) + 4, class: "tick", "text-anchor": "end", text: show(step) }));
  }
  let path = `M${x(0)} ${y(0)}`;
  series.forEach((value, place) => {
    path += isLine ? `L${x(place + 1)} ${y(value)}` : `L${x(place)} ${y(value)}L${x(place + 1)} ${y(value)}`;
  });
  chart.append(svg("path", { d: `${path}L${x(series.length)} ${y(0)}Z`, class: "area" }));
  if (isLine) chart.append(svg("path", { d: path, class: "stroke" }));
  for (const share of [0, 0.5, 1]) chart.append(svg("text", { x: left + share * (width - left - 6), y: height - 4, class: "tick", "text-anchor": ["start", "middle", "end"][share * 2], text: seconds((share * length) / 1000) }));
  return chart;
};
