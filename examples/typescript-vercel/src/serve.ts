// `PORT=9080 npm start`, then `perdure deployments register http://127.0.0.1:9080`.
import "./polyfill.js";
import * as http2 from "node:http2";

const { createEndpointHandler } = await import("@restatedev/restate-sdk");
const { travel } = await import("./agent.js");

// The SDK's own serve() listens on every interface.
http2.createServer(createEndpointHandler({ services: [travel] })).listen(Number(process.env.PORT ?? 9080), "127.0.0.1");
