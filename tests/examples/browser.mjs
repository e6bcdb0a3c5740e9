// As much of a browser as the page of examples/chat needs: `node browser.mjs PAGE QUERY [TEXT]` opens it, says TEXT, and
// prints what it shows, a line of JSON for each change, until an answer is complete.
import { readFileSync } from "node:fs";
import { webcrypto } from "node:crypto";

const [page, query, text] = process.argv.slice(2);
const elements = new Map();

class Element {
  children = [];
  listeners = {};
  value = "";
  append(child) { this.children.push(child); child.parent = this; }
  remove() { this.parent.children = this.parent.children.filter((child) => child !== this); }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  get textContent() { return this.text; }
  set textContent(text) { this.text = text; setTimeout(report); }
}

class EventSource {
  static CLOSED = 2;
  readyState = 0;
  lastEventId = "";
  listeners = {};
  constructor(url) { this.url = url; this.run(); }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  close() { this.readyState = EventSource.CLOSED; this.closed?.(); }
  async run() {
    while (this.readyState !== EventSource.CLOSED) {
      try {
        const headers = this.lastEventId ? { "last-event-id": this.lastEventId } : {};
        const response = await fetch(this.url, { headers });
        if (response.status !== 200) {
          this.readyState = EventSource.CLOSED; // as browsers do, when a server that starts says 503
          return this.onerror?.();
        }
        let buffer = "";
        for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
          buffer += piece;
          for (let end; (end = buffer.indexOf("\n\n")) >= 0; buffer = buffer.slice(end + 2)) this.dispatch(buffer.slice(0, end));
        }
      } catch {} // the server is gone: come back
      await new Promise((done) => setTimeout(done, 50));
    }
    report(true);
  }
  dispatch(block) {
    let [name, data] = ["message", ""];
    for (const line of block.split("\n")) {
      if (line.startsWith("event: ")) name = line.slice(7);
      if (line.startsWith("data: ")) data += line.slice(6);
      if (line.startsWith("id: ")) this.lastEventId = line.slice(4);
    }
    if (!data) return;
    const event = { data, lastEventId: this.lastEventId };
    (name === "message" ? this.onmessage : this.listeners[name])?.(event);
  }
}

function report(end = false) {
  const shown = document.getElementById("messages").children.map(({ className, textContent }) => [className, textContent]);
  console.log(JSON.stringify({ end, shown }));
  if (end) process.exit();
}

const document = {
  getElementById: (id) => elements.get(id) ?? elements.set(id, new Element()).get(id),
  createElement: () => new Element(),
};
const script = readFileSync(page, "utf8").match(/<script>\n(.*)<\/script>/s)[1];
new Function("document", "location", "EventSource", "crypto", script)(document, { search: query }, EventSource, webcrypto);
if (text !== undefined) {
  document.getElementById("text").value = text;
  document.getElementById("form").listeners.submit({ preventDefault() {} });
}
