// The numbers of the status line: frames a second, and the time from a key to the frame it led to. Knows no wire.

const SECONDS = 2;

export class Meter {
  constructor() {
    this.shown = []; // times of the last frames
    this.sent = new Map(); // id of held controls -> when they were sent
    this.latency = null;
  }

  /** Controls were sent under an id. */
  asked(id) {
    this.sent.set(id, performance.now());
    if (this.sent.size > 50) this.sent.delete(this.sent.keys().next().value);
  }

  /** A frame was shown that answers the controls of an id. */
  answered(id) {
    const now = performance.now();
    this.shown.push(now);
    while (this.shown[0] < now - 1000 * SECONDS) this.shown.shift();
    const sent = this.sent.get(id);
    if (sent === undefined) return;
    this.sent.delete(id);
    const took = now - sent;
    this.latency = this.latency === null ? took : 0.7 * this.latency + 0.3 * took;
  }

  get framesPerSecond() {
    const { shown } = this;
    const since = performance.now() - shown[0];
    return shown.length < 2 ? 0 : (1000 * (shown.length - 1)) / Math.max(since, 1);
  }
}
