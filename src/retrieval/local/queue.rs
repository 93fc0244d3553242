//! One thread that computes embeddings, and the queue of calls.

use std::{
    collections::VecDeque,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Instant,
    vec,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Error;

type Vectors = Vec<Vec<f32>>;

/// The channel to the thread, which ends when this is dropped.
pub struct Queue {
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
}

/// One call.
struct Job {
    texts: vec::IntoIter<String>,
    /// Vectors of the finished texts.
    vectors: Vectors,
    queued_at: Instant,
    /// Closed if the caller has left.
    reply: oneshot::Sender<Result<Vectors, Error>>,
    place: OwnedSemaphorePermit,
}

impl Job {
    /// Sends the result; a caller that has left is ignored. The slot is freed before the caller continues.
    fn answer(self, answer: Result<Vectors, Error>) {
        drop(self.place);
        let _left = self.reply.send(answer);
    }
}

impl Queue {
    /// Starts the thread. It calls `load` for the first job, and again for a later one after a failure; the result of
    /// `load` embeds a text. A panic in either becomes [`Error::Failed`].
    ///
    /// # Errors
    /// [`Error::Failed`] if the system cannot create a thread.
    pub fn start<E>(places: usize, load: impl FnMut() -> Result<E, Error> + Send + 'static) -> Result<Self, Error>
    where
        E: Fn(&str) -> Result<Vec<f32>, Error> + 'static,
    {
        let (jobs, waiting) = mpsc::channel();
        let thread = thread::Builder::new().name("embeddings".to_owned());
        thread.spawn(move || work(&waiting, load)).map_err(|error| Error::Failed(format!("no thread: {error}")))?;
        Ok(Self { jobs, places: Arc::new(Semaphore::new(places)) })
    }

    /// Computes a vector for each text.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full, at once; else the error of `load` or of its result.
    pub async fn embed(&self, texts: Vec<String>) -> Result<Vectors, Error> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let (reply, answer) = oneshot::channel();
        let vectors = Vec::with_capacity(texts.len());
        let job = Job { texts: texts.into_iter(), vectors, queued_at: Instant::now(), reply, place };
        let gone = || Error::Failed("the thread has ended".to_owned());
        self.jobs.send(job).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("free", &self.places.available_permits()).finish_non_exhaustive()
    }
}

fn work<E>(arriving: &Receiver<Job>, mut load: impl FnMut() -> Result<E, Error>)
where
    E: Fn(&str) -> Result<Vec<f32>, Error>,
{
    let mut embed = None;
    // The last failed load: its end and its error.
    let mut failed: Option<(Instant, Error)> = None;
    let mut jobs: VecDeque<Job> = VecDeque::new();
    loop {
        if jobs.is_empty() {
            match arriving.recv() {
                Ok(job) => jobs.push_back(job),
                Err(_) => return,
            }
        }
        jobs.extend(arriving.try_iter());
        jobs.retain(|job| !job.reply.is_closed());
        let Some(mut job) = jobs.pop_front() else {
            continue;
        };
        let embed = match &embed {
            Some(embed) => embed,
            None => {
                // A call from before the end of the last attempt shares its result.
                let before = failed.as_ref().filter(|(ended, _)| job.queued_at < *ended);
                let loaded = before.map_or_else(|| caught(&mut load), |(_, error)| Err(error.clone()));
                match loaded {
                    Ok(loaded) => &*embed.insert(loaded),
                    Err(error) => {
                        if before.is_none() {
                            failed = Some((Instant::now(), error.clone()));
                        }
                        job.answer(Err(error));
                        continue;
                    }
                }
            }
        };
        // One text, then the next job's.
        if let Some(text) = job.texts.next() {
            match caught(|| embed(&text)) {
                Ok(vector) => job.vectors.push(vector),
                Err(error) => {
                    job.answer(Err(error));
                    continue;
                }
            }
        }
        if job.texts.len() > 0 {
            jobs.push_back(job);
        } else {
            let vectors = mem::take(&mut job.vectors);
            job.answer(Ok(vectors));
        }
    }
}

/// Catches a panic, which must not end the thread.
fn caught<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let run = catch_unwind(AssertUnwindSafe(run));
    run.unwrap_or_else(|_| Err(Error::Failed("the thread panicked".to_owned())))
}

#[cfg(test)]
mod tests;
