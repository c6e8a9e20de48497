#!/usr/bin/env bash
# The walk-through "Your First Session" with curl, as written, each answer checked.
#
#   tests/walkthrough.sh      starts an Arbiter ($ARBITER_BIN or target/debug/arbiter) and a small recording upstream
#
# Every request is one that a person would paste; what reached the upstream is read from the upstream's own record.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PROXY_URL:-}" ]; then
    work=$(mktemp -d)
    python3 tests/support/recording_upstream.py --ready-file "$work/port" --record "$work/record.jsonl" &
    upstream=$!
    trap 'kill "$upstream" 2>/dev/null || true; rm -rf "$work"' EXIT
    for _ in $(seq 100); do [ -s "$work/port" ] && break; sleep 0.05; done
    cat > "$work/policies.toml" <<'POLICIES'
[[policies]]
id = "analysts-read-transactions"
effect = "allow"
allowed_tools = ["query_transactions", "get_account_summary"]
[policies.agent_match]
trust_level = "basic"
[policies.intent_match]
keywords = ["read", "transaction"]
POLICIES
    RECORD=$work/record.jsonl python3 tests/support/arbiter.py --upstream "http://127.0.0.1:$(cat "$work/port")/mcp" \
        --policies "$work/policies.toml" -- "$0"
    exit
fi

passed=0 failed=0
answer=$(mktemp) headers=$(mktemp)
trap 'rm -f "$answer" "$headers"' EXIT

ok() { passed=$((passed + 1)); printf 'ok      %s\n' "$1"; }
bad() { failed=$((failed + 1)); printf 'FAILED  %s\n        %s\n' "$1" "$2"; }

# expect <status> <jq filter that must hold> <what this shows> <curl arguments…>
expect() {
    local status=$1 filter=$2 what=$3 got
    shift 3
    got=$(curl -s --noproxy '*' --max-time 20 -o "$answer" -D "$headers" -w '%{http_code}' "$@") || got="no answer ($?)"
    if [ "$got" != "$status" ]; then
        bad "$what" "expected $status, got $got: $(head -c 400 "$answer")"
    elif ! jq -e "$filter" "$answer" >/dev/null 2>&1; then
        bad "$what" "\`$filter\` does not hold: $(head -c 400 "$answer")"
    else
        ok "$what"
    fi
}
header() { # header <regex> <what>: the last answer's headers hold it
    if grep -Eqi "$1" "$headers"; then ok "$2"; else bad "$2" "no header matches $1"; fi
}
no_header() {
    if grep -Eqi "$1" "$headers"; then bad "$2" "a header matches $1"; else ok "$2"; fi
}
value() { jq -r "$1" "$answer"; }

admin() { # admin <status> <filter> <what> <method> <path> [body]
    local status=$1 filter=$2 what=$3 method=$4 path=$5 body=${6:-}
    expect "$status" "$filter" "$what" -X "$method" "$ADMIN_URL$path" -H "x-api-key: $ARBITER_ADMIN_API_KEY" \
        ${body:+-H "Content-Type: application/json" -d "$body"}
}
call() { # call <status> <filter> <what> <session> <tool>
    expect "$1" "$2" "$3" -X POST "$PROXY_URL/" -H "Authorization: Bearer $TOKEN" -H "x-agent-id: $AGENT_ID" \
        -H "x-arbiter-session: $4" -H "Content-Type: application/json" -H "Accept: application/json, text/event-stream" \
        -d '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"'"$5"'","arguments":{"account":"A-1"}}}'
}
forwarded() { jq -s '[.[] | select(.body.method == "tools/call")] | length' "$RECORD"; }
session_body() { # session_body <jq object that overrides the walk-through's own body>
    jq -cn --arg agent "$AGENT_ID" '{
        agent_id: $agent,
        declared_intent: "read and analyze customer transaction history",
        authorized_tools: ["query_transactions", "get_account_summary"],
        time_limit_secs: 1800,
        call_budget: 100,
        rate_limit_per_minute: 30,
        data_sensitivity: "internal"
    } + '"${1:-{\}}"
}

echo "1. An agent"
expect 401 '.error == "Unauthorized"' "the admin API asks for a key" "$ADMIN_URL/agents"
expect 401 '.error == "Unauthorized"' "a well-known key is no key" "$ADMIN_URL/agents" -H 'x-api-key: arbiter-dev-key'
admin 201 '(.agent_id | test("^[0-9a-f-]{36}$")) and (.token | split(".") | length == 3)' "an agent is registered" \
    POST /agents '{"owner":"user:analyst","model":"test-model","capabilities":["read"],"trust_level":"basic"}'
AGENT_ID=$(value .agent_id) TOKEN=$(value .token)

echo "2. A session"
admin 201 '(.session_id | test("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")) and .expires_at' \
    "a session is created" POST /sessions "$(session_body)"
