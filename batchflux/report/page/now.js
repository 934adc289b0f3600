// The run as it stands now: asked of the server that this page came from, every two seconds while anybody looks.

const ASK_EVERY_MS = 2000;
const KINDS_OF_NOW = ["completed", "submitted", "pending", "failed", "unknown"];

const span = (seconds) => {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
};
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const perMinute = (rate) => (rate >= 10 ? count(Math.round(rate)) : rate.toFixed(1));

// What a run that isn't at work is, in words, and what goes on with it.
const standWords = (now) => {
  if (now.state === "at work") return ["at work", ""];
  const last = now.newest_at === null ? "" : `last news ${moment(now.newest_at)}`;
  if (now.state === "finished") return ["finished", last];
  return ["not at work", `stopped or killed; ${last}; ${now.next} goes on`];
};

const etaWords = (now) => {
  if (now.state !== "at work" || !now.eta) return ["–", now.state === "at work" ? "nothing finished lately" : ""];
  const [soonest, likely, latest] = now.eta;
  const at = (seconds) => clock(now.at + seconds * 1000);
  const isToday = likely > 20 * 60 && latest < 20 * 3600; // else the clock says too little
  const range = isToday ? `${at(soonest)} to ${at(latest)}` : `${span(soonest)} to ${span(latest)}`;
  return [span(likely), `${range} in 8 of 10 cases, if it goes on so`];
};

const nowFigure = (name, value, more) =>
  el("div", { class: "figure" }, el("dt", { text: name }), el("dd", {}, words(value), more ? words(more, { class: "more" }) : null));

const nowFigures = (now) => {
  const money = now.rehearsal ? " of play money" : "";
  const rate = now.rate_per_min === null ? "–" : `${perMinute(now.rate_per_min)} a minute`;
  return [
    nowFigure("Left", ...etaWords(now)),
    nowFigure("Rate", rate, now.limit ? `limit: ${now.limit}` : "no limit met"),
    nowFigure("Spent", `${dollars(now.spent_usd)}${money}`, now.budget_usd === null ? "no budget set" : `of a budget of ${dollars(now.budget_usd)}`),
    nowFigure("Images", count(now.images), now.images_missing ? `${count(now.images_missing)} not on the disk yet` : ""),
  ];
};

const nowBar = (now) => {
  const shares = KINDS_OF_NOW.filter((kind) => now.counts[kind]);
  const said = shares.map((kind) => `${count(now.counts[kind])} ${kind}`).join(", ");
  const bar = el("div", { class: "nowbar", role: "img", "aria-label": `${said} of ${count(now.cells)} cells` });
  for (const kind of shares) bar.append(el("span", { class: `part ${kind}`, style: { "flex-grow": now.counts[kind] }, title: `${count(now.counts[kind])} ${kind}` }));
  const legend = el("p", { class: "nowlegend" });
  for (const kind of shares) legend.append(el("span", { class: `key ${kind}` }, `${count(now.counts[kind])} ${kind}`));
  return [bar, legend];
};

// Images a minute over the whole run, as a line of small bars.
const nowPace = (pace) => {
  const top = Math.max(...pace.counts, 1);
  const width = 4 * pace.counts.length;
  const chart = svg("svg", { viewBox: `0 0 ${width} 40`, class: "nowpace", preserveAspectRatio: "none", role: "img", "aria-label": `Cells finished over the run's time, at most ${count(Math.round((top / pace.step_s) * 60))} a minute` });
  pace.counts.forEach((n, place) => chart.append(svg("rect", { x: 4 * place, width: 3, y: 40 - (38 * n) / top, height: (38 * n) / top })));
  return el("figure", {}, chart, el("figcaption", { text: `finished over time, ${clock(pace.begin)} to ${clock(pace.begin + pace.step_s * 1000 * pace.counts.length)}; at most ${count(Math.round((top / pace.step_s) * 60))} a minute` }));
};

const nowErrors = (now) => {
  if (!now.errors.length && !now.warnings.length) return null;
  const list = el("ul", { class: "said-list" });
  for (const error of now.errors) list.append(el("li", { class: "bad" }, el("strong", { text: `${count(error.count)} × ${error.kind}` }), `: ${error.advice}`));
  for (const warning of now.warnings) list.append(el("li", {}, `${count(warning.count)} with a warning: ${warning.words}`));
  return list;
};

