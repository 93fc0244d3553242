//! The scripted provider: a real server on a port of its own that answers from
//! a script and records each request and when its client left. Tests, the
//! browser's tests and the soak use the same one.
//!
//! One of them serves any number of tests at once: each has a key of its own,
//! and a request is answered from the script of the key that it shows. All
//! that the provider knows is one value in a [`watch`] channel, so waiting for
//! something to happen is [`watch::Receiver::wait_for`].
//!
//! [`Upstream::answering`] computes each answer from its request instead.

mod reply;
mod request;
pub mod wire;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

pub use reply::{End, Reply, Step};
pub use request::Recorded;
use wire::{Wire, header};

/// The key under which requests are kept that [`Upstream::script_any`] answered.
pub const ANY: &str = "*";

type Answer = Arc<dyn Fn(&Recorded) -> Reply + Send + Sync>;

/// The server. It stops, and its connections close, when it is dropped or when
/// the runtime of the test that started it ends.
pub struct Upstream {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// On 127.0.0.1, with a port that was free.
    pub async fn start() -> Upstream {
        Upstream::serve(None, true, Duration::MAX)
    }

    /// Answers each request with what `answer` makes of it.
    pub fn answering(answer: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Upstream {
        Upstream::serve(Some(Arc::new(answer)), true, Duration::MAX)
    }

    /// The same for any number of requests: they are not recorded, and a
    /// connection without a request is closed after `idle`.
    pub fn answering_for_long(idle: Duration, answer: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Upstream {
        Upstream::serve(Some(Arc::new(answer)), false, idle)
    }

    fn serve(answer: Option<Answer>, records: bool, idle: Duration) -> Upstream {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::from_std(listener).expect("a runtime");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = watch::Sender::new(State::default());
        let server = Arc::new(Server { state: state.clone(), answer, records, idle });
        Upstream { address, accepting: tokio::spawn(accept(listener, server)), state }
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers requests that show `key` with these replies from now on, one a
    /// request; the last one repeats.
    pub fn script(&self, key: &str, replies: Vec<Reply>) {
        self.state.send_modify(|state| state.script(key).replies = replies.into());
    }

    /// Answers requests that show a key without a script; they are kept under
    /// the key [`ANY`].
    pub fn script_any(&self, replies: Vec<Reply>) {
        self.script(ANY, replies);
    }

    /// Answers requests that show `key` and whose path begins with `prefix`,
    /// without using up a reply of the script.
    pub fn tool(&self, key: &str, prefix: &str, reply: Reply) {
        self.state.send_modify(|state| state.script(key).tools.push((prefix.to_owned(), reply)));
    }

    /// Ends each [`Step::WaitForRelease`] of this key's answers, those to come
    /// as well.
    pub fn release(&self, key: &str) {
        self.state.send_modify(|state| {
            state.released.insert(key.to_owned());
        });
    }

    /// The requests with this key so far, in the order in which they came.
    pub fn requests(&self, key: &str) -> Vec<Recorded> {
        self.state.borrow().requests(key)
    }

    /// The requests so far, in the order in which they came.
    pub fn all(&self) -> Vec<Recorded> {
        self.state.borrow().requests.clone()
    }

    /// The number of connections made to this server.
    pub fn connections(&self) -> usize {
        self.state.borrow().connections
    }

    /// Waits until the requests with this key are as `met` wants them; returns
    /// whether they were within `limit`.
    pub async fn wait_for(&self, key: &str, limit: Duration, met: impl Fn(&[Recorded]) -> bool) -> bool {
        let mut changes = self.state.subscribe();
        let met = changes.wait_for(|state| met(&state.requests(key)));
        matches!(timeout(limit, met).await, Ok(Ok(_)))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The part that connections share.
struct Server {
    state: watch::Sender<State>,
    answer: Option<Answer>,
    records: bool,
    idle: Duration,
}

impl Server {
    /// Records a request; returns its key, its place in the list if it is
    /// kept, and its answer.
    fn admit(&self, mut request: Recorded) -> (String, Option<usize>, Reply) {
        let Some(answer) = &self.answer else {
            let (key, place, reply) = change(&self.state, |state| state.admit(request));
            return (key, Some(place), reply);
        };
        request.key = request.shown_key().to_owned();
        let (key, reply) = (request.key.clone(), answer(&request));
        let place = self.records.then(|| change(&self.state, |state| state.record(request)));
        (key, place, reply)
    }

    fn connect(&self) -> usize {
        change(&self.state, |state| {
            state.connections += 1;
            state.connections
        })
    }
}

/// All that the provider knows.
#[derive(Default)]
struct State {
    scripts: HashMap<String, Script>,
    requests: Vec<Recorded>,
    released: HashSet<String>,
    connections: usize,
}

/// The replies to one key.
#[derive(Default)]
struct Script {
    replies: VecDeque<Reply>,
    tools: Vec<(String, Reply)>,
}

impl State {
    fn script(&mut self, key: &str) -> &mut Script {
        self.scripts.entry(key.to_owned()).or_default()
    }

    fn requests(&self, key: &str) -> Vec<Recorded> {
        let with_key = |request: &&Recorded| request.key == key;
        self.requests.iter().filter(with_key).cloned().collect()
    }

    /// Records a request; returns its key, its place in the list and its
    /// scripted answer.
    fn admit(&mut self, mut request: Recorded) -> (String, usize, Reply) {
        let scripted = request.shown_keys().chain([ANY]).find(|key| self.scripts.contains_key(*key));
        request.key = scripted.unwrap_or(request.shown_key()).to_owned();
        let reply =
            self.scripts.get_mut(&request.key).and_then(|script| script.reply_to(&request.path)).unwrap_or_else(|| {
                let message = format!("nothing is scripted for the key {:?}", request.key);
                Reply::json(404, &json!({ "error": { "message": message } }))
            });
        (request.key.clone(), self.record(request), reply)
    }

    fn record(&mut self, request: Recorded) -> usize {
        self.requests.push(request);
        self.requests.len() - 1
    }
}

impl Script {
    fn reply_to(&mut self, path: &str) -> Option<Reply> {
        if let Some((_, reply)) = self.tools.iter().find(|(prefix, _)| path.starts_with(prefix)) {
            return Some(reply.clone());
        }
        if self.replies.len() > 1 {
            return self.replies.pop_front();
        }
        self.replies.front().cloned()
    }
}

/// The moment at which [`Upstream::release`] is called for a key.
struct Released {
    changes: watch::Receiver<State>,
    key: String,
}

impl Released {
    async fn wait(&mut self) {
        // An error would mean that the server has ended, and this with it.
        let _ = self.changes.wait_for(|state| state.released.contains(&self.key)).await;
    }
}

/// Changes the state and wakes those that wait for it.
fn change<T>(state: &watch::Sender<State>, apply: impl FnOnce(&mut State) -> T) -> T {
    let mut result = None;
    state.send_modify(|state| result = Some(apply(state)));
    result.expect("`send_modify` runs its closure")
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    // Dropped with this task, and its connections with it.
    let mut serving = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let connection = server.connect();
                serving.spawn(serve(socket, connection, server.clone()));
            }
            // Out of file descriptors, perhaps: others may soon be free.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
        while serving.try_join_next().is_some() {}
    }
}

/// Serves a connection to its end. Errors are the peer's affair: a request
/// that did not come to its end is not recorded.
async fn serve(mut socket: TcpStream, connection: usize, server: Arc<Server>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (reader, mut writer) = socket.split();
    let mut wire = Wire::new(reader);
    while let Ok(head) = timeout(server.idle, wire.head()).await {
        let Some(head) = head? else { break };
        let close =
            header(&head.headers, "connection").is_some_and(|connection| connection.eq_ignore_ascii_case("close"));
        let request = Recorded::read(&mut wire, head, connection).await?;
        let (key, place, reply) = server.admit(request);
        let released = Released { changes: server.state.subscribe(), key };

        let completed = tokio::select! {
            // A peer that is seen to have left at the very moment of the last
            // write left before it, for it had nothing to go by.
            biased;
            () = wire.gone() => false,
            played = reply.play(&mut writer, released) => played.is_ok(),
        };
        let now = Instant::now();
        if let Some(place) = place {
            server.state.send_modify(|state| {
                let request = &mut state.requests[place];
                if completed {
                    request.completed = Some(now);
                } else {
                    request.left = Some(now);
                }
            });
        }
        if close || !completed || reply.end != End::Normal {
            break;
        }
    }
    Ok(())
}
