// Calls that are answered by an event stream. `load-tests/streams.py` measures single events and memory; this, many streams.
import http from "k6/http";
import { check } from "k6";
import { allowed, arriving, correctness, dropped, fixture, forwarded, rate, seconds, summaryTrendStats, within } from "./traffic.js";

const arrivals = Math.ceil(rate / 2);
export const options = {
  scenarios: { streams: arriving([{ target: arrivals, duration: `${seconds(30)}s` }]) },
  summaryTrendStats,
  thresholds: { ...correctness, http_req_duration: within(150), ...dropped(arrivals * 0.5) },
};

export default function () {
  const agent = fixture.agents[__VU % fixture.agents.length];
  const headers = { ...agent, "Content-Type": "application/json", Accept: "application/json, text/event-stream" };
  const answer = http.post(`${fixture.urls[0]}${fixture.stream || ""}`, allowed, { headers });
  forwarded.add(1);
  check(answer, {
    "stream: whole": () =>
      answer.status === 200 &&
      answer.headers["Content-Type"].startsWith("text/event-stream") &&
      answer.body.endsWith("\n\n") &&
      JSON.parse(answer.body.match(/data: (.*)\n\n$/)[1]).result !== undefined,
  });
}
