//! The real Redis, where this machine has one.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use tokio::process::{Child, Command};

use super::{ports::Port, programs};

/// A Redis with a port, a folder and a password of its own; it keeps nothing.
pub struct Redis {
    program: PathBuf,
    folder: PathBuf,
    password: &'static str,
    pub port: u16,
    process: Child,
    _port: Port,
}

impl Redis {
    /// `None` where this machine has none.
    pub async fn start(password: &'static str) -> Option<Self> {
        let program = programs::find("redis-server", "redis-server")?;
        let reserved = Port::reserve();
        let port = reserved.number();
        let folder = std::env::temp_dir().join(format!("chatbot-ui-api-test-redis-{port}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let process = spawn(&program, &folder, port, password);
        let redis = Self { program, folder, password, port, process, _port: reserved };
        redis.answers().await;
        Some(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}", self.password, self.port)
    }

    pub async fn connect(&self) -> Option<MultiplexedConnection> {
        redis::Client::open(self.url()).expect("a URL").get_multiplexed_async_connection().await.ok()
    }

    async fn answers(&self) {
        let began = Instant::now();
        while self.connect().await.is_none() {
            assert!(began.elapsed() < Duration::from_secs(10), "Redis does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn kill(&mut self) {
        self.process.kill().await.expect("it runs");
    }

    pub async fn start_again(&mut self) {
        self.process = spawn(&self.program, &self.folder, self.port, self.password);
        self.answers().await;
    }

    pub fn signal(&self, signal: &str) {
        let id = self.process.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &id]).status().expect("kill").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(program: &Path, folder: &Path, port: u16, password: &str) -> Child {
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", password]);
    command.args(["--port", &port.to_string()]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().expect("Redis runs")
}
