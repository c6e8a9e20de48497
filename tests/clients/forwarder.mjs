// Adds headers to every request and passes everything else as it comes: for clients that cannot send headers of their
// own.
//
//     node forwarder.mjs --to URL --port PORT --ready-file FILE [--header name=value]…
//
// It binds the port on 127.0.0.1, writes it to the ready file, and sends each request to the URL's origin, those
// for /mcp to the URL itself.
import { writeFileSync } from "node:fs";
import http from "node:http";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    to: { type: "string" },
    port: { type: "string", default: "0" },
    "ready-file": { type: "string" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const to = new URL(values.to);
const added = Object.fromEntries(values.header.map((text) => text.split(/=(.*)/s).slice(0, 2)));

const server = http.createServer((incoming, outgoing) => {
  const path = incoming.url === "/mcp" ? to.pathname : incoming.url;
  const request = http.request(
    { host: to.hostname, port: to.port, method: incoming.method, path, headers: { ...incoming.headers, ...added } },
    (answer) => {
      outgoing.writeHead(answer.statusCode, answer.headers);
      outgoing.flushHeaders();
      answer.pipe(outgoing);
      answer.on("error", () => outgoing.destroy());
    },
  );
  request.on("error", () => outgoing.destroy());
  // Whoever leaves first, the other side sees it.
  outgoing.on("close", () => request.destroy());
  incoming.pipe(request);
});
server.listen(Number(values.port), "127.0.0.1", () => writeFileSync(values["ready-file"], `${server.address().port}\n`));
