//! A gate in front of a server: its address stays while what lies behind it
//! comes, goes, or stops answering.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use super::ports::Port;

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
    last: Arc<Mutex<Vec<u8>>>,
    _port: Port,
}

impl Gate {
    pub fn new() -> Self {
        let port = Port::reserve();
        let address = port.address;
        let (way, stuck) = (Arc::new(watch::Sender::new(Way::Closed)), Arc::new(watch::Sender::new(false)));
        let last = Arc::default();
        tokio::spawn(run(address, way.subscribe(), stuck.subscribe(), Arc::clone(&last)));
        Self { address, way, stuck, last, _port: port }
    }

    pub fn open(&self, to: SocketAddr) {
        self.way.send_replace(Way::Open(to));
    }

    pub fn close(&self) {
        self.way.send_replace(Way::Closed);
    }

    /// The connections so far carry nothing any more, without being closed.
    pub fn strand(&self) {
        self.stuck.send_replace(true);
        self.stuck.send_replace(false);
    }

    /// From now on a connection carries nothing any more once its client has
    /// written just these bytes; without bytes no connection does.
    pub fn strand_at(&self, last: &[u8]) {
        *self.last.lock().expect("no panic") = last.to_vec();
    }
}

async fn run(
    address: SocketAddr,
    mut way: watch::Receiver<Way>,
    stuck: watch::Receiver<bool>,
    last: Arc<Mutex<Vec<u8>>>,
) {
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
                    let (from, _) = accepted.expect("a connection");
                    let (mut stuck, last) = (stuck.clone(), Arc::clone(&last));
                    stuck.mark_unchanged();
                    connections.spawn(async move {
                        let to = TcpStream::connect(to).await?;
                        let ((mut from, mut back), (mut answer, mut to)) = (from.into_split(), to.into_split());
                        tokio::select! {
                            done = up(&mut from, &mut to, &last) => done,
                            done = copy(&mut answer, &mut back) => done.map(|_| ()),
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

/// Ends with the client; does not end once the client has written the last.
async fn up(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, last: &Mutex<Vec<u8>>) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count] == **last.lock().expect("no panic") {
            return std::future::pending().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}
