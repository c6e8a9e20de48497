// The official TypeScript client, versions 1 and 2, walking through a plan of steps and printing what it got as JSON.
//
//   node ts_client.mjs --sdk 1|2 --modules DIR --url URL --plan FILE [--mode legacy|auto|2026-07-28]
//       [--header name=value]...
//
// Modes other than `legacy` (the `initialize` handshake, up to 2025-11-25) need version 2.
// It knows nothing of Arbiter: headers are all that is added. stdout holds the transcript, equal with and without a
// gateway in between; a progress notification that does not arrive while its tool runs ends it with an error.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    sdk: { type: "string" },
    modules: { type: "string" },
    url: { type: "string" },
    plan: { type: "string" },
    mode: { type: "string", default: "legacy" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const plan = JSON.parse(readFileSync(options.plan, "utf8"));

const headers = Object.fromEntries(
  options.header.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
);

// The packages live in a cache beside the build, not beside this file.
const require = createRequire(`${options.modules}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/${name}`)).href);
const onSampling = (request) => ({
  model: "test-model",
  role: "assistant",
  content: { type: "text", text: `sampled: ${request.params.messages[0].content.text}` },
});
const info = { name: "arbiter-tests", version: "1" };
const capabilities = { sampling: {} };

async function version1() {
  const { Client } = await load("sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await load("sdk/client/streamableHttp.js");
  const { CreateMessageRequestSchema } = await load("sdk/types.js");
  const client = new Client(info, { capabilities });
  client.setRequestHandler(CreateMessageRequestSchema, onSampling);
  const transport = new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } });
  await client.connect(transport);
  return {
    client,
    protocol: transport.protocolVersion,
    callTool: (params, progress) => client.callTool(params, undefined, progress),
  };
}

async function version2() {
  const { Client, StreamableHTTPClientTransport } = await load("client");
  const mode = ["legacy", "auto"].includes(options.mode) ? options.mode : { pin: options.mode };
  const client = new Client(info, { capabilities, versionNegotiation: { mode } });
  client.setRequestHandler("sampling/createMessage", onSampling);
  const transport = new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } });
  await client.connect(transport);
  return {
    client,
    protocol: client.getNegotiatedProtocolVersion(),
    callTool: (params, progress) => client.callTool(params, progress),
  };
}

const { client, protocol, callTool } = await (options.sdk === "2" ? version2() : version1());

// Progress is worth something only while the tool still runs: its notifications must be spread over the run.
function assertLive(step, arrivals, totalMs) {
  const [first, last] = [arrivals[0], arrivals.at(-1)];
  const live = arrivals.length === step.progress && first < totalMs * 0.6 && last - first > totalMs * 0.4;
  const shown = `${arrivals.map((ms) => ms.toFixed(0)).join(" ")} of ${totalMs.toFixed(0)} ms`;
  process.stderr.write(`progress at ${shown}\n`);
  if (!live) throw new Error(`${step.name}: expected ${step.progress} notifications during the run, got ${shown}`);
}

async function runTool(step) {
  const params = { name: step.name, arguments: step.arguments };
  if (!step.progress) return callTool(params);
  const started = performance.now();
  const arrivals = [];
  const seen = [];
  const result = await callTool(params, {
    onprogress: ({ progress, total }) => {
      arrivals.push(performance.now() - started);
      seen.push({ progress, total });
    },
  });
  assertLive(step, arrivals, performance.now() - started);
  return { ...result, "test/progress": seen };
}

const operations = {
  list_tools: () => client.listTools(),
  call_tool: runTool,
  call_tools_at_once: (step) => Promise.all(step.calls.map(runTool)),
  list_resources: () => client.listResources(),
  list_resource_templates: () => client.listResourceTemplates(),
  read_resource: (step) => client.readResource({ uri: step.uri }),
  list_prompts: () => client.listPrompts(),
  get_prompt: (step) => client.getPrompt({ name: step.name, arguments: step.arguments }),
  complete: (step) => client.complete({ ref: step.ref, argument: step.argument }),
  ping: () => client.ping(),
  set_log_level: (step) => client.setLoggingLevel(step.level),
};

const transcript = {
  protocol,
  server: client.getServerVersion(),
  capabilities: client.getServerCapabilities(),
  instructions: client.getInstructions(),
  steps: [],
};
for (const step of plan) {
  transcript.steps.push({ op: step.op, result: await operations[step.op](step) });
}
await client.close();
process.stdout.write(`${JSON.stringify(transcript)}\n`);
