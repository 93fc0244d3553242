//! A server with its playground, and a Chromium that looks at it. All of it
//! ends with the test, and with the tests' process, however that ends.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use chatbot_ui_api::demo::postgres::{Options, Programs, Server};
use futures::FutureExt;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use thirtyfour::{ChromiumLikeCapabilities, DesiredCapabilities, LoggingPrefsLogLevel, WebDriver, prelude::*};
use tokio::time::sleep;
use uuid::Uuid;

use crate::programs;

/// The limit for anything that a page should show soon; generous, as the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// As for a person's browser, but without its talk to its maker.
const CHROMIUM: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// One Postgres for all, which ends with this process.
static POSTGRES: LazyLock<Server> = LazyLock::new(|| {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let programs = Programs::find(&programs::say).await.unwrap_or_else(|error| panic!("{error}"));
            let folder = std::env::temp_dir().join(format!("chatbot-ui-api-browser-{}", std::process::id()));
            let options = Options { durable: false, max_connections: 100, remove: true };
            Server::start(&programs, &folder, options).await.unwrap_or_else(|error| panic!("{error}"))
        })
    })
    .join()
    .expect("Postgres starts")
});

/// A database of its own for one server.
pub async fn database() -> String {
    let server = tokio::task::spawn_blocking(|| &*POSTGRES).await.expect("starts");
    let name = format!("browser_{}", Uuid::new_v4().simple());
    let mut postgres = PgConnection::connect(&server.url("postgres")).await.expect("connects");
    let sql = sqlx::AssertSqlSafe(format!("create database {name}"));
    postgres.execute(sqlx::raw_sql(sql)).await.expect("a database");
    server.url(&name)
}

/// A program that ends, with all that it started, when this is dropped or
/// this process ends: its shell waits for the end of a pipe.
pub struct Running {
    shell: Child,
    folder: PathBuf,
}

const UNTIL_THE_PIPE_ENDS: &str =
    r#"trap : TERM; "$@" </dev/null 2>&1 & read -r _; kill -TERM -$$; wait; rm -rf "$TMPDIR""#;

impl Running {
    /// The program, and the first line of what it says that `wanted` takes.
    fn start(command: &[&str], settings: &[(&str, &str)], wanted: impl Fn(&str) -> Option<String>) -> (Self, String) {
        // Short: Chromium has sockets in it, whose names may not be long.
        let folder = std::env::temp_dir().join(format!("browser-{:08x}", Uuid::new_v4().as_fields().0));
        std::fs::create_dir(&folder).expect("a folder");
        let mut shell = Command::new("sh");
        shell.args(["-c", UNTIL_THE_PIPE_ENDS, "sh"]).args(command).current_dir(&folder).env_clear();
        for kept in ["PATH", "HOME"] {
            shell.envs(std::env::var_os(kept).map(|value| (kept, value)));
        }
        shell.env("TMPDIR", &folder).envs(settings.iter().copied());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
        let mut shell = shell.spawn().expect("it runs");
        let mut lines = BufReader::new(shell.stdout.take().expect("piped")).lines();
        let line = lines.by_ref().map_while(Result::ok).find_map(|line| wanted(&line)).expect("it says where it is");
        // Else it could not write any more.
        std::thread::spawn(move || lines.for_each(drop));
        (Self { shell, folder }, line)
    }

    /// A folder of its own, which goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// The binary, serving; and its address, from the line of it that begins so.
pub fn serve(arguments: &[&str], settings: &[(&str, &str)], line: &str) -> (Running, String) {
    let command = [&[env!("CARGO_BIN_EXE_chatbot-ui-api")], arguments].concat();
    let settings = [&[("PORT", "0"), ("NO_COLOR", "1")], settings].concat();
    Running::start(&command, &settings, |said| {
        let (_, rest) = said.split_once(line)?;
        rest.split_whitespace().next().map(|url| url.trim_end_matches('/').to_owned())
    })
}

/// A page in a Chromium of its own.
pub struct Page {
    pub driver: WebDriver,
    pub url: String,
    /// Of the server and of the driver.
    pub running: Vec<Running>,
}

/// Runs `test` on the demo's page, and ends the browser however the test ends.
/// Skipped, after a line that says so, where there is no Chromium.
pub async fn on_the_demos_page(test: impl AsyncFn(&Page)) {
    if !has_chromium() {
        return;
    }
    let database = database().await;
    let (demo, url) = serve(&["demo"], &[("DATABASE_URL", &database)], "Open ");
    on_a_page(demo, url, test).await;
}

/// [`on_the_demos_page`], for the page of another server.
pub async fn on_a_page(server: Running, url: String, test: impl AsyncFn(&Page)) {
    let (chromedriver, port) = Running::start(&["chromedriver", "--port=0"], &[], |said| {
        said.strip_prefix("ChromeDriver was started successfully on port ")
            .map(|rest| rest.trim_matches('.').to_owned())
    });
    let mut wanted = DesiredCapabilities::chrome();
    for argument in CHROMIUM {
        wanted.add_arg(argument).expect("an argument");
    }
    for log in ["browser", "performance"] {
        wanted.set_logging_prefs(log, LoggingPrefsLogLevel::All).expect("a log");
    }
    let driver = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await.expect("a browser");
    // Dropped in this order: the browser before the server.
    let page = Page { driver, url, running: vec![chromedriver, server] };
    page.size(1100, 800).await;
    page.driver.goto(format!("{}/", page.url)).await.expect("the page");
    // Chromium's own end, where the test failed too.
    let tested = AssertUnwindSafe(test(&page)).catch_unwind().await;
    let _ = tokio::time::timeout(PATIENCE, page.driver.clone().quit()).await;
    drop(page);
    if let Err(panic) = tested {
        resume_unwind(panic);
    }
}

pub fn has_chromium() -> bool {
    programs::find("chromium", "chromium").is_some() && programs::find("chromedriver", "chromium-driver").is_some()
}

impl Page {
    /// The window's size in CSS pixels; narrow ones are phones'.
    pub async fn size(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.cdp("Emulation.setDeviceMetricsOverride", size).await;
    }

