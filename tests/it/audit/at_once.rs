//! One operator's flood, and another who has to close a session meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::harness::{API_KEY, Gateway, Setup};

const FLOODER: &str = "the key of a script that runs wild";

/// Admin calls of the flooding key: 10,000 in the long form.
fn calls() -> usize {
    std::env::var("ADMIN_CALLS").map_or(1_500, |calls| calls.parse().unwrap())
}

/// Time within which a session is closed meanwhile. A machine that other tests share may be slow for
/// a moment, so the median of several closes counts.
const PROMPT: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_key_delays_no_revocation_by_another() {
    // The usual limits: the flood is over its own at once, the operator's is for two sessions more.
    let mut setup = Setup::default().with("admin.rate_limit_per_minute", 60);
    let hash = blake3::hash(FLOODER.as_bytes());
    setup.more = format!(
        "\n[[admin.keys]]\nname = \"wild\"\nrole = \"viewer\"\nkey_hash = \"blake3:{hash}\"\n"
    );
    let gateway = Arc::new(Gateway::start(setup).await);
    let mut sessions = Vec::new();
    for _ in 0..9 {
        sessions.push(gateway.session(json!({})).await);
    }
    let answered = Arc::new(AtomicUsize::default());
    let refused = Arc::new(AtomicUsize::default());
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let (gateway, answered, refused) = (gateway.clone(), answered.clone(), refused.clone());
            tokio::spawn(async move {
                while answered.fetch_add(1, Ordering::Relaxed) < calls() {
                    let url = format!("http://{}/agents?limit=100", gateway.admin);
                    let request = gateway.client.get(url).header("x-api-key", FLOODER);
                    let status = request.send().await.unwrap().status();
                    assert!(matches!(status.as_u16(), 200 | 429), "{status}");
                    refused.fetch_add(usize::from(status == 429), Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut took = Vec::new();
    for (n, session) in sessions.iter().enumerate() {
        // Spread over the flood.
        while answered.load(Ordering::Relaxed) < calls() * n / sessions.len() {
            tokio::task::yield_now().await;
        }
        let since = Instant::now();
        let (status, body) = gateway.admin("DELETE", &format!("/sessions/{session}"), None).await;
        took.push(since.elapsed());
        assert_eq!(status, 200, "{body}");
    }
    for task in flood {
        task.await.unwrap();
    }
    assert!(refused.load(Ordering::Relaxed) >= calls() - 60, "each key has a limit of its own");
    took.sort();
    assert!(took[took.len() / 2] < PROMPT, "{took:?}");

    // The flood is visible by its key's name, and used up nothing of the other key.
    let limited = "arbiter_admin_requests_total{key=\"wild\",outcome=\"limited\"}";
    assert!(gateway.metric(limited).await >= 1.0);
    let url = format!("http://{}/agents", gateway.admin);
    let asked = gateway.client.get(url).header("x-api-key", API_KEY).send().await.unwrap();
    assert_eq!(asked.status(), 200);
}
