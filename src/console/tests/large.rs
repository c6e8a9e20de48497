//! A full registry: lists page, and each page stays quick.

use super::*;
use crate::clock::Clock;
use crate::firewall::session::WorkOrder;
use crate::testkit;

const AGENTS: usize = 10_000;
/// Each agent has as many active ones as it may, the rest is closed.
const SESSIONS: usize = 100_000;
/// For an unoptimised build on a busy machine; what is asked for is 300 ms.
const LONGEST: Duration = Duration::from_millis(300);

#[tokio::test]
async fn ten_thousand_agents_and_a_hundred_thousand_sessions_page_quickly() {
    let mut visitor = Visitor::signed_in().await;
    let (admin, now) = (Arc::clone(&visitor.bench.admin), visitor.bench.admin.clock.now());
    let mut agents = Vec::with_capacity(AGENTS);
    for _ in 0..AGENTS {
        let new = testkit::new_agent(&["read"]);
        agents.push(admin.registry.register(new, now.wall).await.unwrap().id);
    }
    let mut last = None;
    for n in 0..SESSIONS {
        let agent = agents[n % AGENTS];
        let order = WorkOrder {
            declared_intent: "read files".into(),
            call_budget: 100,
            ..testkit::order_for(agent, now.wall, 3_600, &["read_file"])
        };
        last = Some(order.id);
        admin.sessions.create(order, now).await.unwrap();
    }
    let (agent, session) = (agents[0], last.unwrap());
    let clock = Clock::system();
    let middle = agents[AGENTS / 2];
    for path in PAGES.into_iter().map(str::to_owned).chain([
        "/console/sessions?status=active".to_owned(),
        format!("/console/sessions?agent_id={agent}"),
        format!("/console/agents?cursor={middle}"),
        format!("/console/agents/{agent}"),
        format!("/console/sessions/{session}"),
    ]) {
        let started = clock.mono();
        let told = visitor.get(&path).await;
        let took = Duration::from_micros(clock.mono().since(started));
        assert_eq!(told.status, 200, "{path}");
        assert!(told.text.len() < 512 * 1024, "{path}: {} bytes", told.text.len());
        assert!(took < LONGEST, "{path}: {took:?}");
    }
    let page = visitor.get("/console/sessions").await.text;
    assert_eq!(page.matches("<td><span class=\"badge good\">active</span></td>").count(), 50);
    assert!(page.contains("rel=\"next\""));
}
