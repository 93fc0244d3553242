//! A gate in front of a server: its address stays while what lies behind it
//! comes, goes, or stops answering.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Connections are refused, and those that were are cut.
    Closed,
    /// To there.
    Open(SocketAddr),
}

/// Closed at first.
pub struct Gate {
    pub address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
    stuck: Arc<watch::Sender<bool>>,
}

impl Gate {
    pub fn new() -> Self {
        let free = StdListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let (way, stuck) = (Arc::new(watch::Sender::new(Way::Closed)), Arc::new(watch::Sender::new(false)));
        tokio::spawn(run(address, way.subscribe(), stuck.subscribe()));
        Self { address, way, stuck }
    }

    pub fn open(&self, to: SocketAddr) {
        self.way.send_replace(Way::Open(to));
    }

    pub fn close(&self) {
        self.way.send_replace(Way::Closed);
    }

    /// The connections so far carry nothing any more, and nobody is told.
    pub fn strand(&self) {
        self.stuck.send_replace(true);
        self.stuck.send_replace(false);
    }
}

async fn run(address: SocketAddr, mut way: watch::Receiver<Way>, stuck: watch::Receiver<bool>) {
    loop {
        let now = *way.borrow_and_update();
        let Way::Open(to) = now else {
            if way.changed().await.is_err() {
                return;
            }
            continue;
        };
        let listener = TcpListener::bind(address).await.expect("the port is still free");
        // Dropped with the way, and the connections with it.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (mut from, _) = accepted.expect("a connection");
                    let mut stuck = stuck.clone();
                    stuck.mark_unchanged();
                    connections.spawn(async move {
                        let mut to = TcpStream::connect(to).await?;
                        tokio::select! {
                            done = copy_bidirectional(&mut from, &mut to) => done.map(|_| ()),
                            _ = stuck.changed() => std::future::pending().await,
                        }
                    });
                }
                changed = way.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
    }
}
