//! Two network namespaces with a cable between them: the node in one, the broker in the other, faults on the cable.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::mosquitto::{Mosquitto, Options};
use super::node::{Broker, Node, Setup};

/// The broker's address on the cable, and its port.
const BROKER: &str = "10.77.0.1";
/// The node's.
const AGENT: &str = "10.77.0.2";
/// Port of the broker on the cable.
pub const PORT: u16 = 1883;
/// Ends of the cable.
const AGENT_END: &str = "uplink";
const BROKER_END: &str = "cable";

/// The two namespaces. While it lives the thread that made it, and what that thread starts, is where the broker is.
pub struct Net {
    agent: String,
    broker: String,
    home: File,
}

impl Net {
    /// Makes them. `None`, with a loud message, where the machine does not allow it.
    pub fn create() -> Option<Self> {
        sweep();
        match Self::try_create() {
            Ok(net) => Some(net),
            Err(why) => {
                eprintln!("\n!!! SKIPPED: network namespaces cannot be made here (they need root): {why} !!!\n");
                None
            }
        }
    }

    fn try_create() -> Result<Self, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("neap-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let home = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
        // From here on dropping it cleans up.
        let net = Self { agent: format!("{name}-a"), broker: format!("{name}-b"), home };
        let (agent, broker) = (net.agent.as_str(), net.broker.as_str());
        run("ip", &["netns", "add", agent])?;
        run("ip", &["netns", "add", broker])?;
        let cable = ["link", "add", AGENT_END, "netns", agent, "type", "veth", "peer", "name", BROKER_END];
        run("ip", &[&cable[..], &["netns", broker]].concat())?;
        for (side, end, address) in [(agent, AGENT_END, AGENT), (broker, BROKER_END, BROKER)] {
            run("ip", &["-n", side, "addr", "add", &format!("{address}/30"), "dev", end])?;
            run("ip", &["-n", side, "link", "set", end, "up"])?;
            run("ip", &["-n", side, "link", "set", "lo", "up"])?;
        }
        let chains = "add table inet faults
            add chain inet faults out { type filter hook output priority 0; }
            add chain inet faults in { type filter hook input priority 0; }";
        nft(agent, chains)?;
        nft(broker, chains)?;
        let inside = File::open(path(broker)).map_err(|error| error.to_string())?;
        enter(&inside).map_err(|error| error.to_string())?;
        Ok(net)
    }

    /// A node whose agent is to run at the far end of the cable; the broker and its controllers are at this one.
    pub fn node(&self, setup: &Setup, more: &str) -> Option<Node> {
        let more = format!("{more}\nlistener {PORT} {BROKER}\nset_tcp_nodelay true\n");
        let mosquitto = Mosquitto::start(Options { more: &more, ..Options::default() })?;
        let setup = setup.clone().with("mqtt", "host", BROKER).with("mqtt", "port", i64::from(PORT));
        let setup = setup.with("mqtt", "allow_insecure", true);
        let within = ["nsenter".to_owned(), format!("--net={}", path(&self.agent)), "--".to_owned()];
        Some(Node::prepare_on(&setup, Broker::Mosquitto(mosquitto), &within))
    }

    // ---- faults ----

    /// Every packet between node and broker is lost, without a word.
    pub fn blackhole(&self) {
        self.rules(&self.agent, &format!("add rule inet faults out tcp dport {PORT} counter drop"));
        self.rules(&self.agent, &format!("add rule inet faults in tcp sport {PORT} counter drop"));
    }

    /// The broker's host answers every packet with a reset.
    pub fn reset(&self) {
        self.rules(&self.broker, &format!("add rule inet faults in tcp dport {PORT} reject with tcp reset"));
    }

    /// So many percent of the packets are lost, in both directions.
    pub fn lossy(&self, percent: u8) {
        for chain in ["in", "out"] {
            let lost = format!("meta l4proto tcp numgen random mod 100 < {percent} drop");
            self.rules(&self.agent, &format!("add rule inet faults {chain} {lost}"));
        }
    }

    /// The cable is pulled out of the node.
    pub fn unplug(&self) {
        run("ip", &["-n", &self.agent, "link", "set", AGENT_END, "down"]).expect("a link can be set down");
    }

    /// 64 kbit/s in both directions.
    pub fn slow(&self) {
        for (side, end) in [(&self.agent, AGENT_END), (&self.broker, BROKER_END)] {
            let shape =
                ["qdisc", "add", "dev", end, "root", "tbf", "rate", "64kbit", "burst", "1600", "latency", "400ms"];
            run("tc", &[&["-n", side], &shape[..]].concat()).expect("a link can be slow");
        }
    }

    /// The connections that the agent has now are dead for both ends, and neither is told; new ones work.
    pub fn half_open(&self, node: &Node) {
        let ports = connections(node.agent_pid());
        assert!(!ports.is_empty(), "the agent has a connection");
        for port in ports {
            self.rules(&self.agent, &format!("add rule inet faults out tcp sport {port} drop"));
            self.rules(&self.agent, &format!("add rule inet faults in tcp dport {port} drop"));
        }
    }

    /// No fault any more.
    pub fn heal(&self) {
        for side in [&self.agent, &self.broker] {
            self.rules(side, "flush chain inet faults in\nflush chain inet faults out");
        }
        // Without such a queue this fails, which is as well.
        let _ = run("tc", &["-n", &self.agent, "qdisc", "del", "dev", AGENT_END, "root"]);
        let _ = run("tc", &["-n", &self.broker, "qdisc", "del", "dev", BROKER_END, "root"]);
        run("ip", &["-n", &self.agent, "link", "set", AGENT_END, "up"]).expect("a link can be set up");
    }

    // ---- helpers ----

    fn rules(&self, side: &str, script: &str) {
        nft(side, script).expect("nft takes the rules");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = enter(&self.home);
        let _ = run("ip", &["netns", "del", &self.agent]);
        let _ = run("ip", &["netns", "del", &self.broker]);
    }
}

fn path(namespace: &str) -> String {
    format!("/run/netns/{namespace}")
}

fn enter(namespace: &File) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
}

/// Namespaces that a test left which was killed.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("neap-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = run("ip", &["netns", "del", &name]);
        }
    }
}

/// One nft command a line.
fn nft(namespace: &str, script: &str) -> Result<(), String> {
    for line in script.lines() {
        run_in(namespace, "nft", &line.split_whitespace().collect::<Vec<_>>())?;
    }
    Ok(())
}

fn run_in(namespace: &str, program: &str, arguments: &[&str]) -> Result<String, String> {
    run("nsenter", &[&[&format!("--net={}", path(namespace)), "--", program], arguments].concat())
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Local ports of the established connections to the broker, as the kernel lists them for that process.
fn connections(pid: i32) -> Vec<u16> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let established = lines.filter(|words| words.len() > 3 && words[3] == "01" && port(words[2]) == Some(PORT));
    established.filter_map(|words| port(words[1])).collect()
}
