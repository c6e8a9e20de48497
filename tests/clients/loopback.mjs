// Loaded before `server-everything`, which would listen on every interface of the machine and cannot say which free
// port it got: keeps it on 127.0.0.1 and writes the port to $READY_FILE. It also refuses other hosts than this machine's,
// as the protocol demands of servers there and this one leaves out.
import { webcrypto } from "node:crypto";
import { writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";

// Node 18, which Debian 12 ships, has it only under its module's name.
globalThis.crypto ??= webcrypto;

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (_port, ...rest) {
  const done = rest.find((part) => typeof part === "function");
  this.once("listening", () => writeFileSync(process.env.READY_FILE, `${this.address().port}\n`));
  return listen.call(this, 0, "127.0.0.1", done);
};

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, response, ...rest) {
  const host = request?.headers?.host?.replace(/:\d+$/, "");
  if (event === "request" && !["127.0.0.1", "localhost", "[::1]"].includes(host)) {
    response.writeHead(403, { "content-type": "application/json" }).end('{"error":"this host is not served"}');
    return true;
  }
  return emit.call(this, event, request, response, ...rest);
};
