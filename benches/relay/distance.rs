//! A proxy that puts a distance between two programs of this machine: what is sent arrives later, in both directions. It
//! counts how often the client has waited for the server.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// The proxy; it ends with the process.
#[derive(Clone)]
pub struct Distance {
    pub address: SocketAddr,
    turns: Arc<AtomicUsize>,
}

impl Distance {
    /// In front of `there`. The kernel still opens connections at once, so TCP's own handshake takes no time.
    pub fn before(there: SocketAddr, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let distance = Self { address: listener.local_addr()?, turns: Arc::default() };
        let turns = distance.turns.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(there) else { continue };
                // A connection that is gone already is its client's loss.
                let _ = join(client, server, one_way, &turns);
            }
        });
        Ok(distance)
    }

    /// The number of times that a client has waited since the last call.
    pub fn take_turns(&self) -> usize {
        self.turns.swap(0, Ordering::Relaxed)
    }
}

fn join(client: TcpStream, server: TcpStream, one_way: Duration, turns: &Arc<AtomicUsize>) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let answered = Arc::new(AtomicBool::new(true));
    let (asks, turns) = (answered.clone(), turns.clone());
    carry(client.try_clone()?, server.try_clone()?, one_way, move || {
        // The client has read an answer, and goes on.
        if asks.swap(false, Ordering::Relaxed) {
            turns.fetch_add(1, Ordering::Relaxed);
        }
    });
    carry(server, client, one_way, move || answered.store(true, Ordering::Relaxed));
    Ok(())
}

/// Carries bytes from one socket to the other, on two threads, whose sleep is more exact than a runtime's.
fn carry(mut from: TcpStream, mut to: TcpStream, one_way: Duration, sent: impl Fn() + Send + 'static) {
    let (on_the_way, arrivals) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // The end is carried as no bytes.
            let length = from.read(&mut buffer).unwrap_or(0);
            if length > 0 {
                sent();
            }
            if on_the_way.send((Instant::now() + one_way, buffer[..length].to_vec())).is_err() || length == 0 {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (at, bytes) in arrivals {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    });
}
