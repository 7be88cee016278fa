// The page: what is heard becomes pictures and words, what is pressed becomes messages.

import { Controls, actionWords, keyName } from "./keys.js";
import { Meter } from "./meter.js";
import { ScenePanel, fill } from "./panel.js";
import { draw, drawDifference, mark, playOnce, thumbnail } from "./panes.js";
import { Wire } from "./wire.js";

const $ = (id) => document.getElementById(id);
const screenOf = (name) => $(name).querySelector("canvas");
const marksOf = (name) => $(name).querySelector("svg");
const NUDGE = 0.02; // of the picture, by which an arrow key moves the cross
const LOOKS = { truth: { colour: "#2dd4bf", side: "above" }, dream: { colour: "#fb923c", side: "right" }, you: { colour: "#c4b5fd", side: "left" } };
const WIDE = 900; // pixels from which there is room for the list of keys

let now = null; // header of the last frame
let heldId = 0;
let question = null; // {colour, x, y, answered, stop}
let rate = 10;
let begunHere = false; // whether this page has asked for a scene since it connected

const meter = new Meter();
const panel = new ScenePanel();
const controls = new Controls($("pad"), (levels) => {
  heldId += 1;
  meter.asked(heldId);
  wire.say("hold", { levels, id: heldId });
});
const wire = new Wire({ json: (message) => HEARD[message.type]?.(message), binary: (parts) => SHOWN[parts.header.kind](parts), closed });

// ---- what is heard

const HEARD = {
  hello(world) {
    rate = world.rate;
    controls.bind(world.bindings);
    panel.bind(world);
    fill($("checkpoint"), world.checkpoints, world.checkpoint);
    fill($("steps"), world.steps, null);
    fill($("speed"), [1, 5, 10, 15, 20, 30], rate);
    fill($("view"), world.views, "frame");
    fill($("format"), world.formats, "webp");
    document.body.classList.toggle("arena", world.tasks.length > 0);
    $("challenge").disabled = !world.truth || world.tasks.length === 0;
    cover(world.truth ? "" : `No true world here. ${world.missing}`);
    keysHelp(world.bindings);
    if (!begunHere) openHash() || wire.say("reset", panel.reset());
    begunHere = true;
  },
  begun({ seed }) {
    $("seed").value = seed;
    $("forks").lastElementChild.replaceChildren();
    $("forks").hidden = true;
    controls.release();
    ask(null);
  },
  rewound({ count }) { tell(`Went back ${count} step${count === 1 ? "" : "s"}; P plays on.`); },
  link({ link, whole }) {
    history.replaceState(null, "", `#${link}`);
    navigator.clipboard?.writeText(location.href).catch(() => {}); // the address bar has it anyway
    tell(`The address now reproduces this scene and what was done in it${whole ? "" : " (its first 600 steps)"}.`);
  },
  challenge() { ask(null); },
  verdict,
  full({ sessions }) { banner(`All ${sessions} seats are taken. Reload the page in a while.`); },
  refused({ reason }) { tell(reason, true); },
};

const SHOWN = {
  frame({ header, panes }) {
    const stepped = now !== null && header.step > now.step;
    now = header;
    meter.answered(header.input);
    if (panes.truth && !question?.stop) draw(screenOf("truth"), panes.truth);
    draw(screenOf("dream"), panes.dream);
    if (!$("difference").hidden && panes.truth && header.view === "frame") {
      const apart = drawDifference(screenOf("difference"), panes.truth, panes.dream);
      $("difference-note").textContent = `${(100 * apart).toFixed(1)} %`;
    }
    if (stepped) controls.stepped();
    if (question?.answered && stepped) for (const name of ["truth", "dream"]) mark(marksOf(name), []);
    status();
  },
  plans({ header, panes }) {
    $("plans").hidden = false;
    $("plans").lastElementChild.replaceChildren(...Object.values(panes).map((clip, i) => {
      const figure = document.createElement("figure");
      figure.classList.toggle("best", i === header.best);
      figure.append(thumbnail(clip), header.scores[i]?.toFixed(2) ?? "-");
      return figure;
    }));
  },
  fork({ header, panes }) {
    const button = document.createElement("button");
    button.append(thumbnail(panes.dream), `${header.fork + 1}: step ${header.step}`);
    button.title = `key ${header.fork + 1}`;
    button.addEventListener("click", () => wire.say("return", { fork: header.fork }));
    $("forks").hidden = false;
    $("forks").lastElementChild.append(button);
    tell("Kept this moment. Do something else, and come back to it.");
  },
  question({ header, panes }) {
    const clip = panes["lead-in"];
    ask({ colour: header.colour, x: 0.5, y: 0.5, answered: false, stop: null });
    banner(`Watch the ${header.colour} body …`);
    cover("");
    question.stop = playOnce(screenOf("truth"), clip, 160, () => {
      question.stop = null;
      cover("The truth is hidden.");
      banner(`The ${question.colour} body is behind the curtain. Where? Click there, or move the cross with the arrows and press Enter.`);
      cross();
    });
  },
  file({ header, rest }) {
    const type = { mp4: "video/mp4", npz: "application/zip" }[header.name.split(".").pop()] ?? "image/webp";
    const anchor = document.createElement("a");
    anchor.href = URL.createObjectURL(new Blob([rest], { type }));
    anchor.download = header.name;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
    tell(`Saved ${header.name} (${Math.round(rest.length / 1024)} kB).`);
  },
};

