// The official TypeScript client 2 calling `order`, whose questions it answers with themselves; prints the result's text.
//
//   node rounds_client.mjs --modules DIR --url URL [--header name=value]...
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    modules: { type: "string" },
    url: { type: "string" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const headers = Object.fromEntries(
  options.header.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
);
const require = createRequire(`${options.modules}/package.json`);
const { Client, StreamableHTTPClientTransport } = await import(
  pathToFileURL(require.resolve("@modelcontextprotocol/client")).href
);

const client = new Client(
  { name: "arbiter-tests", version: "1" },
  { capabilities: { elicitation: { form: {} } }, versionNegotiation: { mode: { pin: "2026-07-28" } } },
);
client.setRequestHandler("elicitation/create", (request) => ({
  action: "accept",
  content: { answer: `<${request.params.message}>` },
}));
await client.connect(new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } }));
const result = await client.callTool({ name: "order", arguments: { item: "mug" } });
await client.close();
process.stdout.write(`${result.content[0].text}\n`);
