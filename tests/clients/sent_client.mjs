// The official TypeScript client, versions 1 and 2, that opens pages for the person who uses it, calling `add`.
//
//   node sent_client.mjs --sdk 1|2 --modules DIR --url URL [--mode legacy|2026-07-28] [--header name=value]...
//
// stdout, a JSON object a line: {"open": URL} for each page; then it waits for a line on stdin, as for a person who comes
// back from there, and goes on. At the end {"result"} or {"refused": code}.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    sdk: { type: "string" },
    modules: { type: "string" },
    url: { type: "string" },
    mode: { type: "string", default: "legacy" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const headers = Object.fromEntries(
  options.header.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
);
const require = createRequire(`${options.modules}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/${name}`)).href);
const sdk =
  options.sdk === "2"
    ? await load("client")
    : {
        ...(await load("sdk/client/index.js")),
        ...(await load("sdk/client/streamableHttp.js")),
        ...(await load("sdk/types.js")),
      };

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const person = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function open(url) {
  say({ open: url });
  await person.next();
}

const mode = options.mode === "legacy" ? "legacy" : { pin: options.mode };
const client = new sdk.Client(
  { name: "arbiter-tests", version: "1" },
  { capabilities: { elicitation: { url: {} } }, versionNegotiation: { mode } },
);
client.setRequestHandler(options.sdk === "2" ? "elicitation/create" : sdk.ElicitRequestSchema, async (request) => {
  await open(request.params.url);
  return { action: "accept" };
});
await client.connect(new sdk.StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } }));

const add = () => client.callTool({ name: "add", arguments: { a: 20, b: 22 } });
async function called() {
  try {
    return await add();
  } catch (error) {
    if (!(error instanceof sdk.UrlElicitationRequiredError)) throw error;
    for (const elicitation of error.elicitations) await open(elicitation.url);
    return await add();
  }
}
try {
  say({ result: (await called()).structuredContent });
} catch (error) {
  say({ refused: /"code":"(\w+)"/.exec(error.message)?.[1] ?? error.data?.code ?? String(error) });
}
await client.close();
process.exit(0);
