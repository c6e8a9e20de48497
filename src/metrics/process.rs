//! Metrics of the process itself, as every Prometheus client library names them; read from `/proc`
//! when metrics are asked for.

use std::fs;

use prometheus::{Counter, IntGauge, Registry};

use super::register::{gauge, register};
use crate::saturate::SaturatingFrom as _;

/// Clock ticks a second in `/proc/self/stat`: the kernel's interface has this value everywhere.
const TICKS: f64 = 100.0;
const PAGE_BYTES: i64 = 4_096;

/// The `process_*` series.
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_memory: IntGauge,
    threads: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    started: IntGauge,
}

impl Process {
    pub(super) fn new(r: &Registry) -> Self {
        let cpu = Counter::new("process_cpu_seconds_total", "User and system CPU time spent");
        let process = Self {
            cpu: register(r, cpu),
            resident: gauge(r, "process_resident_memory_bytes", "Resident memory"),
            virtual_memory: gauge(r, "process_virtual_memory_bytes", "Virtual memory"),
            threads: gauge(r, "process_threads", "Threads of the process"),
            open_fds: gauge(r, "process_open_fds", "Open file descriptors"),
            max_fds: gauge(r, "process_max_fds", "Most file descriptors that can be open"),
            started: gauge(r, "process_start_time_seconds", "Start of the process, Unix time"),
        };
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let limit = limit.and_then(|line| line.split_whitespace().next()?.parse().ok());
        process.max_fds.set(limit.unwrap_or_default());
        process
    }

    /// Reads everything again. A figure that cannot be read stays as it was.
    pub(super) fn read(&self) {
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            self.take(&stat);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is the listing's own.
            let open = i64::saturating_from(open.count());
            self.open_fds.set(open.saturating_sub(1));
        }
    }

    /// Takes what `/proc/self/stat` says; its fields are counted behind the name in parentheses.
    fn take(&self, stat: &str) {
        let Some((_, fields)) = stat.rsplit_once(") ") else { return };
        let fields: Vec<&str> = fields.split(' ').collect();
        // Field 3 of proc(5) is the first here.
        let at = |n: usize| fields.get(n.saturating_sub(3))?.parse::<i64>().ok();
        let seconds = |ticks: i64| f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / TICKS;
        if let (Some(user), Some(system)) = (at(14), at(15)) {
            let spent = seconds(user.saturating_add(system));
            self.cpu.inc_by((spent - self.cpu.get()).max(0.0));
        }
        if let Some(threads) = at(20) {
            self.threads.set(threads);
        }
        if let (Some(since_boot), 0) = (at(22), self.started.get()) {
            let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
            let boot =
                stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<i64>().ok());
            self.started.set(boot.unwrap_or_default().saturating_add(since_boot / 100));
        }
        if let Some(bytes) = at(23) {
            self.virtual_memory.set(bytes);
        }
        if let Some(pages) = at(24) {
            self.resident.set(pages.saturating_mul(PAGE_BYTES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        let process = Process::new(&Registry::new());
        process.read();
        assert!(process.resident.get() > 1_000_000, "{}", process.resident.get());
        assert!(process.virtual_memory.get() >= process.resident.get());
        assert!(process.threads.get() >= 1 && process.open_fds.get() >= 3);
        assert!(process.max_fds.get() >= process.open_fds.get());
        // After 2020, whatever the machine's clock says of today.
        assert!(process.started.get() > 1_577_836_800, "{}", process.started.get());
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_shifts_nothing() {
        let process = Process::new(&Registry::new());
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 9 0 100 8192 3 0";
        process.take(stat);
        assert!((process.cpu.get() - 2.0).abs() < 1e-9);
        assert_eq!((process.threads.get(), process.virtual_memory.get()), (9, 8_192));
        assert_eq!(process.resident.get(), 3 * 4_096);
    }
}
