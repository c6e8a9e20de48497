// The official TypeScript client, versions 1 and 2, that is told the gateway's URL and its own credentials, but neither
// issuer nor resource: it must find both from the gateway's 401.
//
//   node oauth_client.mjs --sdk 1|2 --modules DIR --url URL --client ID=SECRET --scope SCOPE --tool NAME
//       --arguments JSON [--mode legacy|auto|2026-07-28] [--header name=value]...
//
// Modes are those of ts_client.mjs; version 1 knows only `legacy`. First by the SDK's single functions, step by step;
// then by its transport, which is left to do it all. The headers go to the gateway alone. stdout: what was found, what
// the tool said and where requests went, as JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    sdk: { type: "string" },
    modules: { type: "string" },
    url: { type: "string" },
    client: { type: "string" },
    scope: { type: "string" },
    tool: { type: "string" },
    arguments: { type: "string" },
    mode: { type: "string", default: "legacy" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const pair = (text) => [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)];
const headers = options.header.map(pair);
const gateway = new URL(options.url);

const require = createRequire(`${options.modules}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/${name}`)).href);
const sdk =
  options.sdk === "2"
    ? await load("client")
    : {
        ...(await load("sdk/client/auth.js")),
        ...(await load("sdk/client/auth-extensions.js")),
        ...(await load("sdk/client/index.js")),
        ...(await load("sdk/client/streamableHttp.js")),
      };

// Adds what an agent of Arbiter's sends besides its token, and writes down where requests went.
const requests = [];
async function agentFetch(input, init = {}) {
  const url = new URL(input instanceof Request ? input.url : input);
  const toGateway = url.origin === gateway.origin;
  const all = new Headers(init.headers ?? (input instanceof Request ? input.headers : undefined));
  if (toGateway) for (const [name, value] of headers) all.set(name, value);
  const answer = await fetch(input, { ...init, headers: all });
  requests.push(`${init.method ?? "GET"} ${toGateway ? "gateway" : "issuer"}${url.pathname} ${answer.status}`);
  return answer;
}

async function stepByStep() {
  const refused = await agentFetch(gateway, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "ping" }),
  });
  const { resourceMetadataUrl, scope } = sdk.extractWWWAuthenticateParams(refused);
  const resource = await sdk.discoverOAuthProtectedResourceMetadata(gateway, { resourceMetadataUrl }, agentFetch);
  const server = await sdk.discoverAuthorizationServerMetadata(resource.authorization_servers[0], { fetchFn: agentFetch });
  return { status: refused.status, scope, resource, issuer: server.issuer };
}

async function leftToTheTransport() {
  const [clientId, clientSecret] = pair(options.client);
  const authProvider = new sdk.ClientCredentialsProvider({ clientId, clientSecret, scope: options.scope });
  const mode = ["legacy", "auto"].includes(options.mode) ? options.mode : { pin: options.mode };
  const client = new sdk.Client({ name: "arbiter-tests", version: "1" }, { versionNegotiation: { mode } });
  await client.connect(new sdk.StreamableHTTPClientTransport(gateway, { authProvider, fetch: agentFetch }));
  const result = await client.callTool({ name: options.tool, arguments: JSON.parse(options.arguments) });
  await client.close();
  return { result };
}

const found = await stepByStep();
requests.length = 0;
const called = await leftToTheTransport();
process.stdout.write(`${JSON.stringify({ ...found, ...called, requests })}\n`);