function closed(code, reason) {
  begunHere = false;
  const why = code === 1013 ? "All seats are taken." : code === 1011 ? $("told").textContent : reason || "Is the server running, and does the address hold its token?";
  banner(`Not connected. ${why} `);
  const again = document.createElement("button");
  again.textContent = "Connect again";
  again.addEventListener("click", () => { banner(""); wire.open(); });
  $("banner").append(again);
  $("status").textContent = "not connected";
}

// ---- words

function tell(text, warn = false) {
  $("told").textContent = text;
  $("told").classList.toggle("warn", warn);
}

function banner(text) {
  $("banner").hidden = text === "";
  $("banner").textContent = text;
}

function cover(text) {
  const sheet = $("truth").querySelector(".cover");
  sheet.hidden = text === "";
  sheet.textContent = text;
}

function status() {
  const latency = meter.latency === null ? "" : ` · key to frame ${Math.round(meter.latency)} ms`;
  const times = `truth ${now.ms.truth} ms, dream ${now.ms.dream} ms`;
  const pace = now.paused ? "paused" : `${meter.framesPerSecond.toFixed(1)} frames/s`;
  const what = pace + (now.replaying ? `, ${now.replaying} steps of the link to go` : "");
  $("status").textContent = `step ${now.step} · ${what} · ${times}${latency}${now.dropped ? ` · ${now.dropped} dropped` : ""}`;
  const note = (name) => (now.reward[name] === null ? "" : `reward ${now.reward[name].toFixed(2)}${now.success[name] ? " ✓" : ""}`);
  $("truth-note").textContent = note("truth");
  $("truth-name").textContent = now.view === "frame" ? "truth" : now.view;
  $("dream-note").textContent = note("dream");
  $("pause").textContent = now.paused ? "Play" : "Pause";
  $("record").textContent = now.recorded === null ? "Record" : `Save ${now.recorded}`;
  press("record", now.recorded !== null);
  press("autopilot", now.autopilot !== "off");
  press("challenge", question !== null);
  $("rewind").disabled = now.rewind === 0;
  $("steps").value = now.num_steps;
  $("view").value = now.view;
  if (now.autopilot === "off") $("plans").hidden = true;
}

function press(id, on) {
  $(id).setAttribute("aria-pressed", String(on));
}

function keysHelp(bindings) {
  const rows = bindings.filter(({ low }) => low !== "").map(({ name, low, high, toggle }) =>
    [`${keyName(low)} ${keyName(high)}${toggle ? ` ${keyName(toggle)}` : ""}`, actionWords(name).join(", ") + (toggle ? ", there and back" : "")]);
  const commands = [...document.querySelectorAll(".bar button")].map((button) => [button.title, button.textContent.toLowerCase()]);
  $("keys").replaceChildren(...[...rows, ...commands, ["1 … 6", "go on from a kept moment"]].flatMap((row) => row.map((text, i) => {
    const element = document.createElement(i ? "dd" : "dt");
    element.textContent = text;
    return element;
  })));
}

// ---- the challenge

function ask(next) {
  question?.stop?.();
  question = next;
  document.body.classList.toggle("asking", next !== null);
  for (const name of ["truth", "dream"]) mark(marksOf(name), []);
  if (next === null) {
    banner("");
    $("score").hidden = true;
    if (!$("truth").querySelector(".cover").textContent.startsWith("No true")) cover("");
  }
}

function cross() {
  for (const name of ["truth", "dream"]) mark(marksOf(name), [{ ...question, colour: "#fff", text: "here?" }]);
}

function guess(x, y) {
  if (question === null || question.answered || question.stop) return;
  Object.assign(question, { x, y });
  wire.say("guess", { x, y });
}

