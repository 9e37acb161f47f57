"use strict";

/* Shows one mode at a time. The windows are read once, a layer's modes when it is opened. All text
   becomes text nodes, never markup. */
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE = 50; // matches that are shown at a time
  const LEADING = 64; // windows at an end whose next words are counted, at most an eighth of all
  const BINS = 60;
  const STRONG = 0.3; // of the largest part in a window: from here on tokens are underlined
  const by = (id) => document.getElementById(id);
  const hint = by("hint");
  const MINUS = "−";

  const make = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const number = (value, digits = 3) => {
    const large = Math.abs(value) >= 1e5;
    const text = large ? value.toExponential(digits - 1) : `${Number(value.toPrecision(digits))}`;
    return text.replaceAll("-", MINUS);
  };
  const signed = (value, digits = 3) => value === 0 ? "0"
    : (value > 0 ? "+" : "") + value.toPrecision(digits).replaceAll("-", MINUS);
  const percent = (value) => {
    const size = Math.abs(100 * value);
    return `${size < 10 ? number(size, 2) : Math.round(size)}%`;
  };
  const count = (value) => value.toLocaleString("en");

  const { tokens, words, labels } = JSON.parse(by("windows").textContent);
  const N = tokens.length;
  const leading = Math.max(1, Math.min(LEADING, Math.floor(N / 8)));
  const texts = tokens.map((row) => row.join(""));
  const searched = {
    texts: texts.map((text) => text.toLowerCase()),
    words: words.map((word) => word.toLowerCase()),
    labels: labels.map((row) => row.map((label) => label.toLowerCase())),
  };
  const tally = (values) => {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return counts;
  };
  const withWord = tally(words), withLabel = tally(labels.flat());

  const opened = new Map();
  const layers = [...document.querySelectorAll("script.layer")];
  function open(place) {
    if (!opened.has(place)) {
      const modes = JSON.parse(layers[place].textContent);
      for (const mode of modes) {
        const order = mode.scores.steps.map((_, i) => i);
        order.sort((a, b) => mode.scores.steps[b] - mode.scores.steps[a]);
        mode.rank = new Array(N);
        order.forEach((window, i) => { mode.rank[window] = i; });
        mode.order = order;
      }
      opened.set(place, modes);
    }
    return opened.get(place);
  }

  const chosen = { layer: 0, mode: 0, descending: true, shown: PAGE };
  const modes = () => open(chosen.layer);
  const mode = () => modes()[chosen.mode];
  const layerName = (place) => by("layer").options[place].text;
  const scoreOf = (of, window) => of.scores.steps[window] * of.scores.unit;
  const sign = (positive) =>
    make("span", { class: positive ? "plus" : "minus" }, positive ? "+" : MINUS);

  /* One window: rank and score, its tokens with their parts in the score, and the next word. */
  function windowItem(of, window, query = "") {
    const score = scoreOf(of, window);
    const item = make("li", {},
      make("header", {},
        make("b", {}, signed(score)),
        `rank ${count(of.rank[window] + 1)} of ${count(N)}`,
        labels[window].length ? make("span", {}, labels[window].join(", ")) : ""));
    const text = make("p", { class: "text" });
    const shares = of.shares[window];
    const parts = shares ? shares.steps.map((step) => step * shares.unit) : [];
    const largest = Math.max(...parts.map(Math.abs), 0);
    const hits = hitTokens(window, query);
    tokens[window].forEach((token, t) => {
      const span = make("span", {}, token);
      const part = parts[t] || 0, size = largest && Math.abs(part) / largest;
      if (size >= 0.02) {
        span.classList.add(part > 0 ? "up" : "down");
        span.classList.toggle("strong", size >= STRONG);
        span.style.setProperty("--part", size.toFixed(2));
        span.dataset.said = `position ${t + 1} of ${parts.length}: ${signed(part)} of ` +
          `${signed(score)}`;
      }
      if (hits.has(t)) span.classList.add("hit");
      text.append(span);
    });
    if (words[window]) {
      text.append(make("b", { class: "next" },
        make("span", { class: "unseen" }, " next word: "), words[window]));
    }
    item.append(text);
    if (largest) item.append(made(window, parts));
    return item;
  }

  /* In words, for whom colours say nothing: which positions make the score. */
  function made(window, parts) {
    const order = parts.map((_, t) => t).sort((a, b) => Math.abs(parts[b]) - Math.abs(parts[a]));
    const size = (positions) => positions.reduce((sum, t) => sum + Math.abs(parts[t]), 0);
    const named = order.slice(0, 4);
    const line = make("p", { class: "made" },
      `Largest parts (${percent(size(named) / size(order))} of all by size): `);
    named.forEach((t, i) => {
      const token = make("q", {}, tokens[window][t].trim() || "␣");
      line.append(i ? ", " : "", token, ` ${signed(parts[t], 2)}`);
    });
    return line;
  }

  /* The tokens that a match of the query in a window's text touches. */
  function hitTokens(window, query) {
    const hits = new Set(), scope = by("scope").value;
    if (!query || scope === "word" || scope === "label") return hits;
    const text = searched.texts[window];
    // Lower case may be longer than the text was; then no token is marked.
    if (text.length !== texts[window].length) return hits;
    for (let from = text.indexOf(query); from >= 0; from = text.indexOf(query, from + 1)) {
      let start = 0;
      tokens[window].forEach((token, t) => {
        const end = start + token.length;
        if (start < from + query.length && end > from) hits.add(t);
        start = end;
      });
    }
    return hits;
  }

  function matching(query) {
    const inText = (i) => searched.texts[i].includes(query);
    const inLabels = (i) => searched.labels[i].some((label) => label.includes(query));
    const tests = {
      all: (i) => inText(i) || searched.words[i].includes(query) || inLabels(i),
      text: inText,
      word: (i) => searched.words[i] === query,
      // A label as a whole if there is such a one: Case=Acc is part of Case=Acc,Nom.
      label: searched.labels.some((row) => row.includes(query))
        ? (i) => searched.labels[i].includes(query) : inLabels,
    };
    return texts.map((_, i) => i).filter(tests[by("scope").value]);
  }

  /* A button that searches for something that the page shows. */
  function finder(scope, query, attributes, ...children) {
    const button = make("button", { type: "button", ...attributes }, ...children);
    button.addEventListener("click", () => {
      by("query").value = query;
      by("scope").value = scope;
      search();
    });
    return button;
  }

  function showNumbers() {
    const of = mode(), first = modes()[0];
    const rows = [
      ["eigenvalue", number(of.value)],
      [`share of mode ${first.number}’s`, first.value ? percent(of.value / first.value) : "–"],
      ["share of the top singular pair", percent(of.share)],
    ];
    by("numbers").replaceChildren(
      ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  function showLabels() {
    const found = mode().labels;
    if (!found.length) {
      by("labels").replaceChildren(make("p", { class: "note" }, "None was chosen for this mode."));
      return;
    }
    const head = make("tr", {}, ...["end", "label", "average precision", "share"].map((name, i) =>
      make("th", i > 1 ? { scope: "col", class: "number" } : { scope: "col" }, name)));
    const rows = found.map(([label, direction, precision]) => {
      const button = finder("label", label, { title: "Show the windows with this label" }, label);
      const all = withLabel.get(label);
      return make("tr", {}, make("td", {}, sign(direction > 0)), make("td", {}, button),
        make("td", { class: "number" }, precision.toFixed(3)),
        make("td", { class: "number" }, all ? percent(all / N) : "–"));
    });
    by("labels").replaceChildren(make("table", {}, head, ...rows));
  }

  function showHistogram(found) {
    const of = mode(), { steps } = of.scores;
    const low = Math.min(0, steps[of.order[N - 1]]), high = Math.max(0, steps[of.order[0]]);
    const width = (high - low || 1) / BINS;
    const bins = (windows) => {
      const counts = new Array(BINS).fill(0);
      for (const i of windows) {
        counts[Math.min(BINS - 1, Math.floor((steps[i] - low) / width))] += 1;
      }
      return counts;
    };
    const all = bins(of.order), some = found ? bins(found) : [];
    // By the square root, so that few windows at an end are seen beside many in the middle.
    const highest = Math.sqrt(Math.max(...all));
    const svg = document.createElementNS(SVG, "svg");
    const put = (name, attributes) => {
      const made = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      svg.append(made);
    };
    const text = found
      ? `Scores of ${count(found.length)} matches among all ${count(N)} windows`
      : `Scores of all ${count(N)} windows`;
    svg.setAttribute("class", "histogram");
    svg.setAttribute("viewBox", `0 0 ${BINS} 40`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label",
      `${text}, from ${number(low * of.scores.unit)} to ${number(high * of.scores.unit)}`);
    for (const [counts, kind] of [[all, "all"], [some, "some"]]) {
      counts.forEach((value, i) => {
        const height = 40 * Math.sqrt(value) / highest;
        if (value) {
          put("rect", { class: kind, x: i + 0.08, y: 40 - height, width: 0.84, height });
        }
      });
    }
    const zero = -low / width;
    put("line", { x1: zero, x2: zero, y1: 0, y2: 40 });
    by("histogram").replaceChildren(svg,
      make("div", { class: "scale" },
        make("span", {}, signed(low * of.scores.unit)),
        make("span", {}, "line: 0; heights: √ of counts"),
        make("span", {}, signed(high * of.scores.unit))));
  }

  function showWords(id, windows) {
    const counted = [...tally(windows.map((i) => words[i]))].filter(([word]) => word);
    counted.sort((a, b) => b[1] - a[1] || withWord.get(a[0]) - withWord.get(b[0]));
    const shown = counted.slice(0, 10);
    const list = make("ol", {}, ...shown.map(([word, times]) => make("li", {},
      finder("word", word, { title: "Show the windows with this next word" },
        make("b", {}, word), ` ${times} of ${withWord.get(word)}`))));
    by(id).replaceChildren(
      `Next words of the ${windows.length} outermost windows, each of so many in all:`, list);
  }

  function showEnds() {
    const of = mode();
    const coloured = of.ends.flat().some((window) => window in of.shares);
    const legend = by("legend");
    if (coloured) {
      const up = make("span", { class: "text" }, make("span", { class: "up strong" }, "blue"));
      const down = make("span", { class: "text" }, make("span", { class: "down strong" }, "orange"));
      for (const sample of [up, down]) sample.firstChild.style.setProperty("--part", "1");
      legend.replaceChildren(
        "Colours show what each token’s position adds to the score: ", up,
        " (underlined) pushes it up, ", down, " (dotted) pushes it down; ",
        "the deeper the colour, the larger the part beside the largest one of its window. ",
        "Point at a token or touch it for its number.");
    } else {
      legend.replaceChildren("Tokens have no colours: the scores of this mode were not split by " +
        "position.");
    }
    ["plus", "minus"].forEach((end, i) => {
      by(`${end}-windows`).replaceChildren(...of.ends[i].map((window) => windowItem(of, window)));
      showWords(`${end}-words`, i ? of.order.slice(-leading) : of.order.slice(0, leading));
    });
  }

  function showMatches(found, query) {
    const of = mode();
    found.sort((a, b) => (of.rank[a] - of.rank[b]) * (chosen.descending ? 1 : -1));
    const far = found.filter((i) => of.rank[i] < leading).length;
    const near = found.filter((i) => of.rank[i] >= N - leading).length;
    by("matches").textContent = `${count(found.length)} of ${count(N)} windows match; ` +
      `${far} of them are among the ${leading} at the + end, ${near} among the ${leading} at the ` +
      `${MINUS} end`;
    by("order").textContent = chosen.descending
      ? "Show smallest scores first" : "Show largest scores first";
    by("order").hidden = found.length < 2;
    by("results").replaceChildren(
      ...found.slice(0, chosen.shown).map((window) => windowItem(of, window, query)));
    by("more").hidden = found.length <= chosen.shown;
  }

  function showList() {
    const all = modes(), top = all[0].value;
    by("mode").replaceChildren(...all.map((of, i) => {
      const [best] = of.labels;
      const name = best ? `${best[1] > 0 ? "+" : MINUS}${best[0]}` : "";
      return make("option", { value: i }, `${of.number}${name && `: ${name}`}`);
    }));
    by("modes").replaceChildren(...all.map((of, i) => {
      const [best] = of.labels;
      const bar = make("span", { class: "bar" });
      bar.style.width = `${100 * Math.max(0, Math.min(1, of.value / top))}%`;
      const name = make("span", { class: "name" });
      if (best) name.append(sign(best[1] > 0), ` ${best[0]}`);
      const button = make("button", { type: "button" }, make("span", {}, of.number), name,
        make("span", { class: "muted" }, number(of.value, 2)), bar);
      button.addEventListener("click", () => go(chosen.layer, i));
      return make("li", {}, button);
    }));
  }

  function show() {
    const query = by("query").value.trim().toLowerCase();
    const found = query ? matching(query) : null;
    by("heading").textContent = `Layer ${layerName(chosen.layer)}, mode ${mode().number}`;
    by("layer").value = chosen.layer;
    by("mode").value = chosen.mode;
    by("layer-before").disabled = chosen.layer === 0;
    by("layer-after").disabled = chosen.layer === layers.length - 1;
    by("mode-before").disabled = chosen.mode === 0;
    by("mode-after").disabled = chosen.mode === modes().length - 1;
    [...by("modes").querySelectorAll("button")].forEach((button, i) => {
      if (i === chosen.mode) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    showNumbers();
    showLabels();
    showHistogram(found);
    by("found").hidden = !found;
    by("ends").hidden = Boolean(found);
    document.body.classList.toggle("searching", Boolean(found));
    if (found) showMatches(found, query);
    else showEnds();
  }

  /* Keeps the present mode in sight of the list, without scrolling the page. */
  function reveal() {
    const list = by("modes").parentElement, item = by("modes").children[chosen.mode];
    const above = item.offsetTop - list.offsetTop;
    if (above < list.scrollTop) list.scrollTop = above;
    const below = above + item.offsetHeight - list.clientHeight;
    if (below > list.scrollTop) list.scrollTop = below;
  }

  function go(layer, position, announce = true) {
    const changed = layer !== chosen.layer || !by("mode").options.length;
    chosen.layer = layer;
    chosen.mode = Math.max(0, Math.min(modes().length - 1, position));
    chosen.shown = PAGE;
    if (changed) showList();
    show();
    reveal();
    history.replaceState(null, "", `#layer=${layerName(layer)}&mode=${mode().number}`);
    if (announce) {
      by("said").textContent =
        `${by("heading").textContent}: eigenvalue ${number(mode().value)}`;
    }
  }

  /* What the address names; the first layer and mode where it names none that is here. */
  function fromAddress(announce) {
    const named = new URLSearchParams(location.hash.slice(1));
    const layer = Math.max(0, layers.findIndex((_, i) => layerName(i) === named.get("layer")));
    const position = open(layer).findIndex((of) => String(of.number) === named.get("mode"));
    go(layer, Math.max(0, position), announce);
  }

  function search() {
    chosen.shown = PAGE;
    show();
    by("said").textContent = by("found").hidden ? "" : by("matches").textContent;
  }

  const step = (layers_, modes_) => {
    const layer = chosen.layer + layers_;
    if (layer < 0 || layer >= layers.length) return;
    const position = chosen.mode + modes_;
    if (!layers_ && (position < 0 || position >= modes().length)) return;
    go(layer, position);
  };

  by("layer").addEventListener("change", () => go(Number(by("layer").value), chosen.mode));
  by("mode").addEventListener("change", () => go(chosen.layer, Number(by("mode").value)));
  by("layer-before").addEventListener("click", () => step(-1, 0));
  by("layer-after").addEventListener("click", () => step(1, 0));
  by("mode-before").addEventListener("click", () => step(0, -1));
  by("mode-after").addEventListener("click", () => step(0, 1));
  by("query").addEventListener("input", search);
  by("scope").addEventListener("change", search);
  by("order").addEventListener("click", () => {
    chosen.descending = !chosen.descending;
    search();
  });
  by("more").addEventListener("click", () => {
    chosen.shown += PAGE;
    show();
  });
  addEventListener("hashchange", () => fromAddress(true));

  const keys = {
    ArrowLeft: () => step(0, -1), ArrowRight: () => step(0, 1),
    k: () => step(0, -1), j: () => step(0, 1),
    "[": () => step(-1, 0), "]": () => step(1, 0),
    "/": () => by("query").focus(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") hint.hidden = true;
    if (event.target.closest("input, select")) {
      if (event.key !== "Escape") return;
      event.preventDefault(); // which would empty the search
      event.target.blur();
    } else if (event.key in keys) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  /* A token's part in its window's score, beside the pointer. */
  function tell(event) {
    const token = event.target.closest?.("[data-said]");
    hint.hidden = !token;
    if (!token) return;
    hint.textContent = token.dataset.said;
    const box = token.getClientRects()[0];
    const room = document.documentElement.clientWidth - hint.offsetWidth - 8;
    hint.style.left = `${Math.max(8, Math.min(box.left, room))}px`;
    const above = box.top - hint.offsetHeight - 6;
    hint.style.top = `${above > 4 ? above : box.bottom + 6}px`;
  }
  document.addEventListener("pointerover", tell);
  document.addEventListener("pointerdown", tell);
  addEventListener("scroll", () => { hint.hidden = true; }, { passive: true });

  fromAddress(false);
})();
