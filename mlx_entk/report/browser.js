"use strict";

/* Shows one mode at a time. The inputs are read once, a kernel's modes when it is opened. All text
   becomes text nodes, never markup. */
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE = 50; // matches that are shown at a time
  const LEADING = 64; // inputs at an end whose names are counted, at most an eighth of all
  const BINS = 60;
  const STRONG = 0.3; // of the largest part in a window: from here on tokens are underlined
  const FEATURES = 6; // families that are shown of a mode before all are asked for
  const BESIDE = 4; // neighbours on each side
  const LEAST = 0.02; // a smaller share in a family is not worth a name in the list
  const NEARLY = 0.95; // a smaller family is best if it holds so much of what the best one does
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
    const size = Math.abs(value), far = size >= 1e5 || (size && size < 1e-3);
    const text = far ? value.toExponential(digits - 1) : `${Number(value.toPrecision(digits))}`;
    return text.replaceAll("-", MINUS);
  };
  const signed = (value, digits = 3) => value === 0 ? "0"
    : (value > 0 ? "+" : "") + value.toPrecision(digits).replaceAll("-", MINUS);
  const percent = (value) => {
    const size = Math.abs(100 * value);
    return `${size < 10 ? number(size, 2) : Math.round(size)}%`;
  };
  const count = (value) => value.toLocaleString("en");
  const tally = (values) => {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return counts;
  };

  const inputs = JSON.parse(by("inputs").textContent);
  const { explained } = inputs;
  const N = inputs.count;
  const everyInput = Array.from({ length: N }, (_, i) => i);
  const leading = Math.max(1, Math.min(LEADING, Math.floor(N / 8)));
  const placeOf = (i) => inputs.places ? inputs.places[i] : i;
  const nameOf = (i) => inputs.names[i] || "";

  /* A function of the inputs less its mean, of length 1; null if it is constant. */
  function standardised(value) {
    const values = Float32Array.from(everyInput, value);
    const mean = values.reduce((sum, v) => sum + v, 0) / N;
    let squares = 0;
    for (let i = 0; i < N; i += 1) {
      values[i] -= mean;
      squares += values[i] ** 2;
    }
    if (squares <= 1e-12 * N * mean * mean || squares === 0) return null;
    const length = Math.sqrt(squares);
    return values.map((v) => v / length);
  }

  /* What a kind of input can do: `item` draws one in a list, `text` is what a search finds,
     `columns` are numbers that a search compares, `name` is counted at the ends of a mode, and
     `features` are what each mode is correlated with. */
  const kinds = {
    tokens: () => {
      const { tokens, words, labels } = inputs;
      const texts = tokens.map((row) => row.join(""));
      return {
        one: "window", many: "windows", value: "score", names: "next word", list: "windows",
        text: (i) => texts[placeOf(i)],
        name: (i) => words[placeOf(i)] || nameOf(i),
        labels: (i) => labels[placeOf(i)],
        columns: {},
        item: windowItem,
      };
    },
    images: () => {
      const { sprite, columns, rows, size: [width, height], original } = inputs;
      const side = Math.max(48, Math.min(96, original[0]));
      // A rule of its own: as a custom property it would be parsed anew for every image.
      const sheet = new CSSStyleSheet(), tall = side * height / width;
      sheet.replaceSync(`.sprite { width: ${side}px; height: ${tall}px;
        background-image: url(data:image/png;base64,${sprite});
        background-size: ${columns * side}px ${rows * tall}px; }`);
      document.adoptedStyleSheets.push(sheet);
      const features = []; // each pixel's brightness over the inputs, once the sprite is decoded
      const image = new Image();
      image.onload = () => {
        const canvas = make("canvas", { width: columns * width, height: rows * height });
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
        for (let y = 0; y < height; y += 1) {
          for (let x = 0; x < width; x += 1) {
            features.push(standardised((i) => {
              const place = placeOf(i);
              const at = 4 * ((Math.floor(place / columns) * height + y) * canvas.width +
                (place % columns) * width + x);
              return data[at] + data[at + 1] + data[at + 2];
            }));
          }
        }
        showProfile();
      };
      image.src = `data:image/png;base64,${sprite}`;
      return {
        one: "image", many: "images", value: "value", names: "name", list: "gallery",
        text: () => "", columns: {}, features, shape: [width, height],
        item: (of, i) => {
          const place = placeOf(i), column = place % columns, row = Math.floor(place / columns);
          const picture = make("span", { class: "sprite", role: "img" });
          picture.style.backgroundPosition =
            `${-column * side}px ${-row * tall}px`;
          return pictured(of, i, picture);
        },
      };
    },
    drawings: () => ({
      one: "input", many: "inputs", value: "value", names: "name", list: "gallery",
      text: () => "", columns: {},
      item: (of, i) => pictured(of, i, make("img", {
        class: "drawn", src: `data:image/svg+xml;base64,${inputs.pictures[placeOf(i)]}`,
      })),
    }),
    pairs: () => {
      const { p, pairs } = inputs;
      const n = (i) => pairs ? pairs[0][placeOf(i)] : Math.floor(placeOf(i) / p);
      const m = (i) => pairs ? pairs[1][placeOf(i)] : placeOf(i) % p;
      return {
        one: "pair", many: "pairs", value: "value", names: "name", list: "chips", p, n, m,
        text: () => "",
        columns: {
          n, m, sum: (i) => (n(i) + m(i)) % p, difference: (i) => (n(i) - m(i) + p) % p,
        },
        item: (of, i) => make("li", {},
          make("b", {}, signed(of.at(i))), ` n = ${n(i)}, m = ${m(i)}`, named(i)),
      };
    },
    rows: () => {
      const { columns, values, largest } = inputs;
      const table = Object.fromEntries(
        columns.map((column, c) => [column, (i) => values[placeOf(i)][c]]));
      const few = columns.length <= 12;
      const features = columns.map((_, c) => standardised((i) => values[placeOf(i)][c]));
      return {
        one: "input", many: "inputs", value: "value", names: "name", list: "windows",
        text: () => "", columns: table, features,
        item: (of, i) => {
          const row = values[placeOf(i)];
          const cells = make("div", { class: few ? "cells" : "strip" });
          if (!few) {
            cells.setAttribute("role", "img");
            cells.setAttribute("aria-label", row.map((v, c) =>
              `${columns[c]} ${number(v)}`).join(", "));
          }
          row.forEach((value, c) => {
            const size = largest[c] ? Math.abs(value) / largest[c] : 0;
            const bar = make("i", { class: value < 0 ? "minus" : "plus" });
            bar.style.setProperty("--size", size.toFixed(3));
            const cell = make("span", {}, bar);
            cell.classList.toggle("zero", value === 0);
            if (few) cell.prepend(make("span", { class: "muted" }, columns[c]), ` ${number(value)}`);
            else cell.dataset.said = `${columns[c]}: ${number(value)}`;
            cells.append(cell);
          });
          return listed(of, i, cells);
        },
      };
    },
    texts: () => ({
      one: "input", many: "inputs", value: "value", names: "name", list: "windows",
      text: (i) => inputs.texts[placeOf(i)], columns: {},
      item: (of, i, query) => {
        const text = inputs.texts[placeOf(i)], line = make("p", { class: "text" });
        const at = query ? text.toLowerCase().indexOf(query) : -1;
        if (at < 0) line.append(text);
        else {
          line.append(text.slice(0, at), make("mark", {}, text.slice(at, at + query.length)),
            text.slice(at + query.length));
        }
        return listed(of, i, line);
      },
    }),
  };
  const kind = kinds[inputs.kind]();
  kind.name ??= nameOf;
  kind.labels ??= () => [];
  kind.columns.input = placeOf;
  const names = everyInput.map(kind.name);
  const searched = {
    texts: everyInput.map((i) => kind.text(i).toLowerCase()),
    names: names.map((name) => name.toLowerCase()),
    labels: everyInput.map((i) => kind.labels(i).map((label) => label.toLowerCase())),
  };
  const withName = tally(names);
  const withLabel = tally(everyInput.flatMap((i) => kind.labels(i)));

  const opened = new Map();
  const scripts = [...document.querySelectorAll("script.kernel")];
  function open(place) {
    if (!opened.has(place)) {
      const kernel = JSON.parse(scripts[place].textContent);
      kernel.modes.forEach((mode) => {
        mode.constant = (mode.constant || 0) / 1000;
        mode.features = mode.features.map((share) => share / 1000);
        [mode.best, mode.excess] = bestFamily(kernel, mode);
        mode.excess = Math.max(mode.excess, mode.constant);
        mode.group = kernel.groups.find(([a, b]) => a <= mode.number && mode.number <= b);
      });
      for (const family of kernel.families) {
        family.chance /= 1000;
        if (family.control !== null) family.control /= 1000;
      }
      opened.set(place, kernel);
    }
    return opened.get(place);
  }
  /* The values of a mode, in order; only of modes that are shown. */
  function ready(mode) {
    if (!mode.steps) {
      const text = atob(mode.scores), bytes = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
      const view = new DataView(bytes.buffer);
      mode.steps = Int16Array.from({ length: N }, (_, i) => view.getInt16(2 * i, true));
      mode.at = (i) => mode.steps[i] * mode.unit;
      mode.scores = null;
    }
    if (!mode.order) {
      mode.order = Uint32Array.from(everyInput).sort((a, b) => mode.steps[b] - mode.steps[a]);
      mode.rank = new Uint32Array(N);
      mode.order.forEach((input, i) => { mode.rank[input] = i; });
    }
    return mode;
  }
  /* The family that explains a mode best, the smallest of those that do so about equally; and what
     it holds above chance. */
  function bestFamily(kernel, mode) {
    const excess = mode.features.map((share, f) => share - kernel.families[f].chance / 1000);
    const most = Math.max(0, ...excess);
    let best = null;
    excess.forEach((value, f) => {
      if (most > 0 && value >= NEARLY * most && (best === null ||
          kernel.families[f].dimension < kernel.families[best].dimension)) best = f;
    });
    return [best, most];
  }

  const chosen = {
    kernel: 0, mode: 0, descending: true, shown: PAGE, list: [], all: false, sort: "", keep: "",
  };
  const kernel = () => open(chosen.kernel);
  const modes = () => kernel().modes;
  const mode = () => ready(modes()[chosen.mode]);
  const kernelName = (place) => by("kernel").options[place].text;
  const sign = (positive) =>
    make("span", { class: positive ? "plus" : "minus" }, positive ? "+" : MINUS);
  const named = (i) => nameOf(i) ? make("span", { class: "muted" }, ` ${nameOf(i)}`) : "";
  const addressOf = (place, mode_) =>
    `#${new URLSearchParams({ kernel: kernelName(place), mode: mode_.number })}`;
  const numberOf = (i) => `${kind.one} ${count(placeOf(i))}`;

  /* An input of a list: its value, rank and labels, and below it what it is. */
  function listed(of, i, ...drawn) {
    const labels = [...kind.labels(i), ...(nameOf(i) ? [nameOf(i)] : [])];
    return make("li", {},
      make("header", {},
        make("b", {}, signed(of.at(i))),
        `rank ${count(of.rank[i] + 1)} of ${count(N)}`,
        inputs.kind === "tokens" ? "" : make("span", {}, numberOf(i)),
        labels.length ? make("span", {}, labels.join(", ")) : ""),
      ...drawn);
  }
  /* An input of a gallery. */
  function pictured(of, i, picture) {
    const said = `${numberOf(i)}${nameOf(i) && `, ${nameOf(i)}`}: ${signed(of.at(i))}, ` +
      `rank ${count(of.rank[i] + 1)} of ${count(N)}`;
    picture.dataset.said = said;
    picture.setAttribute(picture.tagName === "IMG" ? "alt" : "aria-label", said);
    return make("li", {}, picture,
      make("span", { class: "caption" }, make("b", {}, signed(of.at(i), 2)), named(i)));
  }

  /* One window: rank and score, its tokens with their parts in the score, and the next word. */
  function windowItem(of, i, query = "") {
    const place = placeOf(i), tokens = inputs.tokens[place], word = inputs.words[place];
    const score = of.at(i);
    const text = make("p", { class: "text" });
    const shares = of.positions[i];
    const parts = shares ? shares.steps.map((step) => step * shares.unit) : [];
    const largest = Math.max(...parts.map(Math.abs), 0);
    const hits = hitTokens(i, query);
    tokens.forEach((token, t) => {
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
    if (word) {
      text.append(make("b", { class: "next" },
        make("span", { class: "unseen" }, " next word: "), word));
    }
    const item = listed(of, i, text);
    if (largest) item.append(made(tokens, parts));
    return item;
  }

  /* In words, for whom colours say nothing: which positions make the score. */
  function made(tokens, parts) {
    const order = parts.map((_, t) => t).sort((a, b) => Math.abs(parts[b]) - Math.abs(parts[a]));
    const size = (positions) => positions.reduce((sum, t) => sum + Math.abs(parts[t]), 0);
    const largest = order.slice(0, 4);
    const line = make("p", { class: "made" },
      `Largest parts (${percent(size(largest) / size(order))} of all by size): `);
    largest.forEach((t, i) => {
      const token = make("q", {}, tokens[t].trim() || "␣");
      line.append(i ? ", " : "", token, ` ${signed(parts[t], 2)}`);
    });
    return line;
  }

  /* The tokens that a match of the query in a window's text touches. */
  function hitTokens(i, query) {
    const hits = new Set(), scope = by("scope").value;
    if (!query || scope === "name" || scope === "label") return hits;
    const text = searched.texts[i];
    // Lower case may be longer than the text was; then no token is marked.
    if (text.length !== kind.text(i).length) return hits;
    for (let from = text.indexOf(query); from >= 0; from = text.indexOf(query, from + 1)) {
      let start = 0;
      inputs.tokens[placeOf(i)].forEach((token, t) => {
        const end = start + token.length;
        if (start < from + query.length && end > from) hits.add(t);
        start = end;
      });
    }
    return hits;
  }

  /* Tests of a query such as "n=3 x[0]>0.5": one for each comparison; null if it is none. */
  const compare = {
    "=": (a, b) => a === b, "<": (a, b) => a < b, ">": (a, b) => a > b,
    "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
  };
  const columns = new Map(
    Object.entries(kind.columns).map(([name, values]) => [name.toLowerCase(), values]));
  const literal = [...columns.keys()].sort((a, b) => b.length - a.length)
    .map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
  const COMPARISON = new RegExp(`^(${literal})\\s*(<=|>=|<|>|=)\\s*([-−+.\\de]+)[\\s,;]*`);
  function comparisons(query) {
    const tests = [];
    for (let rest = query; rest;) {
      const match = rest.match(COMPARISON), wanted = Number(match?.[3].replace("−", "-"));
      if (!match || Number.isNaN(wanted)) return null;
      const values = columns.get(match[1]), test = compare[match[2]];
      tests.push((i) => test(values(i), wanted));
      rest = rest.slice(match[0].length);
    }
    return tests;
  }
  function matching(query) {
    const tests = comparisons(query);
    if (tests) return everyInput.filter((i) => tests.every((test) => test(i)));
    const inText = (i) => searched.texts[i].includes(query);
    const inLabels = (i) => searched.labels[i].some((label) => label.includes(query));
    const scopes = {
      all: (i) => inText(i) || searched.names[i].includes(query) || inLabels(i),
      text: inText,
      name: (i) => searched.names[i] === query,
      // A label as a whole if there is such a one: Case=Acc is part of Case=Acc,Nom.
      label: searched.labels.some((row) => row.includes(query))
        ? (i) => searched.labels[i].includes(query) : inLabels,
    };
    return everyInput.filter(scopes[by("scope").value]);
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

  const headed = (heads, rows) => make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map(([name, numeric, title]) => make("th", {
      scope: "col", ...(numeric ? { class: "number" } : {}), ...(title ? { title } : {}),
    }, name)))),
    make("tbody", {}, ...rows));
  const cell = (text) => make("td", { class: "number" }, text);
  const share = (value) => {
    const bar = make("span", { class: "bar" });
    bar.style.width = `${100 * Math.max(0, Math.min(1, value))}%`;
    return bar;
  };

  function showNumbers() {
    const of = mode(), { groups, rank, modes: [first] } = kernel();
    const rows = [["eigenvalue", number(of.value)]];
    if (of !== first || of.share !== null) {
      rows.push([`share of mode ${first.number}’s`, first.value ? percent(of.value / first.value) : "–"]);
    }
    if (of.constant) rows.push(["share in the constants", percent(of.constant)]);
    if (of.trace !== null) rows.push(["share of the trace", percent(of.trace)]);
    if (of.share !== null) rows.push(["share of the top singular pair", percent(of.share)]);
    if (groups.length) {
      rows.push(["group that ends at a cliff", of.group ? groupName(of.group) : "none"]);
    }
    if (rank !== null && of.number >= rank) {
      rows.push(["noise floor", "below it: this mode is rounding"]);
    }
    by("numbers").replaceChildren(
      ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }
  const groupName = ([first, last]) => first === last ? `mode ${first}` : `modes ${first}–${last}`;

  /* The modes beside this one: of its group, if it has one. */
  function showNeighbours() {
    const of = mode(), [first, last] = of.group || [-Infinity, Infinity];
    const beside = modes().map((_, i) => i).filter((i) =>
      Math.abs(i - chosen.mode) <= BESIDE && modes()[i].number >= first &&
      modes()[i].number <= last);
    by("neighbours").replaceChildren(...beside.map((i) => {
      const other = modes()[i];
      const link = make("a", { href: addressOf(chosen.kernel, other) }, `${other.number}`);
      if (i === chosen.mode) link.setAttribute("aria-current", "true");
      link.title = `mode ${other.number}: ${bestName(other)}`;
      if (kind.p) {
        const canvas = make("canvas", { width: kind.p, height: kind.p, "aria-hidden": "true" });
        paint(canvas, ready(other));
        link.prepend(canvas);
      }
      return make("li", {}, link);
    }));
    by("beside").textContent = of.group ? "Beside it in its group" : "Beside it";
  }

  function bestName(of) {
    const [label] = of.labels;
    if (label) return `${label[1] > 0 ? "+" : MINUS}${label[0]}`;
    if (of.constant >= explained) return `constant ${percent(of.constant)}`;
    if (of.best === null || of.features[of.best] < LEAST) return "–";
    return `${kernel().families[of.best].name} ${percent(of.features[of.best])}`;
  }

  function showLabels() {
    if (!by("labels")) return;
    const found = mode().labels;
    if (!found.length) {
      by("labels").replaceChildren(make("p", { class: "note" }, "None was chosen for this mode."));
      return;
    }
    const rows = found.map(([label, direction, precision]) => {
      const button = finder("label", label, { title: "Show the windows with this label" }, label);
      const all = withLabel.get(label);
      return make("tr", {}, make("td", {}, sign(direction > 0)), make("td", {}, button),
        cell(precision.toFixed(3)), cell(all ? percent(all / N) : "–"));
    });
    by("labels").replaceChildren(headed(
      [["end"], ["label"], ["average precision", true], ["share", true]], rows));
  }

  function showFeatures() {
    if (!by("features")) return;
    const of = mode(), { families } = kernel();
    if (!families.length) {
      by("features").replaceChildren(make("p", { class: "note" },
        "The modes of this kernel are compared with no features."));
      return;
    }
    const excess = (f) => of.features[f] - families[f].chance;
    const order = families.map((_, f) => f).sort((a, b) => excess(b) - excess(a));
    const shown = chosen.all ? order : order.slice(0, FEATURES);
    const rows = shown.map((f) => {
      const { name, dimension, chance, control, of: where } = families[f];
      const button = make("button", {
        type: "button", title: "Sort the modes by their share in this family",
      }, name);
      button.addEventListener("click", () => sortBy(`family ${f}`));
      const alone = cell(control === null ? "–" : percent(control));
      if (where) alone.title = where;
      return make("tr", {},
        make("td", {}, button, share(of.features[f])), cell(percent(of.features[f])),
        cell(percent(chance)), alone, cell(dimension));
    });
    const more = make("button", { type: "button", class: "plain", "aria-expanded": `${chosen.all}` },
      chosen.all ? "Show fewer" : `Show all ${families.length} families`);
    more.addEventListener("click", () => {
      chosen.all = !chosen.all;
      showFeatures();
      by("features").querySelector(".plain")?.focus();
    });
    const verdict = of.excess >= explained ? [] : [make("p", { class: "note" },
      `No family holds ${percent(explained)} of this mode above chance.`)];
    by("features").replaceChildren(...verdict, headed([
      ["family"], ["share", true, "‖Fᵀv‖²: how much of the mode lies in the family"],
      ["chance", true, "The same of a random mode"],
      ["activations", true, "The largest share of any single mode of activations or outputs alone"],
      ["dimension", true, "Independent features of the family"],
    ], rows), families.length > FEATURES ? more : "");
  }

  function showParts() {
    const of = mode(), { parts } = kernel(), box = by("parts-section");
    const hinted = !parts.length && chosen.kernel === 0 && by("parts").dataset.hint;
    box.hidden = !parts.length && !hinted;
    if (box.hidden) return;
    if (!of.parts.length) {
      by("parts").replaceChildren(make("p", { class: "note" },
        parts.length ? "A mode below the noise floor has no shares." : hinted));
      return;
    }
    by("parts").replaceChildren(headed([["parameter"], ["share", true, "vᵀK_l v / vᵀK v: the part of its eigenvalue that is due to the parameter"]],
      parts.map((name, i) => {
        const place = [...by("kernel").options].findIndex((option) => option.text === name);
        const link = place < 0 ? make("span", {}, name)
          : make("a", { href: addressOf(place, open(place).modes[0]) }, name);
        return make("tr", {}, make("td", {}, link, share(of.parts[i] / 1000)),
          cell(percent(of.parts[i] / 1000)));
      })));
  }

  function showHistogram(found) {
    const of = mode(), { steps } = of;
    const low = Math.min(0, steps[of.order[N - 1]]), high = Math.max(0, steps[of.order[0]]);
    const width = (high - low || 1) / BINS;
    const bins = (chosenInputs) => {
      const counts = new Array(BINS).fill(0);
      for (const i of chosenInputs) {
        counts[Math.min(BINS - 1, Math.floor((steps[i] - low) / width))] += 1;
      }
      return counts;
    };
    const all = bins(of.order), some = found ? bins(found) : [];
    // By the square root, so that few inputs at an end are seen beside many in the middle.
    const highest = Math.sqrt(Math.max(...all));
    const svg = document.createElementNS(SVG, "svg");
    const put = (name, attributes) => {
      const placed = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) placed.setAttribute(key, value);
      svg.append(placed);
    };
    const values = `${kind.value}s of `;
    const text = found ? `${values}${count(found.length)} matches among all ${count(N)} ${kind.many}`
      : `${values}all ${count(N)} ${kind.many}`;
    svg.setAttribute("class", "histogram");
    svg.setAttribute("viewBox", `0 0 ${BINS} 40`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label",
      `${text}, from ${number(low * of.unit)} to ${number(high * of.unit)}`);
    for (const [counts, name] of [[all, "all"], [some, "some"]]) {
      counts.forEach((value, i) => {
        const height = 40 * Math.sqrt(value) / highest;
        if (value) {
          put("rect", { class: name, x: i + 0.08, y: 40 - height, width: 0.84, height });
        }
      });
    }
    const zero = -low / width;
    put("line", { x1: zero, x2: zero, y1: 0, y2: 40 });
    by("histogram").replaceChildren(svg,
      make("div", { class: "scale" },
        make("span", {}, signed(low * of.unit)),
        make("span", {}, "line: 0; heights: √ of counts"),
        make("span", {}, signed(high * of.unit))));
  }

  /* Maps of modes of pairs: n down, m across, blue above zero and orange below. */
  let colors = null;
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  function readColors() {
    const style = getComputedStyle(document.documentElement);
    const rgb = (name) => {
      const hex = style.getPropertyValue(name).trim().slice(1);
      return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
    };
    colors = { plus: rgb("--plus"), minus: rgb("--minus"), zero: rgb("--paper") };
  }
  /* Values from −1 to 1 in row-major order; those that `seen` is false of are faint. */
  function diverging(canvas, width, height, parts, seen = () => true) {
    if (!colors) readColors();
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    parts.forEach((part, place) => {
      const end = part > 0 ? colors.plus : colors.minus, size = Math.abs(part);
      for (let c = 0; c < 3; c += 1) {
        image.data[4 * place + c] = colors.zero[c] + (end[c] - colors.zero[c]) * size;
      }
      image.data[4 * place + 3] = seen(place) ? 255 : 40;
    });
    context.putImageData(image, 0, 0);
  }
  function paint(canvas, of, kept = null) {
    const { p } = kind, parts = new Float32Array(p * p);
    const largest = Math.max(Math.abs(of.steps[of.order[0]]), Math.abs(of.steps[of.order[N - 1]]), 1);
    for (let i = 0; i < N; i += 1) parts[kind.n(i) * p + kind.m(i)] = of.steps[i] / largest;
    diverging(canvas, p, p, parts, (place) => !kept || kept.has(cellAt.get(place)));
  }
  const cellAt = new Map();
  if (kind.p) {
    everyInput.forEach((i) => cellAt.set(kind.n(i) * kind.p + kind.m(i), i));
    by("map-section").hidden = false;
    const map = by("map");
    map.width = kind.p;
    map.height = kind.p;
    for (const id of ["m-ticks", "n-ticks"]) {
      by(id).append(...[0, Math.floor((kind.p - 1) / 2), kind.p - 1].map((n) =>
        make("span", {}, `${n}`)));
    }
    let cursor = [0, 0];
    const point = (n, m) => {
      cursor = [n, m];
      const input = cellAt.get(n * kind.p + m), box = map.getBoundingClientRect();
      const cellSize = box.width / kind.p;
      const said = input === undefined ? `n = ${n}, m = ${m}: not among the inputs`
        : `n = ${n}, m = ${m}: ${signed(mode().at(input))}`;
      tellAt(said, {
        left: box.left + (m + 1) * cellSize, top: box.top + n * cellSize,
        bottom: box.top + (n + 1) * cellSize,
      });
      const mark = by("map-mark");
      mark.hidden = false;
      mark.style.left = `${100 * m / kind.p}%`;
      mark.style.top = `${100 * n / kind.p}%`;
      mark.style.width = mark.style.height = `${100 / kind.p}%`;
    };
    const leave = () => {
      hint.hidden = true;
      by("map-mark").hidden = true;
    };
    map.addEventListener("pointermove", (event) => {
      const box = map.getBoundingClientRect(), { p } = kind;
      const clip = (value) => Math.max(0, Math.min(p - 1, Math.floor(value)));
      point(clip((event.clientY - box.top) / box.height * p),
        clip((event.clientX - box.left) / box.width * p));
    });
    map.addEventListener("pointerleave", leave);
    map.addEventListener("blur", leave);
    map.addEventListener("focus", () => point(...cursor));
    map.addEventListener("keydown", (event) => {
      const [n, m] = cursor, last = kind.p - 1;
      const moved = {
        ArrowUp: [Math.max(0, n - 1), m], ArrowDown: [Math.min(last, n + 1), m],
        ArrowLeft: [n, Math.max(0, m - 1)], ArrowRight: [n, Math.min(last, m + 1)],
        Home: [n, 0], End: [n, last],
      }[event.key];
      if (!moved || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      point(...moved);
    });
  }
  scheme.addEventListener("change", () => {
    colors = null;
    show();
  });
  function showMap(found) {
    if (!kind.p) return;
    const of = mode(), largest = Math.max(Math.abs(of.at(of.order[0])), Math.abs(of.at(of.order[N - 1])));
    paint(by("map"), of, found && new Set(found));
    by("map").setAttribute("aria-label",
      `Mode ${of.number} as a map over n and m: arrow keys read its values`);
    by("map-low").textContent = signed(-largest, 2);
    by("map-high").textContent = signed(largest, 2);
  }

  /* The correlation of a mode with each pixel or column. */
  function showProfile() {
    if (!kind.features?.length) return;
    const of = mode(), own = standardised((i) => of.steps[i]);
    by("profile-section").hidden = own === null;
    if (own === null) return;
    const found = kind.features.map((feature) => {
      let sum = 0;
      if (feature) for (let i = 0; i < N; i += 1) sum += own[i] * feature[i];
      return sum;
    });
    const largest = Math.max(...found.map(Math.abs), 1e-9);
    if (kind.shape) {
      const [width, height] = kind.shape;
      const canvas = make("canvas", { width, height, class: "profile", role: "img" });
      canvas.setAttribute("aria-label",
        `correlation of the mode with each pixel, at most ${number(largest)} in size`);
      diverging(canvas, width, height, found.map((r) => r / largest));
      by("profile").replaceChildren(canvas, ramp(-largest, largest));
      return;
    }
    const order = found.map((_, c) => c).sort((a, b) => Math.abs(found[b]) - Math.abs(found[a]));
    by("profile").replaceChildren(headed([["column"], ["correlation", true]],
      order.slice(0, FEATURES).map((c) => {
        const bar = share(Math.abs(found[c]));
        bar.classList.add(found[c] < 0 ? "below" : "above");
        return make("tr", {}, make("td", {}, inputs.columns[c], bar), cell(signed(found[c], 2)));
      })), order.length > FEATURES
      ? make("p", { class: "note" }, `The largest of ${order.length}.`) : "");
  }
  const ramp = (low, high) => make("p", { class: "scale-bar" }, make("span", {}, signed(low, 2)),
    make("span", { class: "ramp", "aria-hidden": "true" }), make("span", {}, signed(high, 2)));

  function showNames(id, chosenInputs) {
    const counted = [...tally(Array.from(chosenInputs, (i) => names[i]))].filter(([name]) => name);
    by(id).hidden = !counted.length;
    if (by(id).hidden) return;
    counted.sort((a, b) => b[1] - a[1] || withName.get(a[0]) - withName.get(b[0]));
    const list = make("ol", {}, ...counted.slice(0, 10).map(([name, times]) => make("li", {},
      finder("name", name, { title: `Show the ${kind.many} with this ${kind.names}` },
        make("b", {}, name), ` ${times} of ${withName.get(name)}`))));
    const what = `${kind.names[0].toUpperCase()}${kind.names.slice(1)}s`;
    by(id).replaceChildren(
      `${what} of the ${chosenInputs.length} outermost ${kind.many}, each of so many in all:`, list);
  }

  function showLegend() {
    const legend = by("legend"), of = mode();
    legend.hidden = inputs.kind !== "tokens" || !by("labels");
    if (legend.hidden) return;
    if (of.ends.flat().some((input) => input in of.positions)) {
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
  }

  function showEnds() {
    const of = mode();
    showLegend();
    ["plus", "minus"].forEach((end, i) => {
      by(`${end}-inputs`).className = kind.list;
      by(`${end}-inputs`).replaceChildren(...of.ends[i].map((input) => kind.item(of, input)));
      showNames(`${end}-names`, i ? of.order.slice(-leading) : of.order.slice(0, leading));
    });
  }

  function showMatches(found, query) {
    const of = mode();
    found.sort((a, b) => (of.rank[a] - of.rank[b]) * (chosen.descending ? 1 : -1));
    const far = found.filter((i) => of.rank[i] < leading).length;
    const near = found.filter((i) => of.rank[i] >= N - leading).length;
    by("matches").textContent = `${count(found.length)} of ${count(N)} ${kind.many} match; ` +
      `${far} of them are among the ${leading} at the + end, ${near} among the ${leading} at the ` +
      `${MINUS} end`;
    by("order").textContent = chosen.descending
      ? `Show smallest ${kind.value}s first` : `Show largest ${kind.value}s first`;
    by("order").hidden = found.length < 2;
    by("results").className = kind.list;
    by("results").replaceChildren(
      ...found.slice(0, chosen.shown).map((input) => kind.item(of, input, query)));
    by("more").hidden = found.length <= chosen.shown;
  }

  /* The modes to list, in order: by what is chosen above the list. */
  function listedModes() {
    const all = modes(), { families, rank } = kernel();
    const query = by("find").value.trim().toLowerCase(), keep = by("keep").value;
    const [, wanted] = keep.match(/^group (\d+)$/) || [];
    const [, chosenFamily] = by("sort").value.match(/^family (\d+)$/) || [];
    const kept = all.map((_, i) => i).filter((i) => {
      const of = all[i];
      if (keep === "above" && of.number >= rank) return false;
      if (keep === "unexplained" && of.excess >= explained) return false;
      if (wanted && of.group !== kernel().groups[wanted]) return false;
      if (!query) return true;
      if (/^\d+$/.test(query)) return `${of.number}` === query;
      const [, from, to] = query.match(/^(\d+)\s*[-–]\s*(\d+)$/) || [];
      if (from) return Number(from) <= of.number && of.number <= Number(to);
      return of.labels.some(([label]) => label.toLowerCase().includes(query)) ||
        of.features.some((value, f) => families[f].name.toLowerCase().includes(query) &&
          value - families[f].chance >= explained);
    });
    const by_ = {
      smallest: (a, b) => all[a].value - all[b].value,
      excess: (a, b) => all[b].excess - all[a].excess,
      largest: (a, b) => all[b].value - all[a].value,
      number: (a, b) => a - b,
    };
    kept.sort(chosenFamily === undefined ? by_[by("sort").value]
      : (a, b) => all[b].features[chosenFamily] - all[a].features[chosenFamily]);
    return [kept, chosenFamily];
  }

  function showList() {
    const all = modes(), top = Math.max(...all.map((of) => of.value));
    const [kept, family] = listedModes();
    chosen.list = kept;
    const hasNames = all.some((of) => of.labels.length || of.features.length);
    by("mode").replaceChildren(...kept.map((i) => {
      const name = bestName(all[i]);
      return make("option", { value: i }, `${all[i].number}${hasNames && `: ${name}`}`);
    }));
    by("shown-as").textContent = family === undefined ? "eigenvalue"
      : `share in ${kernel().families[family].name}`;
    by("modes").replaceChildren(...kept.map((i) => {
      const of = all[i], [label] = of.labels;
      const bar = make("span", { class: "bar" });
      const size = family === undefined ? of.value / top : of.features[family];
      bar.style.width = `${100 * Math.max(0, Math.min(1, size))}%`;
      const name = make("span", { class: "name" });
      if (label) name.append(sign(label[1] > 0), ` ${label[0]}`);
      else {
        if (hasNames) name.append(bestName(of));
        name.classList.toggle("muted", of.excess < explained);
      }
      const button = make("button", { type: "button" }, make("span", {}, of.number), name,
        make("span", { class: "muted" },
          family === undefined ? number(of.value, 2) : percent(of.features[family])), bar);
      button.dataset.mode = i;
      button.addEventListener("click", () => go(chosen.kernel, i));
      return make("li", {}, button);
    }));
    by("listed").textContent = kept.length === all.length ? `${count(all.length)} modes`
      : `${count(kept.length)} of ${count(all.length)} modes`;
    by("mode").disabled = !kept.length;
  }
  /* What the modes of this kernel can be sorted and filtered by. */
  function showChoices() {
    const { families, groups, rank } = kernel();
    const option = (value, text) => make("option", { value }, text);
    const before = [by("sort").value, by("keep").value];
    by("sort").replaceChildren(option("number", "number"),
      option("largest", "largest eigenvalue"), option("smallest", "smallest eigenvalue"));
    if (families.length) {
      by("sort").append(option("excess", "best share above chance"),
        make("optgroup", { label: "share in a family" },
          ...families.map(({ name }, f) => option(`family ${f}`, name))));
    }
    by("keep").replaceChildren(option("all", "all"));
    if (rank !== null) by("keep").append(option("above", "above the noise floor"));
    if (families.length) by("keep").append(option("unexplained", "that no feature explains"));
    by("keep").append(...groups.map((group, i) => option(`group ${i}`, `group ${groupName(group)}`)));
    by("keep").parentElement.hidden = by("keep").options.length === 1;
    for (const [id, value] of [["sort", before[0]], ["keep", before[1]]]) {
      by(id).value = [...by(id).options].some((o) => o.value === value) ? value
        : by(id).options[0].value;
    }
  }
  function sortBy(value) {
    by("sort").value = value;
    relist();
  }
  function relist() {
    showList();
    current();
    by("modes").parentElement.scrollTop = 0;
    by("said").textContent = `${by("listed").textContent}, by ${by("shown-as").textContent}`;
  }
  /* Marks the present mode in the list. */
  function current() {
    const at = chosen.list.indexOf(chosen.mode);
    by("mode").value = chosen.mode;
    by("mode-before").disabled = at === 0 || !chosen.list.length;
    by("mode-after").disabled = at === chosen.list.length - 1;
    for (const button of by("modes").querySelectorAll("button")) {
      if (Number(button.dataset.mode) === chosen.mode) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  function show() {
    const query = by("query").value.trim().toLowerCase();
    const found = query ? matching(query) : null;
    by("heading").textContent = `${kernelName(chosen.kernel)}, mode ${mode().number}`;
    by("kernel").value = chosen.kernel;
    by("kernel-before").disabled = chosen.kernel === 0;
    by("kernel-after").disabled = chosen.kernel === scripts.length - 1;
    current();
    showNumbers();
    showNeighbours();
    showLabels();
    showFeatures();
    showParts();
    showHistogram(found);
    showMap(found);
    showProfile();
    by("found").hidden = !found;
    by("ends").hidden = Boolean(found);
    document.body.classList.toggle("searching", Boolean(found));
    if (found) showMatches(found, query);
    else showEnds();
  }

  /* Keeps the present mode in sight of the list, without scrolling the page. */
  function reveal() {
    const list = by("modes").parentElement;
    const item = by("modes").children[chosen.list.indexOf(chosen.mode)];
    if (!item) return;
    const above = item.offsetTop;
    if (above < list.scrollTop) list.scrollTop = above;
    const below = above + item.offsetHeight - list.clientHeight;
    if (below > list.scrollTop) list.scrollTop = below;
  }

  function go(place, position, announce = true) {
    const changed = place !== chosen.kernel || !by("sort").options.length;
    chosen.kernel = place;
    chosen.mode = Math.max(0, Math.min(modes().length - 1, position));
    chosen.shown = PAGE;
    if (changed) {
      showChoices();
      showList();
    }
    hint.hidden = true;
    show();
    reveal();
    history.replaceState(null, "", addressOf(place, mode()));
    if (announce) {
      by("said").textContent =
        `${by("heading").textContent}: eigenvalue ${number(mode().value)}`;
    }
  }

  /* What the address names; the first kernel and mode where it names none that is here. */
  function fromAddress(announce) {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const place = Math.max(0, scripts.findIndex((_, i) => kernelName(i) === wanted.get("kernel")));
    const position = open(place).modes.findIndex((of) => String(of.number) === wanted.get("mode"));
    go(place, Math.max(0, position), announce);
  }

  function search() {
    chosen.shown = PAGE;
    show();
    by("said").textContent = by("found").hidden ? "" : by("matches").textContent;
  }

  /* To another kernel, or along the list: what it leaves out is passed over. */
  const step = (kernels, along) => {
    const place = chosen.kernel + kernels;
    if (place < 0 || place >= scripts.length) return;
    if (kernels) {
      go(place, chosen.mode);
      return;
    }
    const at = chosen.list.indexOf(chosen.mode);
    const next = at < 0 ? chosen.list[0] : chosen.list[at + along];
    if (next !== undefined) go(place, next);
  };

  by("kernel").addEventListener("change", () => go(Number(by("kernel").value), chosen.mode));
  by("mode").addEventListener("change", () => go(chosen.kernel, Number(by("mode").value)));
  by("kernel-before").addEventListener("click", () => step(-1, 0));
  by("kernel-after").addEventListener("click", () => step(1, 0));
  by("mode-before").addEventListener("click", () => step(0, -1));
  by("mode-after").addEventListener("click", () => step(0, 1));
  by("query").addEventListener("input", search);
  by("scope").addEventListener("change", search);
  for (const id of ["sort", "keep"]) by(id).addEventListener("change", relist);
  by("find").addEventListener("input", relist);
  by("find").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && chosen.list.length) go(chosen.kernel, chosen.list[0]);
  });
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
    f: () => {
      by("list").open = true;
      by("find").focus();
    },
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

  /* Beside the pointer: a token's part in its window's score, or what a picture is. */
  function tellAt(text, box) {
    hint.textContent = text;
    hint.hidden = false;
    const room = document.documentElement.clientWidth - hint.offsetWidth - 8;
    hint.style.left = `${Math.max(8, Math.min(box.left, room))}px`;
    const above = box.top - hint.offsetHeight - 6;
    hint.style.top = `${above > 4 ? above : box.bottom + 6}px`;
  }
  function tell(event) {
    const told = event.target.closest?.("[data-said]");
    if (told) tellAt(told.dataset.said, told.getClientRects()[0]);
    else if (event.target.id !== "map") hint.hidden = true;
  }
  document.addEventListener("pointerover", tell);
  document.addEventListener("pointerdown", tell);
  addEventListener("scroll", () => { hint.hidden = true; }, { passive: true });

  const wide = matchMedia("(min-width: 60rem)");
  const unfold = () => { by("list").open = wide.matches; };
  wide.addEventListener("change", unfold);
  unfold();
  fromAddress(false);
})();
