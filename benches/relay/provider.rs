//! The scripted provider: a real server on loopback, plain and over TLS, that writes stamped chunks of OpenAI's wire,
//! paced or as fast as they are taken.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, LazyLock, RwLock},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// The behaviour for every request until it is changed.
#[derive(Debug, Clone, Copy)]
pub enum Script {
    /// One chunk every `interval`, the first at once.
    Paced { chunks: usize, interval: Duration },
    /// All chunks, `together` in each write.
    Burst { chunks: usize, together: usize },
    /// A response head, and nothing more.
    Silent,
    /// Chunks of `bytes` in total, as fast as they are read.
    Flood { bytes: usize },
}

/// Nanoseconds since this process began to measure.
pub fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// As OpenAI sends them, 250 bytes; the stamp is the text.
const BEFORE: &str = "data: {\"id\":\"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012\",\"object\":\"chat.completion.chunk\",\"created\":1718345013,\"model\":\"gpt-4o-2024-08-06\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" <";
const AFTER: &str = ">\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

/// The authority that signed the provider's certificate, for `SSL_CERT_FILE`.
pub const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/keys/tls-authority.pem");

#[derive(Clone)]
pub struct Provider {
    pub address: SocketAddr,
    pub tls_address: SocketAddr,
    script: Arc<RwLock<Script>>,
}

/// The behaviour that does not change.
#[derive(Debug, Clone, Copy, Default)]
pub struct Habits {
    /// The port without TLS; 0: any.
    pub port: u16,
    /// The time after which a connection without a request is closed.
    pub closes_after: Option<Duration>,
}

impl Provider {
    /// Runs on a thread of its own.
    pub fn start(habits: Habits) -> io::Result<Self> {
        let listen = |port: u16| {
            let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
            listener.set_nonblocking(true)?;
            io::Result::Ok((listener.local_addr()?, listener))
        };
        let ((address, plain), (tls_address, tls)) = (listen(habits.port)?, listen(0)?);
        let provider = Self { address, tls_address, script: Arc::new(RwLock::new(Script::Silent)) };
        let script = provider.script.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let [plain, tls] = [plain, tls].map(|listener| TcpListener::from_std(listener).expect("a listener"));
                let (acceptor, script_of_tls) = (acceptor(), script.clone());
                tokio::spawn(async move {
                    while let Ok((stream, _)) = tls.accept().await {
                        let (acceptor, script) = (acceptor.clone(), script_of_tls.clone());
                        tokio::spawn(async move {
                            stream.set_nodelay(true)?;
                            answer_all(acceptor.accept(stream).await?, script, habits.closes_after).await
                        });
                    }
                });
                while let Ok((stream, _)) = plain.accept().await {
                    let script = script.clone();
                    tokio::spawn(async move {
                        stream.set_nodelay(true)?;
                        answer_all(stream, script, habits.closes_after).await
                    });
                }
            });
        });
        Ok(provider)
    }

    pub fn play(&self, script: Script) {
        *self.script.write().expect("not poisoned") = script;
    }
}

fn acceptor() -> TlsAcceptor {
    let certificate =
        CertificateDer::from_pem_slice(include_bytes!("../../tests/api/keys/tls-server.pem")).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../tests/api/keys/tls-server-key.pem")).expect("PEM");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    TlsAcceptor::from(Arc::new(config.expect("a pair")))
}

/// Answers one request after another until the peer disconnects, or has said nothing for so long.
async fn answer_all(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Arc<RwLock<Script>>,
    closes_after: Option<Duration>,
) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        let read = read_request(&mut stream, &mut request);
        match closes_after {
            None => read.await?,
            Some(limit) => match tokio::time::timeout(limit, read).await {
                Ok(read) => read?,
                Err(_) => return stream.shutdown().await,
            },
        }
        let script = *script.read().expect("not poisoned");
        answer(&mut stream, script).await?;
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), request: &mut Vec<u8>) -> io::Result<()> {
    request.clear();
    loop {
        if stream.read_buf(request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = memchr::memmem::find(request, b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if request.len() >= head + 4 + length.unwrap_or(0) {
            return Ok(());
        }
    }
}

/// `count` events of one transfer chunk, each with the time of now.
fn write_events(out: &mut Vec<u8>, count: usize) {
    let each = BEFORE.len() + 20 + AFTER.len();
    out.extend_from_slice(format!("{:x}\r\n", each * count).as_bytes());
    for _ in 0..count {
        out.extend_from_slice(BEFORE.as_bytes());
        out.extend_from_slice(format!("{:020}", now()).as_bytes());
        out.extend_from_slice(AFTER.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), script: Script) -> io::Result<()> {
    let mut out = HEAD.to_vec();
    match script {
        Script::Paced { chunks, interval } => {
            // Spread, so that the streams do not send at the same moment.
            let mut next = tokio::time::Instant::now() + interval.mul_f64(rand::random());
            for _ in 0..chunks {
                write_events(&mut out, 1);
                stream.write_all(&out).await?;
                stream.flush().await?;
                out.clear();
                tokio::time::sleep_until(next).await;
                next += interval;
            }
        }
        Script::Burst { chunks, together } => {
            let mut left = chunks;
            while left > 0 {
                let count = left.min(together);
                write_events(&mut out, count);
                stream.write_all(&out).await?;
                out.clear();
                left -= count;
            }
        }
        Script::Silent => {
            stream.write_all(&out).await?;
            stream.flush().await?;
            // Until the peer disconnects.
            stream.read_u8().await?;
        }
        Script::Flood { bytes } => {
            let mut left = bytes;
            while left > 0 {
                write_events(&mut out, 64);
                stream.write_all(&out).await?;
                left = left.saturating_sub(out.len());
                out.clear();
            }
        }
    }
    out.extend_from_slice(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    stream.write_all(&out).await?;
    stream.flush().await
}
