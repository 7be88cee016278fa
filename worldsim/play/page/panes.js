// Drawing: frames into canvases, the difference of two, marks over them, moving thumbnails. Knows no wire and no keys.

/** Draw frame `index` of a clip {count, height, width, pixels} (RGB) into a canvas of its size. */
export function draw(canvas, clip, index = 0) {
  const { height, width, pixels } = clip;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const image = new ImageData(width, height);
  for (let from = index * height * width * 3, to = 0; to < image.data.length; from += 3, to += 4) {
    image.data[to] = pixels[from];
    image.data[to + 1] = pixels[from + 1];
    image.data[to + 2] = pixels[from + 2];
    image.data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Draw where two clips of one size differ: grey where equal, lighter or darker per colour. Return the mean difference, 0 to 1. */
export function drawDifference(canvas, first, second) {
  const pixels = new Uint8Array(first.pixels.length);
  let total = 0;
  for (let i = 0; i < pixels.length; i++) {
    const apart = second.pixels[i] - first.pixels[i];
    total += Math.abs(apart);
    pixels[i] = 128 + Math.max(-128, Math.min(127, apart));
  }
  draw(canvas, { ...first, pixels });
  return total / pixels.length / 255;
}

const BESIDE = { above: [0, -6, "middle"], left: [-6, 1.7, "end"], right: [6, 1.7, "start"] }; // where a mark's words stand

/** Put marks {x, y (shares), colour, text, side} over a screen, instead of those that were there. */
export function mark(svg, marks) {
  svg.replaceChildren(
    ...marks.flatMap(({ x, y, colour, text, side = "above" }) => {
      const at = { cx: 100 * x, cy: 100 * y };
      const rim = shape("circle", { ...at, r: 4, fill: "none", stroke: "#000", "stroke-width": 2.4 });
      const ring = shape("circle", { ...at, r: 4, fill: "none", stroke: colour, "stroke-width": 1.4 });
      const [dx, dy, anchor] = BESIDE[side];
      const words = shape("text", { x: at.cx + dx, y: at.cy + dy, "text-anchor": anchor });
      words.textContent = text;
      return [rim, ring, words];
    }),
  );
}

function shape(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** A small picture that plays its clip again and again while it is in the page. */
export function thumbnail(clip, frameMs = 150) {
  const canvas = document.createElement("canvas");
  let index = 0;
  draw(canvas, clip);
  if (clip.count > 1) {
    const timer = setInterval(() => {
      if (!canvas.isConnected) return clearInterval(timer);
      index = (index + 1) % clip.count;
      draw(canvas, clip, index);
    }, frameMs);
  }
  return canvas;
}

/** Play a clip once in a canvas, then call `after`; the returned function stops it. */
export function playOnce(canvas, clip, frameMs, after) {
  let index = 0;
  const timer = setInterval(() => {
    if (index < clip.count) return draw(canvas, clip, index++);
    clearInterval(timer);
    after();
  }, frameMs);
  return () => clearInterval(timer);
}
