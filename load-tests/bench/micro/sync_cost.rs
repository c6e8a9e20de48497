//! Cost of an admitted call with `durability = "sync"`, and the number of calls that share one disk
//! sync.
//!
//! Callers admit and complete calls as fast as they are let; a table says how long each waited, what
//! it cost in processor time (of all threads), and how many records were written for each sync of
//! journal or log. A folder in memory shows what is left when the disk costs nothing.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arbiter::audit::{Durability, Entry, Outcome};
use arbiter::clock::Clock;
use tokio::runtime::{Builder, Runtime};

const RUN_US: u64 = 3_000_000;
const CALLERS: [u64; 3] = [1, 8, 64];

pub(crate) fn print(entry: &Entry) {
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("folder  durability  callers   calls/s  wait µs  CPU µs  records/sync");
    let folders =
        [("disk", tempfile::tempdir().expect("a folder on the disk")), ("memory", super::memory())];
    for (name, folder) in &folders {
        for callers in CALLERS {
            for durability in [Durability::Write, Durability::Sync] {
                let folder = tempfile::tempdir_in(folder).expect("a folder of its own");
                let cost = measure(&runtime, &folder, durability, callers, entry);
                println!("{name:6}  {durability:10?}  {callers:7}  {cost}");
            }
        }
    }
}

fn measure(
    runtime: &Runtime,
    folder: &tempfile::TempDir,
    durability: Durability,
    callers: u64,
    entry: &Entry,
) -> String {
    let clock = Clock::system();
    let audit = Arc::new(super::open(folder, durability));
    let waited_us = Arc::new(AtomicU64::new(0));
    let (cpu_before, begin) = (cpu_ns(), clock.mono());
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (audit, clock, entry) = (Arc::clone(&audit), clock.clone(), entry.clone());
            let waited_us = Arc::clone(&waited_us);
            runtime.spawn(async move {
                let mut calls = 0;
                while clock.mono().since(begin) < RUN_US {
                    let asked = clock.mono();
                    // In memory the callers may outrun the writer, which is left to catch up.
                    let Ok(receipt) = audit.record_admitted(&entry).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    waited_us.fetch_add(clock.mono().since(asked), Ordering::Relaxed);
                    receipt.complete(Outcome::completed(1_234, Some(200)));
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let calls: u64 =
        tasks.into_iter().map(|task| runtime.block_on(task).expect("no task panics")).sum();
    let took_us = clock.mono().since(begin);
    let cpu = cpu_ns() - cpu_before;
    audit.close();
    assert_eq!(audit.records_written(), calls, "a call has no record");
    let waited_us = waited_us.load(Ordering::Relaxed);
    let shared = match audit.syncs() {
        0 => "-".to_owned(),
        syncs => format!("{}.{}", calls / syncs, calls * 10 / syncs % 10),
    };
    let tenths = |ns: u64| format!("{}.{}", ns / 1_000, ns / 100 % 10);
    let (wait, cpu) = (tenths(waited_us * 1_000 / calls), tenths(cpu / calls));
    format!("{:8}  {wait:>7}  {cpu:>6}  {shared:>12}", calls * 1_000_000 / took_us)
}

/// Processor time that this process's threads have had so far.
fn cpu_ns() -> u64 {
    let threads = fs::read_dir("/proc/self/task").expect("Linux tells of its threads");
    let time = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    };
    threads.filter_map(|thread| time(thread.ok()?)).sum()
}
