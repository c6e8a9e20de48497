//! Queue between calls and the writer: one bounded list, and a bell.
//!
//! Completions cannot be refused, because each holds slots of the journal, and the slots bound
//! them. Records of refusals have their own bound. A completion wakes the writer only if it sleeps,
//! and the writer then waits a moment for more: nobody waits for it, and one wake-up serves many.
//! After each batch it rests as long before it sleeps, so that a busy gateway's calls wake nobody.
//! The writer does not wait while few slots are left.

use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::journal::HeldSlots;
use super::record::{Draft, Outcome};

/// Time for which the writer collects completions before writing them.
const COLLECT: Duration = Duration::from_millis(2);
/// Interval between an idle writer's checks that its file still exists.
const LOOK: Duration = Duration::from_secs(1);
/// Interval between retries of a writer that cannot write.
const RETRY: Duration = Duration::from_millis(250);
/// From this many on nothing more is waited for.
const ENOUGH: usize = 1_024;

/// One thing for the writer to do.
pub(super) enum Job {
    /// A line whose text is already whole, but for the chain.
    Line { line: Vec<u8>, slots: Option<HeldSlots> },
    /// An admitted call has ended.
    Ended { draft: Draft, outcome: Outcome, slots: HeldSlots },
    /// A call was admitted to the journal but never let through; its refusal is recorded apart.
    Withdrawn { slots: HeldSlots },
    /// A refusal or an admin action; somebody waits until it is written.
    Record { draft: Draft, outcome: Outcome, written: oneshot::Sender<()> },
    /// Somebody waits until the journal is on the disk.
    Sync { synced: oneshot::Sender<()> },
    /// Somebody waits until the writer has looked which file has the log's name.
    Reopen { looked: oneshot::Sender<()> },
}

/// State of the queue.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Door {
    #[default]
    Open,
    /// The writer is to write what is here and to stop.
    Closing,
    /// No writer will ever look in here again.
    Shut,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    /// Records among the jobs.
    records: usize,
    /// Somebody waits for what is in here, or for the slots it will free.
    urgent: bool,
    asleep: bool,
    /// The last look found something.
    busy: bool,
    door: Door,
}

pub(super) struct Inbox {
    state: Mutex<Queue>,
    bell: Condvar,
    max_records: usize,
}

impl Inbox {
    pub(super) fn new(max_records: usize) -> Self {
        Self { state: Mutex::default(), bell: Condvar::new(), max_records }
    }

    /// Hands over a job; `false` if there is no room or no writer any more.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut state = self.state.lock();
        if state.door == Door::Shut {
            return false;
        }
        let urgent = match &job {
            Job::Line { .. } => false,
            Job::Ended { slots, .. } | Job::Withdrawn { slots } => slots.scarce,
            Job::Record { .. } if state.records >= self.max_records => return false,
            Job::Record { .. } => {
                state.records += 1;
                true
            }
            Job::Sync { .. } | Job::Reopen { .. } => true,
        };
        state.jobs.push(job);
        let enough = state.jobs.len() == ENOUGH;
        let ring = state.asleep || enough || (urgent && !state.urgent);
        state.urgent |= urgent;
        state.asleep = false;
        drop(state);
        if ring {
            self.bell.notify_one();
        }
        true
    }

    /// Waits for jobs, moves them to the end of `jobs`, and says whether to go on after them.
    pub(super) fn collect(&self, jobs: &mut Vec<Job>, healthy: bool) -> bool {
        let mut state = self.state.lock();
        if healthy {
            let more = |s: &Queue| !s.urgent && s.door == Door::Open && s.jobs.len() < ENOUGH;
            if state.busy || !state.jobs.is_empty() {
                self.wait(&mut state, COLLECT, more);
            }
            if state.jobs.is_empty() && state.door == Door::Open {
                state.asleep = true;
                self.wait(&mut state, LOOK, |s| s.jobs.is_empty() && s.door == Door::Open);
                state.asleep = false;
                if !state.jobs.is_empty() {
                    self.wait(&mut state, COLLECT, more);
                }
            }
        } else {
            self.wait(&mut state, RETRY, |s| s.door == Door::Open);
        }
        state.busy = !state.jobs.is_empty();
        jobs.append(&mut state.jobs);
        state.records = 0;
        state.urgent = false;
        state.door == Door::Open
    }

    fn wait(
        &self,
        state: &mut MutexGuard<'_, Queue>,
        limit: Duration,
        while_this: impl Fn(&Queue) -> bool,
    ) {
        self.bell.wait_while_for(state, |s| while_this(s), limit);
    }

    /// Asks the writer to write what is here and to stop.
    pub(super) fn close(&self) {
        self.state.lock().door = Door::Closing;
        self.bell.notify_one();
    }

    /// Lets nothing more in, and hands out what is left.
    pub(super) fn shut(&self) -> Vec<Job> {
        let mut state = self.state.lock();
        state.door = Door::Shut;
        std::mem::take(&mut state.jobs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn looked_at() -> Job {
        Job::Line { line: Vec::new(), slots: None }
    }

    #[test]
    fn a_busy_writer_rests_without_asking_to_be_woken() {
        let inbox = Arc::new(Inbox::new(1));
        let mut jobs = Vec::new();
        assert!(inbox.push(looked_at()));
        assert!(inbox.collect(&mut jobs, true));
        assert_eq!(jobs.len(), 1);
        let pushing = thread::spawn({
            let inbox = inbox.clone();
            move || {
                // After its rest it sleeps, and has to be woken.
                while !inbox.state.lock().asleep {
                    thread::yield_now();
                }
                inbox.push(looked_at()) && !inbox.state.lock().asleep
            }
        });
        assert!(inbox.state.lock().busy && !inbox.state.lock().asleep);
        while jobs.len() < 2 {
            assert!(inbox.collect(&mut jobs, true));
        }
        assert!(pushing.join().unwrap());
    }
}
