// The page reads without this script; it adds the plots, the filters, the copy buttons and the switch of themes.
"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // --- Themes: the reader's own until the button is pressed. Nothing is stored.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const button = document.getElementById("theme");
  const nameTheme = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
    drawAll();
  });
  system.addEventListener("change", () => {
    nameTheme();
    drawAll();
  });
  nameTheme();

  // --- Plots. Colours stand in the specifications by their names in the style sheet.
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const probe = document.body.appendChild(document.createElement("i"));
  probe.hidden = true;
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const coloured = (spec) =>
    JSON.parse(JSON.stringify(spec), (_, value) => {
      const named = typeof value === "string" && /^css\((--[\w-]+)\)$/.exec(value);
      return named ? colour(named[1]) : value;
    });
  const looks = () => {
    const font = getComputedStyle(document.body).fontFamily;
    const muted = colour("--muted");
    const text = { aria: false, labelColor: muted, titleColor: muted, labelFont: font, titleFont: font, titleFontWeight: 500 };
    return {
      background: null,
      title: { aria: false, color: muted, font, fontSize: 12, fontWeight: 500, offset: 6 },
      font,
      aria: false,
      mark: { aria: false },
      view: { stroke: null },
      axis: { ...text, labelFontSize: 12, titleFontSize: 12, gridColor: colour("--line"), domainColor: colour("--muted"), tickColor: colour("--line") },
      legend: { ...text, labelColor: colour("--text"), labelFontSize: 12, titleFontSize: 12, labelLimit: 320, symbolStrokeWidth: 2 },
    };
  };
  let drawn = 0; // of the latest round; one that was overtaken stops
  const views = new Map();
  async function drawAll() {
    const round = ++drawn;
    const config = looks();
    for (const [name, { spec, data }] of Object.entries(plots)) {
      const place = document.getElementById(`plot-${name}`);
      try {
        const full = { ...coloured(spec), config, datasets: structuredClone(data) };
        const many = data.cells !== undefined;
        const result = await vegaEmbed(place, full, { mode: "vega-lite", actions: false, ast: true, renderer: many ? "canvas" : "svg" });
        views.get(name)?.finalize();
        views.set(name, result);
        place.style.minHeight = "";
        // The place has a name and a description for readers; what is drawn in it says less than those.
        for (const drawing of all("svg, canvas", place)) drawing.setAttribute("aria-hidden", "true");
      } catch (error) {
        place.textContent = `This plot could not be drawn: ${error.message}`;
      }
      if (round !== drawn) return;
    }
    root.dataset.drawn = String(round);
  }
  drawAll();

  // --- Copy buttons, behind what can be typed as it is.
  async function copy(code) {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code); // no clipboard for this page: it is at least marked
      return document.execCommand("copy");
    }
    return true;
  }
  for (const code of all("code.copy")) {
    const press = document.createElement("button");
    press.type = "button";
    press.className = "copy-button";
    press.textContent = "Copy";
    press.setAttribute("aria-label", `Copy ${code.textContent}`);
    press.addEventListener("click", async () => {
      press.textContent = (await copy(code)) ? "Copied" : "Marked";
      setTimeout(() => (press.textContent = "Copy"), 1500);
    });
    code.after(press);
  }

  // --- Filters: what does not fit is hidden, cards and folds with it.
  const form = document.getElementById("filters");
  const cards = all("[data-card]").map((card) => {
    const about = `${card.querySelector("h3").textContent} ${all(":scope > .remedy", card).map((one) => one.textContent)}`;
    const entries = all("[data-severity]", card).map((entry) => ({
      entry,
      severity: entry.dataset.severity,
      where: entry.dataset.where.toLowerCase(),
      text: `${about} ${entry.textContent}`.toLowerCase(),
    }));
    return { card, entries, fold: card.querySelector(".fold") };
  });
  function filter() {
    const asked = new FormData(form);
    const severities = new Set(asked.getAll("severity"));
    const where = asked.get("where").trim().toLowerCase();
    const words = asked.get("text").trim().toLowerCase().split(/\s+/);
    const isAsked = Boolean(where || words[0] || asked.get("code"));
    let shown = 0;
    let total = 0;
    for (const { card, entries, fold } of cards) {
      let here = 0;
      for (const { entry, severity, where: place, text } of entries) {
        const fits =
          severities.has(severity) &&
          (!asked.get("code") || asked.get("code") === card.id) &&
          place.startsWith(where) &&
          words.every((word) => text.includes(word));
        if (entry.hidden === fits) entry.hidden = !fits;
        here += fits;
      }
      card.hidden = here === 0;
      if (fold) fold.open = isAsked && Boolean(fold.querySelector("li:not([hidden])"));
      shown += here;
      total += entries.length;
    }
    document.getElementById("shown").textContent = shown === total ? "" : `${shown.toLocaleString("en")} of ${total.toLocaleString("en")} shown`;
    document.getElementById("nothing").hidden = shown > 0;
  }
  if (form) {
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, select, textarea")) return;
      event.preventDefault();
      form.elements.text.focus();
    });
  }

  for (const map of all(".map")) map.scrollLeft = (map.scrollWidth - map.clientWidth) / 2;

  // --- Links to what is folded or filtered away.
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (form && target.closest("[hidden]")) {
      form.reset();
      filter();
    }
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    target.scrollIntoView();
    if (target.tabIndex === -1) target.focus({ preventScroll: true });
  }
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();
})();
