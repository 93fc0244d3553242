//! Progress of work that takes longer than a moment: on a terminal one line that is rewritten, elsewhere a plain line
//! now and then. Written to standard error directly, past the capture of test runners.

use std::{
    future::Future,
    io::{self, IsTerminal, Write},
    pin::pin,
    time::{Duration, Instant},
};

use tokio::time::{interval_at, sleep};

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
/// The width of a narrow terminal, less one.
const WIDTH: usize = 79;
/// Returns to the beginning of the line and erases it.
const CLEAR: &str = "\r\x1b[K";

/// The manner of showing progress.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// Rewrite one line.
    in_place: bool,
    /// Shorter work is not shown.
    after: Duration,
    every: Duration,
}

const TERMINAL: Manner =
    Manner { in_place: true, after: Duration::from_millis(300), every: Duration::from_millis(100) };
const PLAIN: Manner = Manner { in_place: false, after: Duration::from_secs(1), every: Duration::from_secs(10) };

/// Runs `work`, and meanwhile shows its name (`words`, without a dot), its progress (`measure`, may be empty) and the
/// time so far.
pub async fn during<T>(words: &str, measure: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    let error = io::stderr();
    let lives = error.is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    show(error, if lives { TERMINAL } else { PLAIN }, words, measure, work).await
}

async fn show<T>(
    out: impl Write,
    manner: Manner,
    words: &str,
    measure: impl Fn() -> String,
    work: impl Future<Output = T>,
) -> T {
    let started = Instant::now();
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = sleep(manner.after) => {}
    }
    let mut out = Line { out, in_place: manner.in_place };
    let mut ticks = interval_at(tokio::time::Instant::now(), manner.every);
    let mut turn = 0;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => {}
        }
        let measured = measure();
        let measured = if measured.is_empty() { measured } else { format!(", {measured}") };
        let seconds = started.elapsed().as_secs();
        out.write(&if manner.in_place {
            let line = format!("{} {words}{measured} ({seconds} s)", SPINNER[turn % SPINNER.len()]);
            // A line that wraps cannot be erased.
            format!("{CLEAR}{}", line.chars().take(WIDTH).collect::<String>())
        } else if turn == 0 {
            format!("{words} ...\n")
        } else {
            format!("{words} ...{measured} ({seconds} s)\n")
        });
        turn += 1;
    }
}

/// Erases the line on drop, also if the work is cancelled.
struct Line<W: Write> {
    out: W,
    in_place: bool,
}

impl<W: Write> Line<W> {
    fn write(&mut self, text: &str) {
        // Nobody reads a closed standard error.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

impl<W: Write> Drop for Line<W> {
    fn drop(&mut self) {
        if self.in_place {
            self.write(CLEAR);
        }
    }
}

/// Formats as `12 of 25 MB (48 %)`; above `total`, which is an estimate then, without it.
pub fn megabytes(done: u64, total: u64) -> String {
    const MEGABYTE: u64 = 1_000_000;
    let share = (done * 100).checked_div(total).unwrap_or(100);
    if share <= 100 {
        format!("{} of {} MB ({share} %)", done / MEGABYTE, total / MEGABYTE)
    } else {
        format!("unpacking, {} MB", done / MEGABYTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shown(in_place: bool, work: Duration) -> String {
        let manner = Manner { in_place, after: Duration::from_millis(50), every: Duration::from_millis(20) };
        let mut out = Vec::new();
        let done = show(&mut out, manner, "Fetching", || "1 of 2 MB".to_owned(), async {
            sleep(work).await;
            7
        });
        assert_eq!(done.await, 7);
        String::from_utf8(out).expect("UTF-8")
    }

    #[tokio::test]
    async fn work_that_is_done_at_once_is_not_spoken_of() {
        assert_eq!(shown(true, Duration::ZERO).await, "");
        assert_eq!(shown(false, Duration::ZERO).await, "");
    }

    #[tokio::test]
    async fn a_terminal_has_one_line_that_goes() {
        let shown = shown(true, Duration::from_millis(300)).await;
        assert!(shown.contains("⠋ Fetching, 1 of 2 MB (0 s)"), "{shown}");
        assert!(shown.split(CLEAR).all(|line| line.chars().count() <= WIDTH), "{shown}");
        assert!(shown.contains("⠙ Fetching") && !shown.contains('\n') && shown.ends_with(CLEAR), "{shown}");
    }

    #[tokio::test]
    async fn elsewhere_there_are_plain_lines() {
        let shown = shown(false, Duration::from_millis(300)).await;
        assert!(shown.starts_with("Fetching ...\nFetching ..., 1 of 2 MB (0 s)\n"), "{shown}");
        assert!(!shown.contains(['\r', '\x1b']), "{shown}");
    }

    #[test]
    fn sizes_are_in_megabytes() {
        assert_eq!(megabytes(12_400_000, 25_000_000), "12 of 25 MB (49 %)");
        assert_eq!(megabytes(70_000_000, 25_000_000), "unpacking, 70 MB");
    }
}
