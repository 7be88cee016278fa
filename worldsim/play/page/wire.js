// The wire: one WebSocket, JSON up, JSON and binary messages down. Knows nothing of worlds or of the page.

/** Take a binary message apart: its header, its pictures as {name, count, height, width, pixels}, and what is left. */
export function unpack(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  let at = 4 + size;
  const panes = {};
  for (const pane of header.panes) {
    const length = pane.count * pane.height * pane.width * 3;
    panes[pane.name] = { ...pane, pixels: new Uint8Array(buffer, at, length) };
    at += length;
  }
  return { header, panes, rest: new Uint8Array(buffer, at) };
}

/** The token of the page's address, kept for this tab and taken out of the address, so that links do not hold it. */
function token() {
  const address = new URL(location.href);
  const given = address.searchParams.get("token");
  if (given !== null) {
    sessionStorage.setItem("token", given);
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }
  return sessionStorage.getItem("token") ?? "";
}

/** A connection that calls `heard.json(message)`, `heard.binary(unpacked)` and `heard.closed(code, reason)`. */
export class Wire {
  constructor(heard) {
    this.heard = heard;
    this.token = token();
    this.open();
  }

  open() {
    const address = new URL("play", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.hash = "";
    address.search = this.token ? `?token=${encodeURIComponent(this.token)}` : "";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) =>
      typeof data === "string" ? this.heard.json(JSON.parse(data)) : this.heard.binary(unpack(data));
    this.socket.onclose = ({ code, reason }) => this.heard.closed(code, reason);
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  /** Send a message of a type; nothing happens while there is no connection. */
  say(type, values = {}) {
    if (this.isOpen) this.socket.send(JSON.stringify({ type, ...values }));
  }
}
