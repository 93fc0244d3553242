//! A server process observed from outside: its processor time and its memory, from `/proc`.

use std::{fs, process::Child};

/// A process; one that was started here is killed on drop.
pub struct Process {
    id: u32,
    child: Option<Child>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    /// A process that was started here.
    pub fn new(child: Child) -> Self {
        Self { id: child.id(), child: Some(child) }
    }

    /// A process that somebody else started, by its id.
    pub fn of(id: u32) -> Self {
        Self { id, child: None }
    }

    /// Returns its id and its children's (nginx's workers).
    fn family(&self) -> Vec<String> {
        let id = self.id.to_string();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let mut family: Vec<String> = children.split_whitespace().map(str::to_owned).collect();
        family.push(id);
        family
    }

    /// Returns user and system time of all its threads, in nanoseconds.
    pub fn cpu(&self) -> u64 {
        let threads =
            self.family().into_iter().flat_map(|id| fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten());
        let times = threads.flatten().filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        times.sum()
    }

    /// Returns a line of `/proc/ID/status`, in bytes, summed over its family.
    fn status(&self, name: &str) -> u64 {
        let lines = self.family().into_iter().filter_map(|id| {
            let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
        lines.sum::<u64>() * 1024
    }

    /// Returns the resident memory.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS")
    }

    /// Returns the maximum of the resident memory since [`Process::forget_peak`].
    pub fn peak(&self) -> u64 {
        self.status("VmHWM")
    }

    pub fn forget_peak(&self) {
        for id in self.family() {
            let _ = fs::write(format!("/proc/{id}/clear_refs"), "5");
        }
    }
}
