// The official TypeScript client: begins a task, asks about one, or listens for a resource; prints what came of it as JSON.
//
//   node ts_owner.mjs --modules DIR --url URL [--header name=value]... begin | ask TASK | listen URI
//
// Tasks are done by version 1 of the SDK, `listen` by version 2.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const LISTEN_MS = 20_000;
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    modules: { type: "string" },
    url: { type: "string" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const [what, about] = positionals;
const headers = Object.fromEntries(
  options.header.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
);
const require = createRequire(`${options.modules}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/${name}`)).href);
const info = { name: "arbiter-tests", version: "1" };

// What a request gave, or the error of the protocol that it ended with: version 2 keeps the body of a refusal as text.
const noted = (promise) =>
  promise.catch((error) => {
    const { code, message } = error.data?.text ? JSON.parse(error.data.text).error : error;
    if (typeof code !== "number") throw error;
    return { error: { code, message } };
  });

async function tasks() {
  const { Client } = await load("sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await load("sdk/client/streamableHttp.js");
  const { CallToolResultSchema } = await load("sdk/types.js");
  const client = new Client(info, { capabilities: {} });
  await client.connect(new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } }));
  const mine = client.experimental.tasks;
  let said;
  if (what === "begin") {
    for await (const message of mine.callToolStream({ name: "report", arguments: {} }, CallToolResultSchema, { task: { ttl: 60_000 } })) {
      if (message.type === "error") throw message.error;
      if (message.type === "taskCreated") said = { task: message.task.taskId };
    }
  } else {
    said = {
      get: await noted(mine.getTask(about)),
      result: await noted(mine.getTaskResult(about, CallToolResultSchema)),
      list: await noted(mine.listTasks()),
      cancel: await noted(mine.cancelTask(about)),
    };
  }
  await client.close();
  return said;
}

async function listen() {
  const { Client, StreamableHTTPClientTransport } = await load("client");
  const client = new Client(info, { capabilities: {}, versionNegotiation: { mode: { pin: "2026-07-28" } } });
  const heard = new Promise((resolve, reject) => {
    client.setNotificationHandler("notifications/resources/updated", (note) => resolve({ heard: note.params.uri }));
    setTimeout(() => reject(new Error("nothing was heard")), LISTEN_MS).unref();
  });
  await client.connect(new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } }));
  const subscription = await noted(client.listen({ resourceSubscriptions: [about] }));
  if (subscription.error) return subscription;
  await client.callTool({ name: "touch", arguments: { uri: about } });
  const said = await heard;
  await subscription.close();
  await client.close();
  return said;
}

console.log(JSON.stringify(await (what === "listen" ? listen() : tasks())));
process.exit(0);
