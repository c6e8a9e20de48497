//! Budgets, rates and caps are exact, however many callers press against them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::StreamExt;
use serde_json::json;

use crate::support::harness::{Gateway, Setup, json_response, stream_response, tool_call};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_share_a_budget_of_fifty_exactly() {
    let gateway = Arc::new(Gateway::start(Setup::default()).await);
    let session = gateway.session(json!({"call_budget": 50})).await;
    let mut tasks = Vec::new();
    for _ in 0..200 {
        let (gateway, session) = (gateway.clone(), session.clone());
        tasks.push(tokio::spawn(async move {
            let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
            (answer.status, answer.code())
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    let admitted = answers.iter().filter(|(status, _)| *status == 200).count();
    let exhausted = answers.iter().filter(|(s, c)| *s == 429 && c == "BudgetExhausted").count();
    assert_eq!((admitted, exhausted), (50, 150), "{answers:?}");
    assert_eq!(gateway.upstream.calls(), 50);
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    assert_eq!(shown["calls_made"], 50);
}

#[tokio::test]
async fn an_agent_has_an_eighth_of_the_calls_in_flight_and_the_others_the_rest() {
    let mut gateway =
        Gateway::start(Setup::default().with("proxy.max_calls_in_flight", 1_024)).await;
    let hold = |gateway: &Gateway| {
        gateway.upstream.answer_with(|_| {
            let first = futures::stream::iter([Ok::<_, std::io::Error>("data: {}\n\n")]);
            stream_response(Body::from_stream(first.chain(futures::stream::pending())))
        });
    };
    hold(&gateway);
    let session = gateway.session(json!({})).await;
    let call = tool_call("read_file", json!({}));
    let mut streams = Vec::new();
    for _ in 0..128 {
        let stream = gateway.request(&session, call.clone()).send().await.unwrap();
        assert_eq!(stream.status(), 200);
        streams.push(stream);
    }
    let refused = gateway.call(&session, call.clone()).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "TooManyInFlight"));
    assert!(refused.header("retry-after").is_some());
    gateway.agent = gateway.register(json!({})).await;
    let other = gateway.session(json!({})).await;
    let stream = gateway.request(&other, call.clone()).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(gateway.upstream.calls(), 129);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_creations_at_a_cap_of_ten_give_ten() {
    let gateway = Arc::new(Gateway::start(Setup::default()).await);
    let mut tasks = Vec::new();
    for _ in 0..40 {
        let gateway = gateway.clone();
        tasks.push(tokio::spawn(async move { gateway.try_session(json!({})).await }));
    }
    let mut statuses = Vec::new();
    for task in tasks {
        let (status, body) = task.await.unwrap();
        assert!(status == 201 || body["error"] == "TooManySessions", "{status} {body}");
        statuses.push(status);
    }
    assert_eq!(statuses.iter().filter(|s| **s == 201).count(), 10);
    assert_eq!(statuses.iter().filter(|s| **s == 429).count(), 30);
}

/// Presses against a limit for several windows and looks at the upstream for the fullest one.
#[tokio::test(flavor = "multi_thread")]
async fn no_window_at_the_upstream_holds_more_than_the_limit() {
    const LIMIT: usize = 20;
    const WINDOW: Duration = Duration::from_secs(2);
    let setup = Setup::default()
        .with("sessions.rate_limit_window_secs", 2)
        .with("proxy.max_refusals_per_agent_per_sec", 1_000_000);
    let gateway = Arc::new(Gateway::start(setup).await);
    let arrivals: Arc<std::sync::Mutex<Vec<Instant>>> = Arc::default();
    let log = arrivals.clone();
    gateway.upstream.answer_with(move |_| {
        log.lock().unwrap().push(Instant::now());
        json_response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)
    });
    let session =
        gateway.session(json!({"rate_limit_per_minute": LIMIT, "call_budget": 100_000})).await;
    let until = Instant::now() + WINDOW * 4;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (gateway, session) = (gateway.clone(), session.clone());
        tasks.push(tokio::spawn(async move {
            let mut limited = 0_u32;
            while Instant::now() < until {
                let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
                if answer.status == 429 {
                    assert_eq!(answer.code(), "RateLimited");
                    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                    assert!((1..=2).contains(&wait), "{wait}");
                    limited += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            limited
        }));
    }
    let mut limited = 0;
    for task in tasks {
        limited += task.await.unwrap();
    }
    let arrivals = arrivals.lock().unwrap();
    assert!(limited > 0 && arrivals.len() > 3 * LIMIT, "{limited} {}", arrivals.len());
    // A call is counted a little before it arrives, and not all by the same little.
    let jitter = Duration::from_millis(150);
    for (n, first) in arrivals.iter().enumerate() {
        let inside = arrivals[n..].iter().take_while(|at| **at - *first < WINDOW - jitter).count();
        assert!(inside <= LIMIT, "{inside} calls in one window");
    }
}

#[tokio::test]
async fn a_batch_costs_what_it_holds_and_passes_whole_or_not_at_all() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({"call_budget": 5})).await;
    let batch = |n: usize| {
        let calls: Vec<_> = (0..n)
            .map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "read_file"}}))
            .collect();
        json!(calls).to_string()
    };
    assert_eq!(gateway.call(&session, batch(3)).await.status, 200);
    let refused = gateway.call(&session, batch(3)).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "BudgetExhausted"));
    assert_eq!(refused.json()["error"]["data"]["budget_remaining"], 2);
    let answer = gateway.call(&session, batch(2)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-arbiter-warning"), Some("budget_remaining=0, budget_total=5"));
    assert_eq!(gateway.upstream.calls(), 2);
    let record = gateway.record_of(answer.request_id()).await;
    assert_eq!(record["tools_called"], json!(["read_file", "read_file"]));
}

#[tokio::test]
async fn warnings_come_when_little_remains() {
    let gateway = Gateway::start(Setup::default()).await;
    let session = gateway.session(json!({"call_budget": 10})).await;
    for remaining in (0..10).rev() {
        let answer = gateway.call(&session, tool_call("read_file", json!({}))).await;
        let expected =
            (remaining <= 2).then(|| format!("budget_remaining={remaining}, budget_total=10"));
        assert_eq!(answer.header("x-arbiter-warning"), expected.as_deref(), "{remaining}");
    }
}

#[tokio::test]
async fn a_refused_call_is_not_a_free_probe() {
    let policies =
        "[[policies]]\nid = \"r\"\neffect = \"allow\"\nallowed_tools = [\"read_file\"]\n";
    let gateway = Gateway::start(Setup::default().policies(policies)).await;
    let session = gateway.session(json!({"call_budget": 2})).await;
    for _ in 0..2 {
        let refused = gateway.call(&session, tool_call("write_file", json!({}))).await;
        assert_eq!(refused.code(), "PolicyDenied");
    }
    let refused = gateway.call(&session, tool_call("read_file", json!({}))).await;
    assert_eq!(refused.code(), "BudgetExhausted");
    let unlisted = gateway.call(&session, tool_call("other", json!({}))).await;
    assert_eq!(unlisted.code(), "ToolNotAuthorized");
}
