"use strict";

/* Hints under the pointer and for the keyboard, sliders over training, and one spectrum drawn large.
   Every figure brings its data as JSON in the coordinates of its SVG: panels with points, cells of
   an image, or frames. Tables are sorted, folded, copied and saved; the contents follow the reader.
   Without this script a page shows everything all the same. */
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const REACH = 25; // how near the pointer has to come to a point, in SVG units
  const hint = document.getElementById("hint");
  let place = () => {}; // puts the hint beside its mark again, wherever that has moved

  const element = (parent, name, attributes, text = "") => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return parent.appendChild(made);
  };

  const html = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const button = (text, label, act) => {
    const made = html("button", { type: "button", "aria-label": label, title: label }, text);
    made.addEventListener("click", act);
    return made;
  };

  /* Tell a screen reader, and show for a moment on the button itself. */
  const say = (text) => {
    const said = document.getElementById("said");
    if (said) said.textContent = text;
  };
  const confirm = (pressed, text) => {
    say(text);
    const before = pressed.dataset.text ??= pressed.textContent;
    pressed.textContent = "✓";
    setTimeout(() => { pressed.textContent = before; }, 1200);
  };

  const save = (text, type, name) => {
    const address = URL.createObjectURL(new Blob([text], { type }));
    html("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  };
  const fileName = (identifier, ending) =>
    `${document.title} ${identifier}`.replace(/[^\p{L}\p{N}.]+/gu, "-").slice(-100) + ending;

  /* A panel as a list of items {x, y, width, height, text}; a cell has a size, a point has none. */
  class Panel {
    constructor(data, svg) {
      Object.assign(this, data);
      this.length = 0;
      if (this.cells) {
        this.columns = this.cells.columns.length;
        this.length = this.columns * this.cells.rows.length;
      } else if (this.frames) {
        this.columns = 0;
        this.length = this.frames.x.length;
        this.circles = this.frames.x.map((x) =>
          element(svg, "circle", { class: "moving", cx: x, cy: 0, r: 1.7 }));
        this.show(this.frames.values.length - 1);
      } else {
        this.columns = 0;
        this.length = this.points.x.length;
      }
    }

    show(frame) {
      this.frame = frame;
      const [left, top, right, bottom] = this.box;
      this.frames.values[frame].forEach((value, i) => {
        const y = this.height(value);
        this.circles[i].setAttribute("cy", y);
        this.circles[i].setAttribute("visibility", y < top || y > bottom ? "hidden" : "visible");
      });
    }

    height(value) {
      const [origin, decade] = this.frames.line;
      return (origin + decade * Math.log10(value)).toFixed(1);
    }

    contains(x, y) {
      const [left, top, right, bottom] = this.box;
      return x >= left - 6 && x <= right + 6 && y >= top - 6 && y <= bottom + 6;
    }

    item(index) {
      if (this.cells) {
        const { origin, step, rows, columns, values, quantity } = this.cells;
        const row = Math.floor(index / this.columns), column = index % this.columns;
        return {
          x: origin[0] + step[0] * column, y: origin[1] + step[1] * row,
          width: Math.abs(step[0]), height: Math.abs(step[1]),
          text: `${rows[row]}; ${columns[column]}: ${values[row][column]} ${quantity}`,
        };
      }
      if (this.frames) {
        const value = this.frames.values[this.frame][index];
        return { x: this.frames.x[index], y: Number(this.height(value)),
          text: `mode ${index}: eigenvalue ${value}` };
      }
      const { x, y, texts } = this.points;
      return { x: x[index], y: y[index], text: texts[index] };
    }

    /* The index of the item at a place, or -1. */
    at(x, y) {
      if (this.cells) {
        const { origin, step, rows } = this.cells;
        const column = Math.round((x - origin[0]) / step[0]);
        const row = Math.round((y - origin[1]) / step[1]);
        const inside = column >= 0 && column < this.columns && row >= 0 && row < rows.length;
        return inside ? row * this.columns + column : -1;
      }
      let best = -1, least = REACH ** 2;
      for (let i = 0; i < this.length; i++) {
        const item = this.item(i);
        const distance = (item.x - x) ** 2 + (item.y - y) ** 2;
        if (distance < least) [best, least] = [i, distance];
      }
      return best;
    }
  }

  /* Hints for the marks of a picture: under the pointer, and with the keyboard. */
  function explain(svg, panels) {
    const mark = element(svg, "rect", { class: "mark", visibility: "hidden", rx: 4 });
    let panel = 0, index = -1;

    const clear = () => {
      hint.hidden = true;
      place = () => {};
      mark.setAttribute("visibility", "hidden");
    };

    const show = () => {
      if (index < 0) return clear();
      const item = panels[panel].item(index);
      const width = item.width || 9, height = item.height || 9;
      for (const [key, value] of Object.entries({ x: item.x - width / 2, y: item.y - height / 2,
        width, height, rx: item.width ? 1 : 4.5, visibility: "visible" })) {
        mark.setAttribute(key, value);
      }
      hint.textContent = item.text;
      hint.hidden = false;
      place = () => {
        const { x, y } = new DOMPoint(item.x, item.y).matrixTransform(svg.getScreenCTM());
        const room = document.documentElement.clientWidth - hint.offsetWidth - 8;
        const above = y - hint.offsetHeight - 12;
        hint.style.left = `${Math.max(8, Math.min(x + 10, room))}px`;
        hint.style.top = `${above > 4 ? above : y + 14}px`;
      };
      place();
    };

    const follow = (event) => {
      const { x, y } = new DOMPoint(event.clientX, event.clientY)
        .matrixTransform(svg.getScreenCTM().inverse());
      const under = panels.findIndex((candidate) => candidate.contains(x, y));
      index = under < 0 ? -1 : panels[under].at(x, y);
      panel = Math.max(under, 0);
      show();
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow); // a finger does not move
    svg.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") clear();
    });
    svg.addEventListener("blur", clear);

    const move = (step) => {
      index = index < 0 ? 0 : Math.max(0, Math.min(panels[panel].length - 1, index + step));
    };
    const turn = (step) => {
      panel = (panel + step + panels.length) % panels.length;
      index = 0;
    };
    svg.addEventListener("keydown", (event) => {
      if (!panels.length) return;
      const row = panels[panel].columns || 10;
      const actions = {
        ArrowRight: () => move(1), ArrowLeft: () => move(-1),
        ArrowDown: () => move(row), ArrowUp: () => move(-row),
        PageDown: () => turn(1), PageUp: () => turn(-1),
        Home: () => { index = 0; }, End: () => { index = panels[panel].length - 1; },
        Escape: () => { index = -1; },
      };
      if (!(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
      show();
    });
  }

  function setUp(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const svg = figure.querySelector("svg");
    const panels = data.panels.map((panel) => new Panel(panel, svg)).filter((p) => p.length);
    explain(svg, panels);
    const slider = figure.querySelector("input");
    if (slider) {
      slider.addEventListener("input", () => {
        panels.filter((candidate) => candidate.frames)
          .forEach((candidate) => candidate.show(Number(slider.value)));
        figure.querySelector("output").textContent = data.labels[slider.value];
        slider.setAttribute("aria-valuetext", data.labels[slider.value]);
      });
    }
    const tools = html("div", { class: "tools screen" });
    const spectra = data.panels.filter((panel) => panel.spectrum);
    if (spectra.length) figure.prepend(tools);
    else figure.append(tools);
    pickLayer(figure, tools, spectra);
    tools.append(button("SVG", "Save this figure as an SVG file", (event) => {
      const shown = [...figure.querySelectorAll("svg")].find((one) => one.getClientRects().length);
      save(standalone(shown), "image/svg+xml", fileName(figure.id, ".svg"));
      confirm(event.currentTarget, "The figure was saved as an SVG file.");
    }));
  }

  /* A picture as a file of its own, in the colours that it has in the page now. */
  function standalone(svg) {
    const style = getComputedStyle(document.documentElement);
    const copy = svg.cloneNode(true);
    const own = svg.querySelectorAll("*"), copied = copy.querySelectorAll("*");
    own.forEach((one, i) => { // what the page's style says of shapes and texts
      const { fill, stroke, strokeWidth, strokeDasharray, opacity, fontWeight } =
        getComputedStyle(one);
      if (one.matches("text, [class]")) {
        copied[i].setAttribute("style", `${copied[i].getAttribute("style") || ""};fill:${fill};` +
          `stroke:${stroke};stroke-width:${strokeWidth};stroke-dasharray:${strokeDasharray};` +
          `opacity:${opacity};font-weight:${fontWeight}`);
      }
    });
    copy.querySelectorAll(".mark").forEach((mark) => mark.remove());
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    copy.setAttribute("style", `font-family:sans-serif;font-size:${getComputedStyle(svg).fontSize}`);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    const paper = html("x").appendChild(element(copy, "rect", { width, height }));
    paper.setAttribute("fill", style.getPropertyValue("--paper"));
    copy.prepend(paper);
    const colour = (_, name) => style.getPropertyValue(name).trim();
    return new XMLSerializer().serializeToString(copy).replace(/var\((--\w+)\)/g, colour);
  }

  /* One kernel's spectrum, as wide as the page is, on a logarithmic or a linear scale. */
  function pickLayer(figure, tools, panels) {
    if (!panels.length) return;
    const together = figure.querySelector(".wide");
    const alone = html("div", { class: "alone" });
    together.after(alone);
    const select = html("select");
    panels.forEach(({ spectrum }, i) => select.append(html("option", { value: i }, spectrum.name)));
    if (panels.length > 1) select.append(html("option", { value: "all" }, "all, side by side"));
    const scales = html("fieldset", {}, html("legend", {}, "Scale"));
    for (const scale of ["log", "linear"]) {
      const radio = html("input", { type: "radio", name: `scale-${figure.id}`, value: scale });
      radio.checked = scale === "log";
      scales.append(html("label", {}, radio, ` ${scale}`));
    }
    tools.append(html("label", {}, "Kernel ", select), scales);
    let drawn = "";
    const draw = (afresh = true) => {
      const all = select.value === "all";
      together.hidden = !all;
      alone.hidden = all;
      scales.hidden = all;
      const linear = scales.querySelector("input:checked").value === "linear";
      const width = Math.max(280, Math.min(1200, Math.floor(alone.clientWidth)));
      const wanted = `${select.value} ${linear} ${width}`;
      if (all || (!afresh && drawn === wanted)) return;
      drawn = wanted;
      drawSpectrum(alone, panels[select.value], linear, width);
    };
    select.addEventListener("change", draw);
    scales.addEventListener("change", draw);
    draw();
    new ResizeObserver(() => draw(false)).observe(alone);
  }

  const tenTo = (power) =>
    "10" + String(power).replace(/[-\d]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);

  /* Round numbers from 0 to a largest one, at most so many of them. */
  function steps(largest, most, whole = false) {
    let step = 10 ** Math.floor(Math.log10(largest / most));
    step *= [1, 2, 5, 10].find((factor) => largest / (step * factor) <= most);
    if (whole) step = Math.max(1, step);
    return Array.from({ length: Math.floor(largest / step + 1e-9) + 1 }, (_, i) => i * step);
  }

  function drawSpectrum(parent, { spectrum, points }, linear, width) {
    const { name, floor, groups } = spectrum;
    const { texts } = points, values = spectrum.values.slice(0, texts.length);
    const height = Math.round(Math.max(250, Math.min(430, 0.45 * width)));
    const [left, top, right, bottom] = [64, 14, width - 12, height - 42];
    const largest = Math.max(...values), last = Math.max(values.length - 1, 1);
    const margin = Math.max(0.5, 0.02 * last);
    const x = (mode) => left + (right - left) * (mode + margin) / (last + 2 * margin);
    const log = (value) => Math.log10(value / spectrum.bottom) / Math.log10(1.6 * largest / spectrum.bottom);
    const y = (value) =>
      bottom - (bottom - top) * (linear ? value / (1.06 * largest) : log(value));
    const scale = linear ? "linear" : "logarithmic";
    const svg = element(parent, "svg", {
      class: "drawing large", viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0,
      "aria-label": `Eigenvalues of ${name} by mode, ${scale} scale`,
    });
    const line = (of, x1, y1, x2, y2) => element(svg, "line", { class: of, x1, y1, x2, y2 });
    const text = (of, at, down, anchor, said) =>
      element(svg, "text", { class: of, x: at, y: down, "text-anchor": anchor }, said);
    groups.forEach(([first, end], i) => {
      if (end >= values.length) return;
      const of = `of-${i % 4}`, from = x(first - 0.5), to = x(end + 0.5);
      element(svg, "rect", { class: `group ${of}`, x: from, y: top, width: to - from, height: bottom - top });
      line(of, to, top, to, bottom);
      const before = to > width - 120;
      text(`name ${of}`, to + (before ? -5 : 5), top + 12 + 16 * (i % 6), before ? "end" : "start",
        first === end ? `mode ${first}` : `modes ${first}–${end}`);
    });
    let ticks = steps(1.06 * largest, 6).map((value) => [value, String(Number(value.toPrecision(6)))]);
    if (!linear) {
      const from = Math.ceil(Math.log10(spectrum.bottom)), to = Math.floor(Math.log10(1.6 * largest));
      const every = Math.ceil((to - from + 1) / 8);
      ticks = [];
      for (let power = to; power >= from; power -= every) ticks.push([10 ** power, tenTo(power)]);
      if (largest < 200 * spectrum.bottom) { // powers of ten alone would be one or two
        ticks = [from - 1, from, to].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power))
          .filter((value) => value > spectrum.bottom && value < 1.6 * largest)
          .map((value) => [value, String(Number(value.toPrecision(1)))]);
      }
    }
    for (const [value, label] of ticks) {
      line("grid", left, y(value), right, y(value));
      text("tick", left - 6, y(value) + 4, "end", label);
    }
    for (const mode of steps(last, Math.max(2, Math.floor(width / 80)), true)) {
      line("axis", x(mode), bottom, x(mode), bottom + 4);
      text("tick", x(mode), bottom + 17, "middle", String(mode));
    }
    line("axis", left, bottom, right, bottom);
    line("axis", left, top, left, bottom);
    text("tick", (left + right) / 2, height - 6, "middle", "mode");
    const title = text("tick", 0, 0, "middle", "eigenvalue");
    title.setAttribute("transform", `translate(13 ${(top + bottom) / 2}) rotate(-90)`);
    if (floor >= spectrum.bottom) {
      line("floor", left, y(floor), right, y(floor));
      text("noise", right - 4, y(floor) + (linear ? -4 : 13), "end", "noise floor");
    } else if (floor > 0) {
      text("noise", right - 4, bottom - 6, "end", `noise floor below, at ${floor.toPrecision(1)}`);
    }
    const panel = { box: [left, top, right, bottom], points: { x: [], y: [], texts } };
    values.forEach((value, mode) => {
      panel.points.x.push(x(mode));
      panel.points.y.push(y(value));
      element(svg, "circle", { class: "eigenvalue", cx: x(mode).toFixed(1), cy: y(value).toFixed(1), r: 2.6 });
    });
    parent.replaceChildren(svg);
    explain(svg, [new Panel(panel, svg)]);
  }

  /* The value by which a cell is sorted: a number, a text, or null for nothing, which comes last. */
  function valueOf(cell) {
    const text = (cell.dataset.value ?? cell.textContent).trim().replace("−", "-");
    if (text === "" || text === "–") return null;
    const range = text.match(/^(\d+)–(\d+)$/); // of modes: by the first one, then by the last
    if (range) return Number(range[1]) + 1e-6 * Number(range[2]);
    const number = text.replace(/(\d),(?=\d{3})/g, "$1").match(/^[<>≤≥]?\s*([-+]?\d*\.?\d+(?:e[-+]?\d+)?)/i);
    return number ? Number(number[1]) : text;
  }

  function compareCells(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, undefined, { numeric: true });
  }

  function setUpTable(details) {
    const table = details.querySelector("table"), title = details.querySelector("summary > :first-child").textContent;
    const body = table.tBodies[0], rows = [...body.rows];
    // Rows that have to stay together: a row, those folded below it, and those that go on with it,
    // whose first cell is empty.
    const blocks = [];
    for (const row of rows) {
      const goesOn = row.classList.contains("folded") || row.cells[0].textContent.trim() === "";
      if (goesOn && blocks.length) blocks.at(-1).push(row);
      else blocks.push([row]);
    }
    const heads = [...(table.tHead?.rows[0].cells ?? [])];
    if (blocks.length > 1) heads.forEach((head, column) => {
      const name = head.textContent || "name";
      const sorts = html("button", { type: "button", class: "sorts", title: `Sort by ${name}` });
      sorts.append(...head.childNodes);
      head.append(sorts);
      sorts.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = now === null ? "ascending" : now === "ascending" ? "descending" : null;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        const keyed = blocks.map((block) => [valueOf(block[0].cells[column]), block]);
        if (next) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          keyed.sort(([a], [b]) => a === null || b === null ? compareCells(a, b) : sign * compareCells(a, b));
        }
        body.append(...keyed.flatMap(([, block]) => block));
        say(next ? `${title}: sorted by ${name}, ${next}` : `${title}: in its own order`);
      });
    });
    for (const block of blocks) {
      const folded = block.filter((row) => row.classList.contains("folded"));
      if (!folded.length) continue;
      const toggle = button(`${folded.length} families`, "Show each of the families of this space", () => {
        const open = toggle.getAttribute("aria-expanded") !== "true";
        toggle.setAttribute("aria-expanded", open);
        folded.forEach((row) => { row.hidden = !open; });
      });
      toggle.className = "folds screen";
      toggle.setAttribute("aria-expanded", "false");
      folded.forEach((row) => { row.hidden = true; });
      const lead = block[0];
      const where = [...lead.cells].find((cell, i) => cell.textContent !== folded[0].cells[i].textContent);
      (where ?? lead.cells[0]).append(toggle);
    }

    const contents = () => [...table.rows].map((row) => [...row.cells].map((cell) =>
      [...cell.childNodes].filter((node) => !node.matches?.(".folds"))
        .map((node) => node.textContent).join("").trim()));
    const copy = button("Copy", `Copy the table ${title}`, async (event) => {
      const pressed = event.currentTarget;
      const text = contents().map((row) => row.map((cell) => cell.replace(/\s+/g, " ")).join("\t")).join("\n");
      confirm(pressed, await put(text) ? `Copied the table ${title}.` : "The browser did not let the page copy.");
    });
    const csv = button("CSV", `Save the table ${title} as a CSV file`, (event) => {
      const lines = contents().map((row) => row.map(quoted).join(","));
      save("\ufeff" + lines.join("\r\n") + "\r\n", "text/csv;charset=utf-8", fileName(details.id, ".csv"));
      confirm(event.currentTarget, `Saved the table ${title} as a CSV file.`);
    });
    details.querySelector(".wide").before(html("div", { class: "tools screen" }, copy, csv));
  }

  /* A cell of a CSV file; a text that a spreadsheet would take for a formula begins with ' there. */
  function quoted(cell) {
    const formula = /^[=+@\t\r]|^-(?![\d.])/.test(cell) ? `'${cell}` : cell;
    return /[",\r\n]/.test(formula) ? `"${formula.replaceAll('"', '""')}"` : formula;
  }

  async function put(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { // an older way, for browsers that refuse this one to a page that is a file
      const area = html("textarea", { class: "unseen" });
      const focused = document.activeElement;
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      focused?.focus();
      return done;
    }
  }

  /* Mark the section in view, and open what a link leads to. */
  function setUpContents(nav) {
    const list = nav.querySelector("details");
    const beside = () => getComputedStyle(nav).position === "sticky";
    const fit = () => { list.open = beside(); };
    matchMedia("(min-width: 1100px)").addEventListener("change", fit);
    fit();
    const links = [...nav.querySelectorAll("a")];
    const targets = links.map((link) => document.getElementById(link.hash.slice(1)));
    const mark = () => {
      const above = targets.filter((target) => target?.getBoundingClientRect().top < 0.3 * innerHeight);
      const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
      const current = atEnd ? targets.at(-1) : above.at(-1) ?? targets[0];
      links.forEach((link, i) => {
        if (targets[i] === current) link.setAttribute("aria-current", "location");
        else link.removeAttribute("aria-current");
      });
    };
    addEventListener("scroll", mark, { passive: true });
    mark();
    links.forEach((link, i) => link.addEventListener("click", () => {
      if (targets[i]?.matches("details")) targets[i].open = true;
      if (!beside()) list.open = false;
    }));
  }

  document.querySelectorAll("figure").forEach(setUp);
  document.querySelectorAll("details.table").forEach(setUpTable);
  document.querySelectorAll("nav.contents").forEach(setUpContents);
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details.table").forEach((details) => { details.open = true; });
  });
  addEventListener("scroll", () => place(), { passive: true, capture: true });
})();
