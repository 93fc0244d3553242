//! The rate limit: a bucket that holds a minute's requests and fills evenly (GCRA). All there is to keep of a user is
//! one moment: when the bucket will be full again.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// A number of requests per minute.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// The time in which the bucket regains one request.
    pub interval: Duration,
    /// The time in which an empty bucket fills: a minute, apart from rounding.
    pub window: Duration,
}

impl Rate {
    /// Creates the rate of `RATE_LIMIT_PER_MINUTE`.
    pub fn per_minute(requests: NonZeroU32) -> Self {
        let interval = Duration::from_micros(60_000_000 / u64::from(requests.get()));
        Self { interval, window: interval * requests.get() }
    }

    /// Takes a request out of a bucket that will be full at `full`, and returns when it will be full again.
    ///
    /// # Errors
    /// If the bucket is empty: the time until it holds a request.
    pub fn take(&self, full: Instant, now: Instant) -> Result<Instant, Duration> {
        let full = full.max(now) + self.interval;
        let wait = full.saturating_duration_since(now + self.window);
        if wait.is_zero() { Ok(full) } else { Err(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_minutes_requests_and_fills_evenly() {
        let rate = Rate::per_minute(NonZeroU32::new(6).expect("not 0"));
        let start = Instant::now();
        let mut full = start;
        for _ in 0..6 {
            full = rate.take(full, start).expect("there is one");
        }
        assert_eq!(rate.take(full, start), Err(Duration::from_secs(10)));
        assert_eq!(rate.take(full, start + Duration::from_secs(7)), Err(Duration::from_secs(3)));
        let later = start + Duration::from_secs(10);
        full = rate.take(full, later).expect("one came in");
        assert_eq!(rate.take(full, later), Err(Duration::from_secs(10)));
        // An hour later it is full, and not fuller than full.
        let later = start + Duration::from_secs(3600);
        for _ in 0..6 {
            full = rate.take(full, later).expect("there is one");
        }
        assert!(rate.take(full, later).is_err());
    }

    #[test]
    fn every_rate_gives_as_many_at_once_as_it_says() {
        for requests in [1, 7, 61, 1000, 1_000_000] {
            let rate = Rate::per_minute(NonZeroU32::new(requests).expect("not 0"));
            let now = Instant::now();
            let mut full = now;
            let given = std::iter::from_fn(|| rate.take(full, now).ok().inspect(|after| full = *after)).count();
            assert_eq!(given, requests as usize);
        }
    }
}
