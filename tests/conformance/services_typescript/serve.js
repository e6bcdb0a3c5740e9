// Serves the services until it is ended: PORT, MODE, VERSION, PREFIX, SERVICES, WITNESS_DIR say how.
import "./polyfill.js";
import * as http from "node:http";
import * as http2 from "node:http2";

const { createEndpointHandler } = await import("@restatedev/restate-sdk/node");
const { echo, failing, hidden, steps } = await import("./basic.js");
const { approval, counter, lazyStore, relay, store } = await import("./keyed.js");
const { caller } = await import("./calling.js");
const { cancellable, timers, versioned, waiting } = await import("./waiting.js");
const { PREFIX } = await import("./witness.js");

const all = [
  ...[echo, hidden, steps, failing, counter, store, lazyStore, relay, approval],
  ...[caller, timers, waiting, cancellable, versioned],
];
const wanted = process.env.SERVICES ? process.env.SERVICES.split(",").map((name) => PREFIX + name) : undefined;
const services = all.filter(({ name }) => wanted === undefined || wanted.includes(name));

// The SDK's own serve() listens on every interface.
const oneAnswer = process.env.MODE === "request_response";
const handler = createEndpointHandler({ services, bidirectional: !oneAnswer });
const server = oneAnswer ? http.createServer(handler) : http2.createServer(handler);
server.listen(Number(process.env.PORT), "127.0.0.1");