// The newest images, newest first; those that were there stay the same elements, so that nothing flickers.
const showNewest = (strip, newest) => {
  const before = new Map([...strip.children].map((node) => [node.dataset.file, node]));
  strip.replaceChildren(
    ...newest.map((image) => {
      const there = before.get(image.file);
      if (there) return there;
      const link = el("a", { href: pathOf(image.file), target: "_blank", rel: "noopener", title: image.label, "data-file": image.file });
      link.addEventListener("click", (event) => {
        if (!run.files[image.index] || event.ctrlKey || event.metaKey || event.shiftKey) return; // newer than the views
        event.preventDefault();
        openLightbox(image.index);
      });
      link.append(el("img", { src: image.thumbnail ?? pathOf(image.file), alt: image.label, decoding: "async" }));
      return link;
    }),
  );
};

const startNow = (refresh) => {
  const state_ = el("strong", { class: "nowstate" });
  const why = words("", { class: "more" });
  const share = el("span", { class: "nowshare" });
  const bar = el("div");
  const figures = el("dl", { class: "figures" });
  const errors = el("div");
  const pace = el("div");
  const strip = el("div", { class: "newest", role: "group", "aria-label": "Newest images" });
  const fold = button("", () => {
    keep("batchflux now", folded() ? "open" : "folded");
    showFold();
  }, { class: "small", "aria-controls": "nowmore" });
  const more = el("div", { id: "nowmore" }, el("div", { class: "nowgrid" }, figures, pace), errors, strip);
  const section = el("section", { class: "now", "aria-label": "The run now" }, el("p", { class: "nowline" }, state_, share, why, fold), bar, more);
  document.querySelector("header.top").after(section);

  const folded = () => (kept("batchflux now") ?? (matchMedia("(max-width: 640px), (max-height: 700px)").matches ? "folded" : "open")) === "folded";
  const showFold = () => {
    more.hidden = folded();
    fold.textContent = folded() ? "more" : "less";
    fold.setAttribute("aria-expanded", String(!folded()));
  };
  showFold();

  let shown = null; // what was told last
  const tellChange = (now) => {
    if (shown && shown.state !== now.state) say(`The run is ${standWords(now).filter(Boolean).join(": ")}`);
    shown = now;
  };
  const show = (now) => {
    const [stand, words_] = standWords(now);
    section.dataset.state = now.state;
    state_.textContent = stand;
    why.textContent = now.problem ?? words_;
    const done = now.counts.completed + now.counts.failed;
    share.textContent = `${count(done)} of ${count(now.cells)} cells, ${now.cells ? Math.floor((100 * done) / now.cells) : 100} %`;
    bar.replaceChildren(...nowBar(now));
    figures.replaceChildren(...nowFigures(now));
    errors.replaceChildren(...[nowErrors(now)].filter(Boolean));
    pace.replaceChildren(...(now.pace ? [nowPace(now.pace)] : []));
    showNewest(strip, now.newest);
    document.title = `${done === now.cells ? "" : `${Math.floor((100 * done) / Math.max(1, now.cells))} % · `}${run.name} · batchflux`;
    tellChange(now);
  };

  const ask = async () => {
    let now;
    try {
      const answer = await fetch("now.json", { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      now = await answer.json();
    } catch {
      section.dataset.state = "gone";
      state_.textContent = "no longer told";
      why.textContent = `the server of this page has ended${shown ? `; this is from ${clock(shown.at)}` : ""}; batchflux report --live starts it again`;
      return;
    }
    show(now);
    // Data under an open lightbox stay until it is closed.
    if (now.folder !== FOLDER && !byId("lightbox").open) await refresh(now.folder);
    document.documentElement.dataset.told = String(now.at);
  };

  let isAsking = false;
  const askAgain = async () => {
    if (isAsking || document.hidden) return;
    isAsking = true;
    await ask().finally(() => {
      isAsking = false;
    });
  };
  setInterval(askAgain, ASK_EVERY_MS);
  document.addEventListener("visibilitychange", askAgain);
  askAgain();
};
