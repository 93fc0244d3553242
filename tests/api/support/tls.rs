//! A provider over TLS that offers HTTP/2 and HTTP/1.1, as the large ones do.
//! Its certificate is from an authority that is trusted only where told to
//! (`SSL_CERT_FILE` = [`AUTHORITY`]).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// The authority that signed the certificate.
pub const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/keys/tls-authority.pem");

/// The most streams of a connection of HTTP/2. Large providers accept 100.
const STREAMS: u32 = 20;

/// The response to every request.
#[derive(Clone)]
pub struct Answer {
    pub first: Bytes,
    pub wait: Duration,
    pub rest: Bytes,
}

/// It runs as long as the test's runtime.
pub struct Tls {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Tls {
    /// `answer` is called with the request's number, from 0.
    pub async fn start(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let certificate = CertificateDer::from_pem_slice(include_bytes!("../keys/tls-server.pem")).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../keys/tls-server-key.pem")).expect("PEM");
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let answer = Arc::new(move || answer(count.fetch_add(1, Ordering::SeqCst)));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => two(stream, answer).await,
                        _ => one(stream, answer).await,
                    }
                });
            }
        });
        Self { address, asked }
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

async fn two(stream: Stream, answer: Arc<impl Fn() -> Answer + Send + Sync + 'static>) {
    let builder = h2::server::Builder::new().max_concurrent_streams(STREAMS).handshake::<_, Bytes>(stream).await;
    let Ok(mut connection) = builder else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let Answer { first, wait, rest } = answer();
        tokio::spawn(async move {
            let head = http::Response::builder().header("content-type", "text/event-stream").body(()).expect("a head");
            let Ok(mut body) = respond.send_response(head, false) else { return };
            for (part, wait, last) in [(first, wait, false), (rest, Duration::ZERO, true)] {
                if body.send_data(part, last).is_err() {
                    return;
                }
                tokio::time::sleep(wait).await;
            }
        });
    }
}

async fn one(mut stream: Stream, answer: Arc<impl Fn() -> Answer + Send + Sync + 'static>) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let whole = end + length.unwrap_or(0);
        while read.len() < whole {
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        }
        read.drain(..whole);
        let Answer { first, wait, rest } = answer();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = |bytes: &Bytes| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        let sent = async {
            stream.write_all(&[head.as_bytes(), &chunk(&first)].concat()).await?;
            stream.flush().await?;
            tokio::time::sleep(wait).await;
            stream.write_all(&[&chunk(&rest), &b"0\r\n\r\n"[..]].concat()).await?;
            stream.flush().await
        };
        if sent.await.is_err() {
            return;
        }
    }
}
