// The official TypeScript client 1 calling a tool that sends its person to a page; prints the addresses that it was asked
// to open, and how the call ended, as JSON.
//
//   node asking_client.mjs --modules DIR --url URL --tool NAME --page URL [--header name=value]...
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const text = { type: "string" };
const { values: options } = parseArgs({
  options: { modules: text, url: text, tool: text, page: text, header: { ...text, multiple: true, default: [] } },
});
const headers = Object.fromEntries(
  options.header.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
);
const require = createRequire(`${options.modules}/package.json`);
const sdk = (path) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk/${path}`)).href);
const { Client } = await sdk("client/index.js");
const { StreamableHTTPClientTransport } = await sdk("client/streamableHttp.js");
const { ElicitRequestSchema } = await sdk("types.js");

const pages = [];
const client = new Client({ name: "arbiter-tests", version: "1" }, { capabilities: { elicitation: { url: {} } } });
client.setRequestHandler(ElicitRequestSchema, (request) => {
  pages.push(request.params.url);
  return { action: "accept" };
});
await client.connect(new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } }));
let ended;
try {
  const result = await client.callTool({ name: options.tool, arguments: { url: options.page } });
  ended = result.content[0].text;
} catch (error) {
  ended = error.code;
  pages.push(...(error.data?.elicitations ?? []).map((page) => page.url));
}
await client.close();
process.stdout.write(`${JSON.stringify({ pages, ended })}\n`);
