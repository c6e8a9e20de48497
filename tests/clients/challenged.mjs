// The official TypeScript client with an OAuth provider and a token that is good for the gateway: does it let itself be
// sent to another authorization server?
//
//   node challenged.mjs --modules DIR --url URL --token TOKEN [--header name=value]…
//
// Prints as JSON what came of connecting, and whether a sign-in page would have been opened.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    modules: { type: "string" },
    url: { type: "string" },
    token: { type: "string" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const headers = Object.fromEntries(options.header.map((text) => text.split(/=(.*)/s).slice(0, 2)));
const require = createRequire(`${options.modules}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/${name}`)).href);
const { Client } = await load("sdk/client/index.js");
const { StreamableHTTPClientTransport } = await load("sdk/client/streamableHttp.js");

const found = { opened: null, error: null };
let registered;
const authProvider = {
  redirectUrl: "http://127.0.0.1:1/callback",
  clientMetadata: { redirect_uris: ["http://127.0.0.1:1/callback"], client_name: "challenged" },
  clientInformation: () => registered,
  saveClientInformation: (information) => (registered = information),
  tokens: () => ({ access_token: options.token, token_type: "Bearer" }),
  saveTokens() {},
  redirectToAuthorization: (url) => (found.opened = url.href),
  saveCodeVerifier() {},
  codeVerifier: () => "verifier",
};
const transport = new StreamableHTTPClientTransport(new URL(options.url), { authProvider, requestInit: { headers } });
try {
  await new Client({ name: "challenged", version: "1" }).connect(transport);
} catch (error) {
  found.error = String(error);
}
console.log(JSON.stringify(found));
process.exit(0);
