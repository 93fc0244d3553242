//! Clients that vanish without a word, as a phone does that loses its network:
//! no FIN and no reset comes, and no acknowledgement any more. They live in a
//! network namespace, whose one link is then taken down.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::process::Child;

use super::{DONE, delta};
use crate::{
    process::serve,
    support::{
        User, chat_body, postgres, programs,
        upstream::{Reply, Step, Upstream},
    },
};

/// A network of two: this machine, and whoever runs in the namespace.
struct Network {
    /// Of the namespace, and of this machine's end of the link; the other end
    /// has one letter more.
    name: String,
    /// This machine in it. From a block for documentation, which is in use nowhere.
    address: String,
}

impl Network {
    /// `None` where `ip` is not here, or this process may not do that.
    fn new() -> Option<Self> {
        programs::find("ip", "iproute2")?;
        let id = std::process::id();
        let (name, at) = (format!("cua{id}"), id % 63 * 4);
        let (here, there) = (format!("192.0.2.{}", at + 1), format!("192.0.2.{}/30", at + 2));
        let other = format!("{name}b");
        let network = Self { name: name.clone(), address: here.clone() };
        let made = ip(&["netns", "add", &name])
            && ip(&["link", "add", &name, "type", "veth", "peer", "name", &other, "netns", &name])
            && ip(&["addr", "add", &format!("{here}/30"), "dev", &name])
            && ip(&["link", "set", &name, "up"])
            && ip(&["-n", &name, "addr", "add", &there, "dev", &other])
            && ip(&["-n", &name, "link", "set", &other, "up"]);
        if !made {
            programs::say("skipped a test: no network namespace can be made here (it takes root and CAP_NET_ADMIN)");
        }
        made.then_some(network)
    }

    /// A client in the namespace that posts this and reads the response.
    fn post(&self, url: &str, bearer: &str, body: &str) -> Child {
        let address = url.trim_start_matches("http://");
        let (host, port) = address.split_once(':').expect("a port");
        let head = format!(
            "POST /api/chat/openai HTTP/1.1\r\nhost: {address}\r\nauthorization: {bearer}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let script = format!("exec 3<>/dev/tcp/{host}/{port}; printf %s \"$1\" >&3; exec cat <&3");
        let mut command = tokio::process::Command::new("ip");
        command.args(["netns", "exec", &self.name, "bash", "-c", &script, "bash", &(head + body)]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.spawn().expect("it runs")
    }

    /// Cuts the link: no packet passes from here on.
    fn cut(&self) {
        assert!(ip(&["-n", &self.name, "link", "set", &format!("{}b", self.name), "down"]));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It would last as long as a socket in there does.
        ip(&["link", "del", &self.name]);
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let status = Command::new("ip").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_client_that_vanishes_without_a_word_is_given_up() {
    let Some(network) = Network::new() else { return };
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let (_server, url) = serve(&[
        ("HOST", &network.address),
        ("PUBLISHED_KEYS", "allow"),
        ("DATABASE_URL", &database.role_url),
        ("OPENAI_BASE_URL", &base),
        ("CLIENT_TIMEOUT", "1"),
    ])
    .await;
    // One to whom nothing is on its way, and one to whom something always is.
    let mut talking = Vec::new();
    for _ in 0..200 {
        talking.extend([Step::Write(delta("x").into_bytes()), Step::Wait(Duration::from_millis(100))]);
    }
    talking.push(Step::Write(DONE.into()));
    let (silent, talkative) = ("sk-case-vanish-silent", "sk-case-vanish-talk");
    upstream.script(silent, vec![Reply::events(&[&delta("x")], Step::WaitForever)]);
    upstream.script(talkative, vec![Reply { steps: talking, ..Reply::default() }]);
    let mut clients = Vec::new();
    for key in [silent, talkative] {
        let user = User::create(&database.pool, &[("openai_api_key", key)]).await;
        clients.push(network.post(&url, &user.bearer(), &chat_body().to_string()));
        assert!(upstream.wait_for(key, Duration::from_secs(10), |seen| seen.len() == 1).await, "{key} is asked");
    }
    // They are alive, so neither is given up.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for key in [silent, talkative] {
        assert!(!upstream.requests(key)[0].is_over(), "{key}");
    }

    network.cut();
    let cut = Instant::now();
    for key in [silent, talkative] {
        assert!(upstream.wait_for(key, Duration::from_secs(10), |seen| seen[0].left.is_some()).await, "{key}");
        let took = upstream.requests(key)[0].left.expect("when it left") - cut;
        assert!((Duration::from_millis(300)..Duration::from_secs(6)).contains(&took), "{key}: {took:?}");
    }
}