SESSION_ID=$(value .session_id)
admin 200 '.status == "active" and .calls_made == 0 and .call_budget == 100 and .intent_tier == "read"
    and .agent_id == "'"$AGENT_ID"'" and .authorized_tools == ["query_transactions", "get_account_summary"]' \
    "its state can be read" GET "/sessions/$SESSION_ID"

echo "3. Calls"
call 200 '.id == 7 and .result.isError == false and (.result.content[0].text | startswith("query_transactions"))' \
    "a call goes through" "$SESSION_ID" query_transactions
header '^x-arbiter-request-id: .' "its request id is told"
no_header '^x-arbiter-warning' "far from its limits there is no warning"
admin 200 '.calls_made == 1' "it was counted" GET "/sessions/$SESSION_ID"
call 403 '.id == 7 and .error.data.code == "ToolNotAuthorized"' "a tool that is not on the whitelist is refused" \
    "$SESSION_ID" delete_transactions
expect 403 '.error.data.code == "SessionRequired"' "without a session nothing goes" -X POST "$PROXY_URL/" \
    -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \
    -d '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"query_transactions","arguments":{}}}'
expect 403 '.error.data.code == "AgentIdRequired"' "with a session the agent must be named" -X POST "$PROXY_URL/" \
    -H "Authorization: Bearer $TOKEN" -H "x-arbiter-session: $SESSION_ID" -H "Content-Type: application/json" \
    -d '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"query_transactions","arguments":{}}}'
if [ "$(forwarded)" = 1 ]; then ok "one call reached the upstream, no other"; else bad "one call reached the upstream, no other" "$(forwarded) did"; fi
if jq -se 'all(.[].headers; (has("authorization") or has("x-arbiter-session")) | not)' "$RECORD" >/dev/null; then
    ok "the token and the session stayed here"
else
    bad "the token and the session stayed here" "$(jq -sc '.[0].headers | keys' "$RECORD")"
fi

echo "4. No borrowing of sessions"
mine=$AGENT_ID my_token=$TOKEN
admin 201 .agent_id "a second agent is registered" POST /agents \
    '{"owner":"user:other","model":"test-model","capabilities":["read"],"trust_level":"basic"}'
AGENT_ID=$(value .agent_id) TOKEN=$(value .token)
call 403 '.error.data.code == "AgentMismatch"' "another agent cannot use it" "$SESSION_ID" query_transactions
AGENT_ID=$mine TOKEN=$my_token

echo "5. Budget, rate and time"
admin 201 .session_id "a session with a budget of five" POST /sessions "$(session_body '{call_budget: 5}')"
small=$(value .session_id)
for left in 4 3 2; do call 200 .result "a call leaves $left" "$small" query_transactions; done
no_header '^x-arbiter-warning' "two of five left: no warning yet"
call 200 .result "a call leaves 1" "$small" query_transactions
header '^x-arbiter-warning: budget_remaining=1, budget_total=5' "one of five left (20 %): a warning"
call 200 .result "the last call" "$small" query_transactions
call 429 '.id == 7 and .error.data.code == "BudgetExhausted"' "then the budget is exhausted" "$small" query_transactions
admin 201 .session_id "a session with a rate of two a minute" POST /sessions "$(session_body '{rate_limit_per_minute: 2}')"
slow=$(value .session_id)
for n in first second; do call 200 .result "the $n call" "$slow" query_transactions; done
call 429 '.error.data.code == "RateLimited"' "the third is too fast" "$slow" query_transactions
header '^retry-after: [1-9][0-9]*' "it is told when to come back"
admin 201 .session_id "a session of one second" POST /sessions "$(session_body '{time_limit_secs: 1}')"
short=$(value .session_id)
for _ in $(seq 50); do
    state=$(curl -s --noproxy '*' "$ADMIN_URL/sessions/$short" -H "x-api-key: $ARBITER_ADMIN_API_KEY" | jq -r .status)
    [ "$state" = active ] || break
    sleep 0.1
done
call 408 '.error.data.code == "SessionExpired"' "after its time it is gone" "$short" query_transactions

echo "6. The end of a session"
admin 200 '.status == "closed"' "it is closed by hand" DELETE "/sessions/$SESSION_ID"
admin 200 '.status == "closed" and .calls_made == 1' "its state says so" GET "/sessions/$SESSION_ID"
call 408 '.id == 7 and .error.data.code == "SessionClosed"' "it cannot be used again" "$SESSION_ID" query_transactions
if [ "$(forwarded)" = 8 ]; then ok "eight calls reached the upstream in all"; else bad "eight calls reached the upstream in all" "$(forwarded) did"; fi

echo "7. Ten sessions at a time"
# Two are active still: of the budget and of the rate.
for n in $(seq 3 10); do admin 201 .session_id "session $n" POST /sessions "$(session_body)"; done
admin 429 '.error == "TooManySessions"' "the eleventh is refused" POST /sessions "$(session_body)"
call 429 '.error.data.code == "BudgetExhausted"' "existing sessions still answer" "$small" query_transactions

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
