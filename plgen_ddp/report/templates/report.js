"use strict";
// One state, a threshold of each file and a name; `show` brings gallery, counts, plots and table in line with it.
// Texts are set as text, never as HTML: names come from the data.
(() => {
  const files = JSON.parse(document.getElementById("data").textContent).map((file) => {
    for (const key of ["labels", "per", "sizes", "kinds", "confusion"]) if (file[key]) file[key] = unpacked(file[key]);
    return file;
  });
  const byId = (id) => document.getElementById(id);
  const sliders = files.map((_, number) => byId(`slider-${number}`));
  const select = byId("name");
  const boxes = [...document.querySelectorAll(".label[data-step]")].map((element) => ({
    element, file: +element.dataset.file, step: +element.dataset.step, name: +element.dataset.name,
  }));
  const objects = [...document.querySelectorAll(".object, g.truth")];

  // A table as the counts above each step: Python sends those at each step, without the zeros.
  function unpacked({ shape: [scopes, steps, bins], at, n }) {
    const counts = new Float64Array(scopes * steps * bins);
    let place = 0;
    for (let i = 0; i < at.length; i++) counts[(place += at[i])] = n[i];
    for (let scope = 0; scope < scopes; scope++)
      for (let i = ((scope + 1) * steps - 1) * bins - 1; i >= scope * steps * bins; i--) counts[i] += counts[i + bins];
    return (scope, step) => counts.subarray((scope * steps + step) * bins, (scope * steps + step + 1) * bins);
  }

  // The end of an axis that holds `most`: four equal parts of round numbers.
  function axisEnd(most) {
    for (let power = 1; ; power *= 10)
      for (const part of [1, 2, 3, 5]) if (4 * part * power >= most) return 4 * part * power;
  }

  const thousands = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
  const short = (threshold) => String(+threshold.toPrecision(3));
  // At its first step, a file whose names have thresholds of their own has all its labels.
  const threshold = (file, step) => (step === 0 ? file.opens_at : short(file.grid[step]));
  const share = (value) => (value < 0 ? "–" : value.toFixed(3));

  function ticks(key, end) {
    for (let i = 0; i <= 4; i++) byId(`${key}-y${i}`).querySelector("text").textContent = thousands((end / 4) * i);
  }

  // Scales each bar, which is drawn as long as the axis, to its value.
  function bars(key, values, { lying = false, end = axisEnd(Math.max(1, ...values)), named = true } = {}) {
    if (named) ticks(key, end);
    values.forEach((value, i) => {
      const part = Math.max(value, 0) / end;
      byId(`${key}-b${i}`).style.transform = lying ? `scaleX(${part})` : `scaleY(${part})`;
    });
  }

  // Moves a mark that is drawn at the axes' lower left corner; x and y from 0 to 1.
  function move(key, mark, x, y) {
    const [left, right, top, bottom] = AREAS[key];
    byId(`${key}-${mark}`).setAttribute("transform", `translate(${x * (right - left)} ${-y * (bottom - top)})`);
  }
  const AREAS = Object.assign({}, ...files.map((file) => file.areas));

  function say(key, text) {
    const figure = byId(`figure-${key}`);
    figure.dataset.title ??= figure.getAttribute("aria-label");
    figure.setAttribute("aria-label", `${figure.dataset.title}. ${text}`);
  }

  function plots(file, number, step, scope) {
    const key = `p${number}`, { grid, images } = file, steps = grid.length;
    const above = grid.map((_, i) => file.labels(scope, i)[0]);
    const at = above.map((count, i) => count - (above[i + 1] ?? 0));
    bars(`${key}-scores`, at);
    bars(`${key}-counts`, above);
    for (let i = 0; i < steps; i++) byId(`${key}-scores-b${i}`).classList.toggle("pale", i < step);
    for (const plot of ["scores", "counts"]) move(`${key}-${plot}`, "m", (step + (plot === "counts" ? 0.5 : 0)) / steps, 0);
    say(`${key}-scores`, `${above[step]} labels above ${threshold(file, step)}.`);
    say(`${key}-counts`, `${above[step]} labels above ${threshold(file, step)}, ${above[0]} above ${threshold(file, 0)}.`);
    const per = file.per(scope, step);
    const having = [images, ...per];
    const images_with = having.map((count, i) => count - (having[i + 1] ?? 0));
    bars(`${key}-per`, images_with);
    say(`${key}-per`, `${images_with[0]} images have no label, ${images_with[1]} have one.`);
    bars(`${key}-sizes`, [...file.sizes(scope, step)]);
    const names = file.shown.map((name) => file.labels(name, step)[0]);
    bars(`${key}-names`, names, { lying: true });
    const chosen = (name) => scope === 0 || name === scope;
    file.shown.forEach((name, i) => byId(`${key}-names-b${i}`).classList.toggle("dim", !chosen(name)));
    if (!file.quality) return;

    const [precision, recall, f1] = file.quality[scope][step];
    for (const plot of ["pr", "f1"]) {
      let drawn = false;
      for (const curve of document.querySelectorAll(`[id^="${key}-${plot}-c"]`)) {
        const own = curve.id === `${key}-${plot}-c${scope}`;
        curve.style.display = own ? "" : "none";
        drawn ||= own;
      }
      byId(`figure-${key}-${plot}`).querySelector(".none").hidden = drawn;
    }
    move(`${key}-pr`, "d", recall, precision);
    move(`${key}-f1`, "d", grid[0] < 1 ? (grid[step] - grid[0]) / (1 - grid[0]) : 1, f1);
    say(`${key}-pr`, `Precision ${share(precision)}, recall ${share(recall)} above ${threshold(file, step)}.`);
    say(`${key}-f1`, `F1 ${share(f1)} above ${threshold(file, step)}.`);
    const kinds = [...file.kinds(scope, step)];
    bars(`${key}-kinds`, kinds, { lying: true });
    say(`${key}-kinds`, `${kinds[0]} right of ${kinds.reduce((a, b) => a + b, 0)}.`);
    bars(`${key}-ap`, file.shown.map((name) => file.average[name][step]), { lying: true, end: 1, named: false });
    file.shown.forEach((name, i) => byId(`${key}-ap-b${i}`).classList.toggle("dim", !chosen(name)));
    file.confused.forEach((name, row) => {
      const cells = file.confusion(row, step);
      const most = Math.max(1, cells.reduce((a, b) => a + b, 0));
      cells.forEach((count, column) => {
        const id = `${key}-conf-r${row}-c${column}`;
        byId(id).style.opacity = (0.06 + 0.6 * (count / most)) * (chosen(name) ? 1 : 0.3);
        const text = byId(`${id}-t`);
        (text.querySelector("text") ?? text).textContent = count ? thousands(count) : "";
        text.style.opacity = chosen(name) ? 1 : 0.35;
      });
    });
  }

  // A share without labels or without objects is a dash; so is all of a name that the file does not have.
  function figures(file, step, scope, labels, set) {
    const [precision, recall, f1] = scope < 0 ? [-1, -1, -1] : file.quality[scope][step];
    const objects = scope < 0 ? 0 : file.objects[scope];
    set("precision", labels ? share(precision) : "–");
    set("recall", objects ? share(recall) : "–");
    set("f1", objects ? share(f1) : "–");
    set("ap50", objects ? share(file.average[scope][step]) : "–");
  }

  function counts(file, number, step, scope) {
    const tiles = byId(`tiles-${number}`);
    const set = (what, text) => {
      const place = tiles.querySelector(`[data-count="${what}"]`);
      if (place) place.textContent = text;
    };
    const labels = scope < 0 ? 0 : file.labels(scope, step)[0];
    const names = scope === 0 ? file.scopes.filter((own) => own > 0).length : 1;
    set("labels", thousands(labels));
    set("an-image", (labels / file.images).toFixed(2));
    set("a-name", (labels / names).toFixed(1));
    set("empty", thousands(file.images - (scope < 0 ? 0 : file.per(scope, step)[0])));
    if (file.quality) figures(file, step, scope, labels, set);
    return labels;
  }

  function table(file, number, step, scope) {
    for (const row of byId(`table-${number}`).tBodies[0].rows) {
      const name = +row.dataset.scope;
      const set = (cell, text) => (row.querySelector(`[data-cell="${cell}"]`).textContent = text);
      row.classList.toggle("off", scope !== 0 && scope !== name);
      const labels = file.labels(name, step)[0];
      set("labels", thousands(labels));
      if (!file.quality) continue;
      figures(file, step, name, labels, set);
    }
  }

  function gallery(steps, name) {
    for (const box of boxes) {
      const shown = box.step >= steps[box.file] && (name === 0 || box.name === name - 1);
      if (box.element instanceof HTMLElement) box.element.hidden = !shown;
      else box.element.style.display = shown ? "" : "none";
    }
    for (const object of objects) object.classList.toggle("other", name !== 0 && +object.dataset.name !== name - 1);
    for (const card of document.querySelectorAll(".card")) {
      const parts = files.map((_, file) => card.querySelectorAll(`li.label[data-file="${file}"]:not([hidden])`).length);
      card.querySelector(".shown").textContent = parts.map((count) => `${count} label${count === 1 ? "" : "s"}`).join(" | ");
    }
    for (const item of document.querySelectorAll(".legend li"))
      item.classList.toggle("off", name !== 0 && +item.dataset.name !== name - 1);
  }

  let waiting = 0;
  function show() {
    const steps = sliders.map((slider) => +slider.value), name = +select.value;
    const said = files.map((file, number) => {
      const step = steps[number], scope = file.scopes[name];
      byId(`value-${number}`).textContent = threshold(file, step);
      sliders[number].setAttribute("aria-valuetext", threshold(file, step));
      if (scope >= 0) plots(file, number, step, scope);
      for (const key in file.areas) byId(`figure-${key}`).classList.toggle("absent", scope < 0);
      table(file, number, step, scope);
      return `${counts(file, number, step, scope)} labels above ${threshold(file, step)}`;
    });
    gallery(steps, name);
    for (const what of ["base", "truth"])
      document.body.classList.toggle(`no-${what}`, byId(`show-${what}`)?.checked === false);
    clearTimeout(waiting); // a reader of screens hears the last of many moves
    waiting = setTimeout(() => (byId("said").textContent = said.join("; ")), 400);
  }

  const form = document.querySelector(".controls");
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  show();
})();
