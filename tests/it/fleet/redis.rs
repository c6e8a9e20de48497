//! The program on a Redis: what it needs to start, and what outlives it there.

use serde_json::json;

use crate::support::harness::{Gateway, Setup, refuses_to_start, tool_call};
use crate::support::redis_server::{PASSWORD, Redis};

fn setup(redis: &Redis) -> Setup {
    let mut setup = Setup::default().with("storage.backend", "\"redis\"");
    setup.env.push(("ARBITER_STORAGE__REDIS_URL", redis.url()));
    setup
}

#[tokio::test]
async fn what_is_in_redis_outlives_the_process() {
    let redis = Redis::start();
    let mut gateway = Gateway::start(setup(&redis)).await;
    let session = gateway.session(json!({"call_budget": 100})).await;
    for _ in 0..3 {
        assert_eq!(gateway.call(&session, tool_call("read_file", json!({}))).await.status, 200);
    }
    gateway.stop();
    gateway.start_again();
    assert_eq!(gateway.call(&session, tool_call("read_file", json!({}))).await.status, 200);
    gateway.kill();
    gateway.start_again();
    assert_eq!(gateway.call(&session, tool_call("read_file", json!({}))).await.status, 200);
    let (_, shown) = gateway.admin("GET", &format!("/sessions/{session}"), None).await;
    // What the killed process held is spent: at most two of a hundred.
    let made = shown["calls_made"].as_u64().unwrap();
    assert!((5..=7).contains(&made), "{shown}");
    gateway.stop();
}

#[tokio::test]
async fn without_its_redis_the_program_does_not_start() {
    let redis = Redis::start();
    let refused = async |url: String| {
        let mut setup = setup(&redis);
        setup.env = vec![("ARBITER_STORAGE__REDIS_URL", url)];
        let (code, said) = refuses_to_start(&setup).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(!said.contains("hunter"), "{said}");
        said
    };
    let said = refused(redis.url().replace(PASSWORD, "hunter3")).await;
    assert!(said.contains("refuses the user or the password"), "{said}");
    let said = refused("redis://:hunter3@127.0.0.1:1".to_owned()).await;
    assert!(said.contains("cannot be reached"), "{said}");
}
