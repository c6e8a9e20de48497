//! Metrics on the agents' port, for holders of a key.

use crate::support::harness::{API_KEY, Gateway, Setup};

#[tokio::test]
async fn a_key_opens_the_metrics_of_the_agents_port() {
    let gateway = Gateway::start(Setup::default().with("metrics.require_auth", true)).await;
    for port in [&gateway.proxy, &gateway.admin] {
        let get = || gateway.client.get(format!("http://{port}/metrics"));
        let with_key = get().header("x-api-key", API_KEY);
        for (request, status) in [
            (get(), 401),
            (get().header("x-api-key", "another-key-0123456789"), 401),
            (get().bearer_auth("another-key-0123456789"), 401),
            (with_key, 200),
            (get().bearer_auth(API_KEY), 200),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status);
            let text = answer.text().await.unwrap();
            assert_eq!(text.contains("\narbiter_ready 1\n"), status == 200, "{text}");
        }
    }
}