    pub async fn cdp(&self, method: &str, parameters: Value) {
        self.driver.cdp().send_raw(method, parameters).await.expect(method);
    }

    /// The value of an expression on the page.
    pub async fn value(&self, expression: &str) -> Value {
        let value = self.driver.execute(format!("return {expression}"), vec![]).await;
        value.unwrap_or_else(|error| panic!("{expression}: {error}")).json().clone()
    }

    pub async fn text(&self, selector: &str) -> String {
        let expression = format!("document.querySelector({selector:?})?.textContent ?? ''");
        self.value(&expression).await.as_str().expect("text").to_owned()
    }

    /// Waits for an expression to be true.
    pub async fn until(&self, expression: &str) {
        let since = Instant::now();
        while self.value(&format!("Boolean({expression})")).await != true {
            assert!(since.elapsed() < PATIENCE, "not within {PATIENCE:?}: {expression}\n{}", self.text("body").await);
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn click(&self, selector: &str) {
        // Else it may be below one of the bars, where the driver does not scroll it away.
        self.value(&format!("document.querySelector({selector:?})?.scrollIntoView({{ block: 'center' }})")).await;
        self.driver.find(By::Css(selector)).await.expect(selector).click().await.expect(selector);
    }

    /// Presses keys, wherever the focus is.
    pub async fn press(&self, keys: impl Into<TypingData>) {
        self.driver.action_chain().send_keys(keys).perform().await.expect("keys");
    }

    pub async fn sign_in(&self) {
        self.until("!document.getElementById('demo-sign-in').hidden").await;
        self.click("#demo-sign-in").await;
        self.until("document.activeElement.id === 'question'").await;
        self.until("document.getElementById('model').options.length > 1").await;
    }

    /// Types a question and sends it.
    pub async fn ask(&self, question: &str) {
        self.value("document.getElementById('question').focus()").await;
        self.press(question).await;
        self.press(Key::Enter + "").await;
    }

    /// Waits for so many answers to be over, and gives the last one's text.
    pub async fn answer(&self, count: usize) -> String {
        self.until(&format!("document.querySelectorAll('.answer[aria-busy=false]').length === {count}")).await;
        self.text(".answer:last-child .said").await
    }

    /// The sentences about what went wrong, each with the place that it is in.
    pub async fn problems(&self) -> Value {
        self.value(
            "[...document.querySelectorAll('.problem > p:first-child')].map((p) => \
             [p.closest('.turn')?.className ?? p.closest('[id]').id, p.textContent])",
        )
        .await
    }

    /// Asserts that the console is empty and that requests went to these addresses only.
    pub async fn is_quiet(&self, addresses: &[&str]) {
        let said = self.driver.browser_log().await.expect("a log");
        assert!(said.is_empty(), "{said:?}");
        let events = self.driver.get_log("performance").await.expect("a log");
        let events = events.iter().map(|event| serde_json::from_str(&event.message).expect("JSON"));
        let requests = events.filter(|event: &Value| event["message"]["method"] == "Network.requestWillBeSent");
        let urls: Vec<Value> = requests.map(|event| event["message"]["params"]["request"]["url"].clone()).collect();
        assert!(!urls.is_empty());
        for url in &urls {
            let url = url.as_str().expect("a URL");
            // Pictures that are on the page already.
            let is_within = url.starts_with("data:");
            assert!(is_within || addresses.iter().any(|address| url.starts_with(&format!("{address}/"))), "{url}");
        }
    }
}
