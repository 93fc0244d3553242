//! The real PgBouncer in front of a test's database.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{ports::Port, programs};

/// A pooler in transaction mode with two connections; it ends when dropped.
pub struct PgBouncer {
    pub address: SocketAddr,
    child: Child,
    folder: PathBuf,
    _port: Port,
}

impl PgBouncer {
    /// Between `role_url` and its server; `None` where there is no PgBouncer.
    pub async fn start(role_url: &str) -> Option<Self> {
        let program = programs::find("pgbouncer", "pgbouncer")?;
        let url = url::Url::parse(role_url).expect("a URL");
        let folder = std::env::temp_dir().join(format!("chatbot-ui-api-pgbouncer-{}", Uuid::new_v4().simple()));
        fs::create_dir(&folder).expect("a folder");
        let port = Port::reserve();
        let address = port.address;
        let file = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("readable");
            path
        };
        let users = file("users", format!("\"{}\" \"{}\"\n", url.username(), url.password().expect("a password")));
        let settings = file(
            "pgbouncer.ini",
            format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = 2\nreserve_pool_size = 0\nmax_client_conn = 200\n",
                url.port().expect("a port"),
                address.port(),
                users.display(),
            ),
        );
        let mut command = Command::new(program);
        command.arg("-q").arg(&settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It refuses to run as root.
        if fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0) {
            command.uid(65534).gid(65534);
        }
        let child = command.spawn().expect("it runs");
        let started = Self { address, child, folder, _port: port };
        let deadline = Instant::now() + Duration::from_secs(5);
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < deadline, "PgBouncer does not get ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(started)
    }

    /// `url`, but through this.
    pub fn url(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).expect("a URL");
        url.set_port(Some(self.address.port())).expect("a port");
        url.to_string()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(Path::new(&self.folder));
    }
}
