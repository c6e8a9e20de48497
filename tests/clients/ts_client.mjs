// The official TypeScript client, walking through a plan of steps and printing what it got as JSON.
//
//   node ts_client.mjs --modules DIR --url URL --plan FILE [--header name=value]...
//
// It knows nothing of Arbiter: headers are all that is added. stdout holds the transcript, equal with and without a
// gateway in between; a progress notification that does not arrive while its tool runs ends it with an error.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    modules: { type: "string" },
    url: { type: "string" },
    plan: { type: "string" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const plan = JSON.parse(readFileSync(options.plan, "utf8"));

// The packages live in a cache beside the build, not beside this file.
const require = createRequire(`${options.modules}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk/${name}`)).href);
const { Client } = await load("client/index.js");
const { StreamableHTTPClientTransport } = await load("client/streamableHttp.js");
const { CreateMessageRequestSchema } = await load("types.js");

const headers = Object.fromEntries(
  options.header.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
);
const transport = new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } });
const client = new Client({ name: "arbiter-tests", version: "1" }, { capabilities: { sampling: {} } });
client.setRequestHandler(CreateMessageRequestSchema, (request) => ({
  model: "test-model",
  role: "assistant",
  content: { type: "text", text: `sampled: ${request.params.messages[0].content.text}` },
}));

// Progress is worth something only while the tool still runs: its notifications must be spread over the run.
function assertLive(step, arrivals, totalMs) {
  const [first, last] = [arrivals[0], arrivals.at(-1)];
  const live = arrivals.length === step.progress && first < totalMs * 0.6 && last - first > totalMs * 0.4;
  const shown = `${arrivals.map((ms) => ms.toFixed(0)).join(" ")} of ${totalMs.toFixed(0)} ms`;
  process.stderr.write(`progress at ${shown}\n`);
  if (!live) throw new Error(`${step.name}: expected ${step.progress} notifications during the run, got ${shown}`);
}

async function callTool(step) {
  const params = { name: step.name, arguments: step.arguments };
  if (!step.progress) return client.callTool(params);
  const started = performance.now();
  const arrivals = [];
  const seen = [];
  const result = await client.callTool(params, undefined, {
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
  call_tool: callTool,
  call_tools_at_once: (step) => Promise.all(step.calls.map(callTool)),
  list_resources: () => client.listResources(),
  list_resource_templates: () => client.listResourceTemplates(),
  read_resource: (step) => client.readResource({ uri: step.uri }),
  list_prompts: () => client.listPrompts(),
  get_prompt: (step) => client.getPrompt({ name: step.name, arguments: step.arguments }),
  complete: (step) => client.complete({ ref: step.ref, argument: step.argument }),
  ping: () => client.ping(),
  set_log_level: (step) => client.setLoggingLevel(step.level),
};

await client.connect(transport);
const transcript = {
  protocol: transport.protocolVersion,
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
