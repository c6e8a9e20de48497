-- One tool call of 318 bytes, as often as wrk can; what came of it as one line of JSON at the end.
-- The three headers come from the environment, so that no token stands in a command line.
wrk.method = "POST"
wrk.path = "/"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"] = "2025-11-25"
wrk.headers["Authorization"] = os.getenv("AUTHORIZATION")
wrk.headers["x-agent-id"] = os.getenv("AGENT_ID")
wrk.headers["x-arbiter-session"] = os.getenv("SESSION_ID")
wrk.body = os.getenv("BODY")

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"bad_status":%d,"broken":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
