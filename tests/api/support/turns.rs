//! A proxy between the server and its database that counts how often the server waits for it, and can make it wait.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Postgres' `Sync` alone, by which the pool tests a connection after its use, when nobody waits any more.
const SYNC: &[u8] = b"S\0\0\0\x04";

/// The proxy; it ends with the test's runtime.
#[derive(Clone)]
pub struct Turns {
    pub address: SocketAddr,
    count: Arc<AtomicUsize>,
    delay_ms: Arc<AtomicU64>,
}

impl Turns {
    /// In front of the database at this URL.
    pub async fn before(url: &str) -> Self {
        let port = url::Url::parse(url).expect("a URL").port().expect("a port");
        let there = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let turns = Self { address, count: Arc::default(), delay_ms: Arc::default() };
        let shared = turns.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(there).await.expect("the database");
                shared.relay(client, server);
            }
        });
        turns
    }

    /// `url`, but through this.
    pub fn url(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).expect("a URL");
        url.set_port(Some(self.address.port())).expect("a port");
        url.to_string()
    }

    /// From now on what the client sends arrives so much later.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).expect("short"), Ordering::Relaxed);
    }

    /// The turns since the last call.
    pub fn take(&self) -> usize {
        self.count.swap(0, Ordering::Relaxed)
    }

    /// A turn begins when the client writes after the server has: it has read the answer, and goes on.
    fn relay(&self, client: TcpStream, server: TcpStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let answered = Arc::new(AtomicBool::new(true));
        let (turns, asked) = (self.clone(), Arc::clone(&answered));
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                if buffer[..length] != *SYNC && asked.swap(false, Ordering::Relaxed) {
                    turns.count.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(turns.delay_ms.load(Ordering::Relaxed))).await;
                }
                if to_server.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                answered.store(true, Ordering::Relaxed);
                if to_client.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        });
    }
}
