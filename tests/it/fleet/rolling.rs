//! The nodes of a fleet are replaced one after the other, behind a balancer that goes by their readiness.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::nodes::{call, nodes, setup};
use crate::support::chain;
use crate::support::harness::{Gateway, eventually};
use crate::support::redis_server::Redis;

const CALLERS: usize = 4;
/// Interval between a balancer's questions for readiness.
const PROBE_EVERY: Duration = Duration::from_millis(200);

/// One place of the balancer, and the call that it sends there.
struct Place {
    ready_url: String,
    call: reqwest::RequestBuilder,
    is_ready: AtomicBool,
}

impl Place {
    fn of(node: &Gateway, session: &str) -> Arc<Self> {
        Arc::new(Self {
            ready_url: format!("http://{}/health?ready", node.proxy),
            call: node.request(session, call()),
            is_ready: AtomicBool::new(false),
        })
    }
}

/// Sends each call to the next place that was ready when it was last asked, and tries none twice.
#[derive(Default)]
struct Balancer {
    places: Mutex<Vec<Arc<Place>>>,
    next: AtomicUsize,
    calls: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Balancer {
    fn places(&self) -> Vec<Arc<Place>> {
        self.places.lock().unwrap().clone()
    }

    async fn probe(&self) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        while !self.over.load(Ordering::Relaxed) {
            for place in self.places() {
                let asked = client.get(&place.ready_url).timeout(PROBE_EVERY).send().await;
                let is_ready = asked.is_ok_and(|answer| answer.status() == 200);
                place.is_ready.store(is_ready, Ordering::Relaxed);
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }

    fn pick(&self) -> Arc<Place> {
        let mut ready = self.places();
        ready.retain(|place| place.is_ready.load(Ordering::Relaxed));
        ready[self.next.fetch_add(1, Ordering::Relaxed) % ready.len()].clone()
    }

    async fn call_steadily(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let wrong = match self.pick().call.try_clone().unwrap().send().await {
                Err(error) => Some(format!("{error:?}")),
                Ok(answer) if answer.status() != 200 => Some(format!("{:?}", answer.text().await)),
                Ok(answer) => answer.text().await.err().map(|error| format!("{error:?}")),
            };
            self.wrong.lock().unwrap().extend(wrong);
            self.calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_all_are_ready(&self) {
        let all = eventually(|| async {
            self.places().iter().all(|place| place.is_ready.load(Ordering::Relaxed)).then_some(())
        });
        all.await.expect("every node is ready");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_four_nodes_are_replaced_one_by_one() {
    let redis = Redis::start();
    let mut fleet = nodes(4, || setup(&redis.url()).with("proxy.drain_delay_secs", 2)).await;
    let session = fleet[0].session(json!({"call_budget": 1_000_000})).await;
    let balancer = Arc::new(Balancer::default());
    *balancer.places.lock().unwrap() = fleet.iter().map(|node| Place::of(node, &session)).collect();
    let one = balancer.clone();
    let probing = tokio::spawn(async move { one.probe().await });
    balancer.until_all_are_ready().await;
    let callers = (0..CALLERS).map(|_| {
        let one = balancer.clone();
        tokio::spawn(async move { one.call_steadily().await })
    });
    let callers: Vec<_> = callers.collect();

    for (at, node) in fleet.iter_mut().enumerate() {
        tokio::task::block_in_place(|| {
            node.stop();
            node.start_again();
        });
        balancer.places.lock().unwrap()[at] = Place::of(node, &session);
        balancer.until_all_are_ready().await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    balancer.over.store(true, Ordering::Relaxed);
    for task in callers.into_iter().chain([probing]) {
        task.await.unwrap();
    }

    let wrong = std::mem::take(&mut *balancer.wrong.lock().unwrap());
    let calls = balancer.calls.load(Ordering::Relaxed);
    assert!(wrong.is_empty(), "{} of {calls} calls failed: {:?}", wrong.len(), wrong.first());
    println!("{calls} calls over four replacements, none failed");
    assert!(calls > 500, "{calls}");
    assert_eq!(fleet[0].upstream.calls(), calls);
    let exact = eventually(|| async {
        let (_, shown) = fleet[0].admin("GET", &format!("/sessions/{session}"), None).await;
        (shown["calls_made"].as_u64() == u64::try_from(calls).ok()).then_some(())
    });
    exact.await.expect("the budget has counted every call once");
    let recorded = fleet.iter_mut().map(|node| {
        node.stop();
        let all = node.records();
        chain::check(&node.audit_file());
        all.iter().filter(|record| record["tool_called"] == "read_file").count()
    });
    assert_eq!(recorded.sum::<usize>(), calls);
}
