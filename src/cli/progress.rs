//! What a person sees of work that takes longer than a moment: on a terminal one line that lives, elsewhere a plain
//! line now and then. On standard error, past the capture of test runners, which is for the tests' own words.

use std::{
    future::Future,
    io::{self, IsTerminal, Write},
    pin::pin,
    time::{Duration, Instant},
};

use tokio::time::{interval_at, sleep};

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
/// Of a narrow terminal, less one.
const WIDTH: usize = 79;
/// Back to the line's beginning, and nothing on it.
const CLEAR: &str = "\r\x1b[K";

/// When there is something to see.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// Rewrite one line.
    in_place: bool,
    /// Work that ends before is not spoken of.
    after: Duration,
    every: Duration,
}

const TERMINAL: Manner =
    Manner { in_place: true, after: Duration::from_millis(300), every: Duration::from_millis(100) };
const PLAIN: Manner = Manner { in_place: false, after: Duration::from_secs(1), every: Duration::from_secs(10) };

/// Does `work`, and shows meanwhile what it is (`words`, without a dot), how far it is (`measure`, may be empty) and
/// for how long.
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
            // A line that wraps cannot be taken back.
            format!("{CLEAR}{}", line.chars().take(WIDTH).collect::<String>())
        } else if turn == 0 {
            format!("{words} ...\n")
        } else {
            format!("{words} ...{measured} ({seconds} s)\n")
        });
        turn += 1;
    }
}

/// Leaves a terminal's line empty, also where the work is broken off.
struct Line<W: Write> {
    out: W,
    in_place: bool,
}

impl<W: Write> Line<W> {
    fn write(&mut self, text: &str) {
        // Whoever closed it does not want to see it.
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

/// `12 of 25 MB (48 %)`; past `total`, which is then not all there is to do, just what is done.
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
