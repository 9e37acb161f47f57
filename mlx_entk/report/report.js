"use strict";

/* Hints under the pointer and for the keyboard, and sliders over training. Every figure brings its
   data as JSON in the coordinates of its SVG: panels with points, cells of an image, or frames. */
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const REACH = 25; // how near the pointer has to come to a point, in SVG units
  const hint = document.getElementById("hint");
  let place = () => {}; // puts the hint beside its mark again, wherever that has moved

  const element = (parent, name, attributes) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return parent.appendChild(made);
  };

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

  function setUp(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const svg = figure.querySelector("svg");
    const panels = data.panels.map((panel) => new Panel(panel, svg)).filter((p) => p.length);
    const mark = element(svg, "rect", { class: "mark", visibility: "hidden", rx: 4 });
    let panel = 0, index = -1;

    const clear = () => {
      hint.hidden = true;
      place = () => {};
      mark.setAttribute("visibility", "hidden");
    };

    const say = () => {
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
      say();
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
      say();
    });

    const slider = figure.querySelector("input");
    if (slider) {
      slider.addEventListener("input", () => {
        panels.filter((candidate) => candidate.frames)
          .forEach((candidate) => candidate.show(Number(slider.value)));
        figure.querySelector("output").textContent = data.labels[slider.value];
        slider.setAttribute("aria-valuetext", data.labels[slider.value]);
      });
    }
  }

  document.querySelectorAll("figure").forEach(setUp);
  addEventListener("scroll", () => place(), { passive: true, capture: true });
})();
