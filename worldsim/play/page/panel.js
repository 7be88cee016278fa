// The settings: what can be chosen of the dream, and the factors of a scene. Knows no wire.

const MAIN = ["count", "posts"]; // factors that are asked for first
const $ = (id) => document.getElementById(id);

/** Fill a select with values, labelled by `label`. */
export function fill(select, values, chosen, label = String) {
  select.replaceChildren(...values.map((value) => new Option(label(value), value, false, String(value) === String(chosen))));
  select.disabled = values.length < 2;
}

/** The form of a scene's factors, made of what the server says about them. */
export class ScenePanel {
  /** Take a world's tasks and factors. */
  bind({ tasks, factors }) {
    fill($("task"), ["", ...tasks], tasks.includes("reach") ? "reach" : "", (name) => name || "the model's own reward");
    this.bodyFactors = factors.filter(({ scope }) => scope === "body");
    const scene = factors.filter(({ scope }) => scope === "scene");
    const put = (id, some) => $(id).replaceChildren(...some.map((factor) => this.#labelled(factor, factor.name)));
    put("main-factors", scene.filter(({ name }) => MAIN.includes(name)));
    put("more-factors", scene.filter(({ name }) => !MAIN.includes(name)));
    $("more").hidden = scene.length === 0;
    $("bodies").replaceChildren();
    $("factor-count")?.addEventListener("input", () => this.#bodies());
  }

  /** The message that begins the scene of the form. */
  reset() {
    const factors = {};
    for (const input of document.querySelectorAll("#main-factors input, #more-factors input")) {
      if (input.value !== "") factors[input.dataset.name] = value(input);
    }
    const rows = [...$("bodies").children];
    for (const { name } of this.bodyFactors) {
      const column = rows.map((row) => value(row.querySelector(`[data-name="${name}"]`)));
      if (column.some((item) => item !== null)) factors[name] = column;
    }
    return { seed: Number($("seed").value), task: $("task").value || null, factors };
  }

  /** Ask for one row of settings per body, as many as `count` says. */
  #bodies() {
    const count = Math.max(0, Math.min(5, Number($("factor-count").value) || 0));
    const rows = [...$("bodies").children].slice(0, count);
    while (rows.length < count) {
      const row = document.createElement("fieldset");
      const legend = document.createElement("legend");
      legend.textContent = `body ${rows.length + 1}`;
      row.append(legend, ...this.bodyFactors.map((factor) => this.#labelled(factor)));
      rows.push(row);
    }
    $("bodies").replaceChildren(...rows);
  }

  #labelled(factor, id) {
    const label = document.createElement("label");
    const input = document.createElement(factor.names.length ? "select" : "input");
    if (factor.names.length) {
      fill(input, ["", ...factor.names], "", (name) => name || "any");
    } else {
      Object.assign(input, { type: "number", min: factor.low, max: factor.high, step: factor.whole ? 1 : "any", placeholder: "any" });
    }
    if (id) input.id = `factor-${id}`;
    input.dataset.name = factor.name;
    label.title = `${factor.doc}: ${factor.allowed}`;
    label.append(factor.name.replaceAll("_", " ") + (factor.unit === "1" || factor.unit === "name" ? "" : `, ${factor.unit}`), input);
    return label;
  }
}

function value(input) {
  if (input.value === "") return null;
  return input.type === "number" ? Number(input.value) : input.value;
}
