// A third-party identity provider, the npm package `oidc-provider`, with the client credentials grant (RFC 6749 4.4),
// resource indicators (RFC 8707) and introspection (RFC 7662).
//
//   node idp_server.mjs --modules DIR --directory FILE --ready-file FILE [--host localhost]
//
// It binds a free port of 127.0.0.1 and writes its issuer URL, with this host, to the ready file. The directory says what
// it knows:
//   {"resources": [URI…], "scope": "…", "clients": {"<id>": {"secret", "format": "jwt" | "opaque", "alg", "agent_id"}}}
// and, where people sign in too, by authorization code with PKCE, on the package's own pages,
//   "people": {"<name>": ["<group>"…]}, "web_clients": {"<id>": {"secret", "redirect_uri"}}
// Clients are read once, resources, agents and groups again for every token. Keys are made at the start.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    modules: { type: "string" },
    directory: { type: "string" },
    "ready-file": { type: "string" },
    host: { type: "string", default: "127.0.0.1" },
  },
});
const directory = () => JSON.parse(readFileSync(options.directory, "utf8"));
const require = createRequire(`${options.modules}/package.json`);
const { default: Provider, errors } = await import(pathToFileURL(require.resolve("oidc-provider")).href);

const signingKey = (kid, alg, type, settings) => ({
  ...generateKeyPairSync(type, settings).privateKey.export({ format: "jwk" }),
  kid,
  alg,
  use: "sig",
});

const machines = Object.entries(directory().clients).map(([client_id, { secret }]) => ({
  client_id,
  client_secret: secret,
  grant_types: ["client_credentials"],
  response_types: [],
  redirect_uris: [],
  token_endpoint_auth_method: "client_secret_basic",
  scope: directory().scope,
}));
const websites = Object.entries(directory().web_clients ?? {}).map(([client_id, { secret, redirect_uri }]) => ({
  client_id,
  client_secret: secret,
  redirect_uris: [redirect_uri],
  scope: "openid",
}));
const groups = (name) => directory().people[name] ?? [];

const configuration = {
  jwks: {
    keys: [
      signingKey("rsa-1", "RS256", "rsa", { modulusLength: 2048 }),
      signingKey("ec-1", "ES256", "ec", { namedCurve: "P-256" }),
      signingKey("ed-1", "EdDSA", "ed25519", {}),
    ],
  },
  clients: [...machines, ...websites],
  // The ID token holds all claims that the scopes ask for.
  conformIdTokenClaims: false,
  claims: { openid: ["sub", "groups"] },
  findAccount: (_ctx, name) => ({ accountId: name, claims: () => ({ sub: name, groups: groups(name) }) }),
  cookies: { keys: [randomBytes(32).toString("hex")] },
  scopes: ["openid", directory().scope],
  ttl: { ClientCredentials: 600 },
  features: {
    devInteractions: { enabled: websites.length > 0 },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (_ctx, resource, client) => {
        const { resources, scope, clients } = directory();
        if (!resources.includes(resource)) throw new errors.InvalidTarget();
        const { format, alg } = clients[client.clientId];
        const jwt = { sign: { alg } };
        return { scope, accessTokenFormat: format, accessTokenTTL: 600, ...(format === "jwt" && { jwt }) };
      },
    },
  },
  extraTokenClaims: (_ctx, { clientId }) => ({ agent_id: directory().clients[clientId]?.agent_id }),
};

// The issuer's URL holds the port, so the port comes first.
const server = http.createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://${options.host}:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  server.on("request", provider.callback());
  writeFileSync(`${options["ready-file"]}.new`, `${issuer}\n`);
  renameSync(`${options["ready-file"]}.new`, options["ready-file"]);
});
