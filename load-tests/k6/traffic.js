// What an agent's traffic looks like: mostly allowed calls, some that must be refused, each with the one answer that
// is right for it. The scenarios beside this file say only how much of it, for how long, and what is good enough.
//
// `load-tests/run SCENARIO` starts a gateway and writes a fixture. Against a gateway that runs already:
//
//     k6 run -e BASE_URL=https://gateway:8080/ -e TOKEN=$TOKEN -e SESSION=$SESSION load-tests/k6/smoke.js
//
// with a token and a session whose tool is called (TOOL, `query_transactions` unless given, with ARGUMENTS as JSON).
// SESSION is left out where sessions are not required. Kinds of refusals that need policies or sessions of their own
// are left out then.
import encoding from "k6/encoding";
import http from "k6/http";
import { check } from "k6";
import { Counter } from "k6/metrics";

export const fixture = __ENV.FIXTURE ? JSON.parse(open(__ENV.FIXTURE)) : byHand();

function byHand() {
  const { BASE_URL, TOKEN, SESSION, AGENT_ID } = __ENV;
  if (!BASE_URL || !TOKEN) throw new Error("give -e BASE_URL=… and -e TOKEN=…, or use `load-tests/run SCENARIO`");
  const agent = { Authorization: `Bearer ${TOKEN}` };
  if (SESSION) {
    const claims = JSON.parse(encoding.b64decode(TOKEN.split(".")[1], "rawurl", "s"));
    agent["x-agent-id"] = AGENT_ID || claims.agent_id;
    agent["x-arbiter-session"] = SESSION;
  }
  return { urls: [BASE_URL], agents: [agent] };
}

// What must be found at the upstream afterwards: no more, no less.
export const forwarded = new Counter("forwarded");

const call = (name, args) =>
  JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } });
const given = __ENV.ARGUMENTS ? JSON.parse(__ENV.ARGUMENTS) : { account: "A-1", amount: 42, note: "x".repeat(400) };
export const allowed = call(__ENV.TOOL || "query_transactions", given);
const list = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list" });
// The second `amount` is what a careless upstream would use, the first what a careless gateway would check.
const doubled =
  '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"query_transactions","arguments":{"amount":1,"amount":900}}}';

// kind, share of the traffic in percent, status, refusal code, body, headers that differ
const mix = fixture.spent
  ? [
      ["allowed", 75, 200, null, allowed, {}],
      ["list", 5, 200, null, list, {}],
      ["not_listed", 5, 403, "ToolNotAuthorized", call("delete_transactions", {}), {}],
      ["policy", 5, 403, "PolicyDenied", call("query_transactions", { amount: 900 }), {}],
      ["spent", 4, 429, "BudgetExhausted", allowed, fixture.spent],
      ["no_token", 3, 401, "TokenMissing", allowed, { Authorization: undefined }],
      ["malformed", 3, 400, "MalformedRequest", doubled, {}],
    ]
  : [
      ["allowed", 89, 200, null, allowed, {}],
      ["list", 5, 200, null, list, {}],
      ["no_token", 3, 401, "TokenMissing", allowed, { Authorization: undefined }],
      ["malformed", 3, 400, "MalformedRequest", doubled, {}],
    ];
const dice = mix.flatMap((kind) => Array(kind[1]).fill(kind));
if (dice.length !== 100) throw new Error(`the shares add up to ${dice.length} percent`);

const any = (list) => list[Math.floor(Math.random() * list.length)];

// One request of the mix, by the caller's own agent.
export function traffic() {
  send(any(dice), fixture.agents[__VU % fixture.agents.length]);
}

// One request of the mix, by any agent: no connection is one session's.
export function shuffled() {
  send(any(dice), any(fixture.agents));
}

// One request that must be refused, or else be refused as one too many; of the attacker's own, so not the spent session's.
const attacks = dice.filter(([kind, , status]) => status !== 200 && kind !== "spent");
export function attack() {
  send(any(attacks), fixture.attacker, "TooManyRefusals");
}

export function send([kind, , status, code, body, changed], agent, orElse) {
  const headers = { "Content-Type": "application/json", Accept: "application/json, text/event-stream" };
  for (const [name, value] of Object.entries({ ...agent, ...changed })) {
    if (value !== undefined) headers[name] = value;
  }
  const statuses = orElse ? [status, 429] : [status];
  const tags = { kind: orElse ? "attack" : kind };
  const answer = http.post(any(fixture.urls), body, { headers, tags, responseCallback: http.expectedStatuses(...statuses) });
  if (status === 200) forwarded.add(1);
  const codes = orElse ? [code, orElse] : [code];
  check(answer, { [`${kind}: ${codes.join(" or ") || "ok"}`]: () => isRight(answer, status, codes) });
}

function isRight(answer, status, codes) {
  if (!answer.headers["X-Arbiter-Request-Id"]) return false;
  const message = answer.json();
  if (codes[0] === null) return answer.status === status && message.id === 1 && message.result !== undefined;
  const at = codes.indexOf(message.error.data.code);
  return at === 0 ? answer.status === status : at > 0 && answer.status === 429;
}

export const correctness = {
  checks: ["rate==1"],
  http_req_failed: ["rate==0"],
};

// Times are thresholds of a usual build on a quiet machine; PATIENCE is a factor for others.
const patience = Number(__ENV.PATIENCE || 1);
export const within = (p95Ms) => [`p(95)<${p95Ms * patience}`];

// These sub-metrics exist, and are shown, only if a threshold names them.
export const perKind = (p95Ms) =>
  Object.fromEntries(mix.map(([kind]) => [`http_req_duration{kind:${kind}}`, within(p95Ms)]));

// Arrivals that find no free caller are dropped: a few at the start are the machine's, more are the gateway's.
export const dropped = (most) => ({ dropped_iterations: [`count<${Math.ceil(most * patience)}`] });

export const summaryTrendStats = ["avg", "med", "p(95)", "p(99)", "max", "count"];

// Requests a second, and a number of seconds, from the environment.
export const rate = Number(__ENV.RATE || 500);
export const seconds = (usual) => Number(__ENV.DURATION_SECS || usual);

// An open model: requests arrive at their rate however long answers take, so that a slow gateway cannot slow its own test.
export const arriving = (stages, more = {}) => ({
  executor: "ramping-arrival-rate",
  startRate: stages[0].target,
  timeUnit: "1s",
  preAllocatedVUs: 20,
  maxVUs: 100,
  stages,
  ...more,
});
