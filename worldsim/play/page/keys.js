// Controls: keys and touch buttons become one level in -1 .. 1 per action. Knows no wire.

const ARROWS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "space" };
const SIGNS = { orbit: ["↺", "↻"], tilt: ["▾", "▴"] };
const WORDS = {
  push_right: ["push left", "push right"], push_forward: ["push nearer", "push away"], orbit: ["orbit left", "orbit right"],
  tilt: ["look down", "look up"], curtain: ["curtain down", "curtain up"],
};
const TOGGLE_FRAMES = 4; // the Arena's curtain needs so many steps for its whole way

export const keyName = (code) => ARROWS[code] ?? code.replace("Key", "");
export const actionWords = (name) => WORDS[name] ?? [`${name} −`, `${name} +`];

/** What is held now. Calls `changed(levels)` whenever that changes. */
export class Controls {
  constructor(pad, changed) {
    this.pad = pad;
    this.changed = changed;
    this.bindings = [];
    this.held = new Set(); // of "index:sign"
    this.pulse = new Map(); // index -> {level, frames}
    this.up = new Map(); // index -> whether the last toggle went up
    this.told = "";
  }

  /** Take the bindings of a world, and make a touch pad of them. */
  bind(bindings) {
    this.bindings = bindings;
    this.release();
    this.up.clear();
    this.pad.replaceChildren(...bindings.flatMap((binding, index) => this.#buttons(binding, index)));
  }

  /** Whether a key code belongs to the controls. */
  owns(code) {
    return this.bindings.some(({ low, high, toggle }) => code !== "" && [low, high, toggle].includes(code));
  }

  press(code, down) {
    this.bindings.forEach(({ low, high, toggle }, index) => {
      if (code === low) this.#hold(index, -1, down);
      if (code === high) this.#hold(index, 1, down);
      if (code === toggle && down) this.toggle(index);
    });
  }

  /** Send an action all the way to its other side. */
  toggle(index) {
    const up = !this.up.get(index);
    this.up.set(index, up);
    this.pulse.set(index, { level: up ? 1 : -1, frames: TOGGLE_FRAMES });
    this.#tell();
  }

  /** Let go of everything: the page lost the keyboard, or a new scene began. */
  release() {
    this.held.clear();
    this.pulse.clear();
    this.pad.querySelectorAll(".held").forEach((button) => button.classList.remove("held"));
    this.#tell();
  }

  /** One more step was played: toggles come to their end. */
  stepped() {
    for (const [index, pulse] of this.pulse) if (--pulse.frames <= 0) this.pulse.delete(index);
    this.#tell();
  }

  levels() {
    return this.bindings.map((_, index) => {
      const level = this.held.has(`${index}:1`) - this.held.has(`${index}:-1`);
      return level || (this.pulse.get(index)?.level ?? 0);
    });
  }

  #hold(index, sign, down) {
    const key = `${index}:${sign}`;
    if (down) this.held.add(key);
    else this.held.delete(key);
    this.#tell();
  }

  #tell() {
    const levels = this.levels();
    const text = JSON.stringify(levels);
    if (text === this.told || levels.length === 0) return;
    this.told = text;
    this.changed(levels);
  }

  #buttons({ name, low, high, toggle }, index) {
    if (low === "") return [];
    const words = actionWords(name);
    if (toggle !== "") return [this.#button("⇅", name, { pointerdown: () => this.toggle(index) })];
    return [[low, -1], [high, 1]].map(([code, sign]) => {
      const button = this.#button(SIGNS[name]?.[(sign + 1) / 2] ?? keyName(code), words[(sign + 1) / 2], {});
      const set = (down) => (event) => {
        event.preventDefault();
        button.classList.toggle("held", down);
        this.#hold(index, sign, down);
      };
      button.addEventListener("pointerdown", set(true));
      for (const end of ["pointerup", "pointercancel", "pointerleave"]) button.addEventListener(end, set(false));
      return button;
    });
  }

  #button(sign, words, handlers) {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1; // the keyboard has keys of its own
    const large = document.createElement("b");
    large.textContent = sign;
    button.append(large, words);
    for (const [name, handler] of Object.entries(handlers)) button.addEventListener(name, handler);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    return button;
  }
}
