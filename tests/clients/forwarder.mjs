// Adds headers to every request and passes everything else as it comes: for clients that cannot send headers of their
// own.
//
//     node forwarder.mjs --to URL --port PORT --ready-file FILE [--header name=value]… [--ca FILE]
//
// With --ca it goes on over TLS with HTTP/2, which these authorities vouch for. It binds the port on 127.0.0.1, writes it to the ready file, and sends each request to the URL's origin, those
// for /mcp to the URL itself.
import { readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    to: { type: "string" },
    port: { type: "string", default: "0" },
    "ready-file": { type: "string" },
    ca: { type: "string" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const to = new URL(values.to);
const added = Object.fromEntries(values.header.map((text) => text.split(/=(.*)/s).slice(0, 2)));

// What belongs to a connection of HTTP/1.1 and not to a request of HTTP/2.
const OF_THE_CONNECTION = ["connection", "host", "keep-alive", "transfer-encoding", "upgrade"];
let connection;

function overHttp2(incoming, outgoing, path) {
  if (!connection || connection.closed || connection.destroyed) {
    connection = http2.connect(to.origin, { ca: readFileSync(values.ca) });
    connection.on("error", () => connection.destroy());
  }
  const headers = { ...incoming.headers, ...added };
  for (const name of OF_THE_CONNECTION) delete headers[name];
  const request = connection.request({
    ":method": incoming.method,
    ":path": path,
    ":authority": incoming.headers.host,
    ...headers,
  });
  request.on("response", (answer) => {
    const fields = Object.entries(answer).filter(([name]) => !name.startsWith(":"));
    outgoing.writeHead(answer[":status"], Object.fromEntries(fields));
    outgoing.flushHeaders();
    request.pipe(outgoing);
  });
  request.on("error", () => outgoing.destroy());
  outgoing.on("close", () => request.close(http2.constants.NGHTTP2_CANCEL));
  incoming.pipe(request);
}

const server = http.createServer((incoming, outgoing) => {
  const path = incoming.url === "/mcp" ? to.pathname : incoming.url;
  if (values.ca) return overHttp2(incoming, outgoing, path);
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
  // The other side sees which one leaves first.
  outgoing.on("close", () => request.destroy());
  incoming.pipe(request);
});
server.listen(Number(values.port), "127.0.0.1", () => writeFileSync(values["ready-file"], `${server.address().port}\n`));
