// What an agent's traffic looks like: mostly allowed calls, some that must be refused, each with the one answer that
// is right for it. The scenarios beside this file say only how much of it, for how long, and what is good enough.
import http from "k6/http";
import { check } from "k6";
import { Counter } from "k6/metrics";

// Written by `load-tests/run`: where the gateway is, agents with a session each, and one session that is used up.
const setup = JSON.parse(open(__ENV.FIXTURE));

// What must be found at the upstream afterwards: no more, no less.
export const forwarded = new Counter("forwarded");

const call = (name, args) =>
  JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: args } });
const allowed = call("query_transactions", { account: "A-1", amount: 42, note: "x".repeat(400) });
const list = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list" });
// The second `amount` is what a careless upstream would use, the first what a careless gateway would check.
const doubled =
  '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"query_transactions","arguments":{"amount":1,"amount":900}}}';

// kind, share of the traffic in percent, status, refusal code, body, headers that differ
const mix = [
  ["allowed", 75, 200, null, allowed, {}],
  ["list", 5, 200, null, list, {}],
  ["not_listed", 5, 403, "ToolNotAuthorized", call("delete_transactions", {}), {}],
  ["policy", 5, 403, "PolicyDenied", call("query_transactions", { amount: 900 }), {}],
  ["spent", 4, 429, "BudgetExhausted", allowed, setup.spent],
  ["no_token", 3, 401, "TokenMissing", allowed, { Authorization: undefined }],
  ["malformed", 3, 400, "MalformedRequest", doubled, {}],
];
const dice = mix.flatMap((kind) => Array(kind[1]).fill(kind));
if (dice.length !== 100) throw new Error(`the shares add up to ${dice.length} percent`);

export function traffic() {
  const agent = setup.agents[__VU % setup.agents.length];
  const [kind, , status, code, body, changed] = dice[Math.floor(Math.random() * 100)];
  const headers = { "Content-Type": "application/json", Accept: "application/json, text/event-stream" };
  for (const [name, value] of Object.entries({ ...agent, ...changed })) {
    if (value !== undefined) headers[name] = value;
  }
  const answer = http.post(setup.url, body, {
    headers,
    tags: { kind },
    responseCallback: http.expectedStatuses(status),
  });
  if (status === 200) forwarded.add(1);
  check(answer, { [`${kind}: ${code || "ok"}`]: () => isRight(answer, status, code) });
}

function isRight(answer, status, code) {
  if (answer.status !== status || !answer.headers["X-Arbiter-Request-Id"]) return false;
  const message = answer.json();
  return code === null ? message.id === 1 && message.result !== undefined : message.error.data.code === code;
}

export const correctness = {
  checks: ["rate==1"],
  http_req_failed: ["rate==0"],
};

// For the table of `load-tests/run`: these sub-metrics exist only if a threshold names them.
export const perKind = (p95Ms) =>
  Object.fromEntries(mix.map(([kind]) => [`http_req_duration{kind:${kind}}`, [`p(95)<${p95Ms}`]]));

export const handleSummary = (data) => ({ [__ENV.SUMMARY]: JSON.stringify(data) });
export const summaryTrendStats = ["avg", "med", "p(95)", "p(99)", "max", "count"];
