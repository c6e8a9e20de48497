//! A million sessions that ended at the same instant are forgotten while others are used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arbiter::clock::Clock;
use arbiter::firewall::session::WorkOrder;
use arbiter::firewall::time::{Now, Timestamp};
use arbiter::sessions::Sessions;

use super::{Arc, Mix, Times, open, runtime, sqlite};

/// Operation repeated during the clean-up.
#[derive(Clone, Copy)]
enum Doing {
    /// A session is found and its usage looked at, as a decision does.
    LookUp,
    /// Calls are booked at the store.
    Book,
    /// A session is opened.
    Open,
}

/// For how long each is done, once alone and once beside the clean-up.
const FOR: Duration = Duration::from_secs(10);

/// The sessions in the file all expire at once; then each kind of work is done for a while.
pub(super) fn beside_calls(path: &str, count: usize) {
    let (runtime, clock) = (runtime(), Clock::system());
    let store = Arc::new(runtime.block_on(sqlite(path, "plain")));
    let sessions = open(&runtime, &store, &clock);
    assert_eq!(sessions.active_count(clock.now()), count, "all are there");
    // Two days later, for the sessions alone.
    let late = move |clock: &Clock| {
        let now = clock.now();
        Now { wall: now.wall.plus_secs(172_800), mono: now.mono.plus_secs(172_800) }
    };
    let started = Instant::now();
    let left = sessions.active_count(late(&clock));
    println!("expired {count}: noticed in {:.2?}", started.elapsed());
    assert_eq!(left, 0, "all have expired");

    for (what, doing) in
        [("look-up", Doing::LookUp), ("booking", Doing::Book), ("opening", Doing::Open)]
    {
        for cleaning in [false, true] {
            let stop = Arc::new(AtomicBool::new(!cleaning));
            let cleaner = {
                let (sessions, stop, clock) = (Arc::clone(&sessions), stop.clone(), clock.clone());
                runtime.spawn(async move {
                    let mut forgotten = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let run = sessions.cleanup(late(&clock)).await.expect("the store answers");
                        forgotten += run;
                        if run == 0 {
                            break;
                        }
                    }
                    forgotten
                })
            };
            let times = runtime.block_on(work(&sessions, &clock, doing));
            stop.store(true, Ordering::Relaxed);
            let forgotten = runtime.block_on(cleaner).expect("no task panics");
            let beside = if cleaning { "while forgetting" } else { "alone" };
            println!("{what:<8} {beside:<16} {times}; {forgotten} forgotten");
        }
    }
    runtime.block_on(store.close()).expect("the store closes");
}

async fn work(sessions: &Arc<Sessions>, clock: &Clock, doing: Doing) -> Times {
    let order = |n| WorkOrder {
        call_budget: 1 << 53,
        expires_at: Timestamp(i64::MAX),
        ..Mix::AllDifferent.order(n, clock)
    };
    let live = sessions.create(order(usize::MAX / 4), clock.now()).await.expect("it opens");
    let (mut times, started) = (Vec::new(), Instant::now());
    while started.elapsed() < FOR {
        let step = Instant::now();
        match doing {
            Doing::LookUp => {
                let found = sessions.get(live.order.id);
                assert!(found.is_some_and(|live| live.with(|usage| !usage.closed)));
            }
            Doing::Book => {
                live.with(|usage| usage.calls_made = usage.booked);
                sessions.lease(&live, 1, clock.mono(), clock).await.expect("the store answers");
            }
            Doing::Open => {
                let order = order(usize::MAX / 4 + 1 + times.len());
                sessions.create(order, clock.now()).await.expect("it opens");
            }
        }
        times.push(step.elapsed());
        // As fast as calls come: not all the time.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Times::of(times)
}