function verdict({ pictures, errors_cm: errors, score }) {
  question.answered = true;
  cover("");
  const marks = Object.entries(pictures).map(([name, [x, y]]) => ({ x, y, text: name, ...LOOKS[name] }));
  for (const name of ["truth", "dream"]) mark(marksOf(name), marks);
  const dream = errors.dream === undefined ? "The dream's model tells no places." : `The dream was off by ${errors.dream.toFixed(0)} cm.`;
  banner(`You were off by ${errors.you.toFixed(0)} cm. ${dream} C asks again.`);
  $("score").hidden = false;
  $("score").textContent = `${score.won} of ${score.rounds} won · mean error: you ${score.you_cm.toFixed(0)} cm, dream ${score.dream_cm.toFixed(0)} cm`;
}

for (const name of ["truth", "dream"]) {
  $(name).querySelector(".screen").addEventListener("pointerdown", (event) => {
    const box = screenOf(name).getBoundingClientRect();
    guess((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
}

// ---- what is pressed

function openHash() {
  const link = location.hash.slice(1);
  if (link === "") return false;
  wire.say("open", { link });
  return true;
}

const DO = {
  pause: () => wire.say("pause", { on: !now.paused }),
  step: () => wire.say("step"),
  rewind: () => wire.say("rewind", { count: Math.max(1, Math.round(rate / 2)) }),
  fork: () => wire.say("fork"),
  fresh: () => { $("seed").value = Math.floor(Math.random() * 2 ** 31); DO.again(); },
  again: () => { wire.say("reset", panel.reset()); wire.say("pause", { on: false }); },
  differ: () => { $("difference").hidden = !$("difference").hidden; press("differ", !$("difference").hidden); wire.say("view", { name: now.view }); },
  record: () => wire.say("record", { on: now.recorded === null, format: $("format").value }),
  link: () => wire.say("link"),
  autopilot: () => wire.say("autopilot", { by: now.autopilot === "off" ? $("by").value : "off" }),
  challenge: () => {
    const leave = question !== null && !question.answered;
    wire.say("challenge", { on: !leave });
    if (leave) wire.say("pause", { on: false });
  },
};
const KEYS = {
  KeyP: "pause", Period: "step", KeyZ: "rewind", Backspace: "rewind", KeyF: "fork", KeyN: "fresh", KeyB: "again", KeyX: "differ",
  KeyR: "record", KeyU: "link", KeyO: "autopilot", KeyC: "challenge",
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function keyDown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea")) return;
  const onButton = event.target.closest?.("button, summary");
  if (onButton && ["Space", "Enter"].includes(event.code)) return;
  if (question !== null && !question.answered && now.paused && (event.code in ARROWS || event.code === "Enter")) {
    event.preventDefault();
    if (event.code === "Enter") return guess(question.x, question.y);
    const [dx, dy] = ARROWS[event.code].map((sign) => sign * NUDGE);
    question.x = Math.min(1, Math.max(0, question.x + dx));
    question.y = Math.min(1, Math.max(0, question.y + dy));
    if (!question.stop) cross();
  } else if (controls.owns(event.code)) {
    event.preventDefault();
    if (!event.repeat) controls.press(event.code, true);
  } else if (now !== null && event.code in KEYS && !event.repeat && !$(KEYS[event.code]).disabled) {
    event.preventDefault();
    DO[KEYS[event.code]]();
  } else if (now !== null && /^Digit[1-9]$/.test(event.code) && Number(event.code[5]) <= now.forks) {
    wire.say("return", { fork: Number(event.code[5]) - 1 });
  }
}

$("help").open = window.innerWidth > WIDE;
document.addEventListener("keydown", keyDown);
document.addEventListener("keyup", (event) => controls.press(event.code, false));
window.addEventListener("blur", () => controls.release());
window.addEventListener("hashchange", openHash);
document.addEventListener("visibilitychange", () => {
  if (document.hidden && now !== null) wire.say("pause", { on: true }); // nobody looks
});
for (const [id, action] of Object.entries(DO)) {
  $(id).addEventListener("click", (event) => {
    if (now === null) return;
    action();
    if (event.detail > 0) event.currentTarget.blur(); // clicked, not reached by keyboard: space goes to the world again
  });
}
const CHOOSE = {
  checkpoint: (name) => wire.say("checkpoint", { name }),
  steps: (count) => wire.say("steps", { count: Number(count) }),
  speed: (value) => { rate = Number(value); wire.say("speed", { rate }); },
  view: (name) => wire.say("view", { name }),
  by: (by) => now?.autopilot !== "off" && wire.say("autopilot", { by }),
};
for (const [id, choose] of Object.entries(CHOOSE)) {
  $(id).addEventListener("change", (event) => { choose(event.target.value); event.target.blur(); });
}
$("factors").addEventListener("submit", (event) => {
  event.preventDefault();
  DO.again();
  document.activeElement?.blur();
});
