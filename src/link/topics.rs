//! Which topic carries what? PROTOCOL section 1 as a builder and a parser.
//!
//! Only checked names and ids enter a topic, so no topic built here holds a wildcard, a separator or a control
//! character, whatever a configuration or a message says.

use std::str::FromStr;

use super::Qos;
use crate::units::{BadName, JobId, Name};

/// Version of the protocol, the second level of every topic.
const VERSION: &str = "v1";
/// Longest root prefix, in bytes.
const ROOT_BYTES_MAX: usize = 64;
/// Names that no node may have: they stand where a node's name stands, or would make `SITE` alone look like `SITE/NODE`
/// in the broker's access list.
pub const RESERVED: [&str; 5] = ["ctl", "down", "fleet", "pool", "up"];
/// Longest Response Topic that is answered, in bytes.
const RESPONSE_TOPIC_BYTES_MAX: usize = 512;

/// Names of one node's topics: `{root}/v1/{site}/{node}/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    root: String,
    site: Name,
    node: Name,
}

/// A root that cannot start a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "topic root {0:?} is not allowed: 1 to {ROOT_BYTES_MAX} bytes of letters, digits, . _ - and single / between them"
)]
pub struct BadRoot(String);

/// What arrived on a topic the node is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down {
    /// A new job.
    Submit(JobId),
    /// A job is taken back.
    Cancel(JobId),
    /// The controller has the result; the node may forget the job.
    Ack(JobId),
    /// A command; the name is not checked here.
    Command(String),
    /// How busy the radio is, by what the controller knows.
    Load,
    /// The site is held, or released.
    FleetHold,
    /// The node's own retained state, echoed.
    OwnState,
}

/// What arrived from a node, as a controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Up {
    /// Birth, mode, death.
    State,
    /// Inventory.
    Info,
    /// Status of a job.
    Job(JobId),
    /// Result or error of a job.
    Result(JobId),
    /// Yields, resumes, alarms.
    Event,
    /// A load sample.
    Load,
    /// Counters.
    Metrics,
    /// Free core time of the next hours.
    Outlook,
}

impl Topics {
    /// The topics of `node` at `site` below `root`.
    ///
    /// # Errors
    /// When the root is empty, too long, or holds anything but letters, digits, `. _ -` and single slashes between them.
    pub fn new(root: &str, site: Name, node: Name) -> Result<Self, BadRoot> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let levels_are_legal = root.split('/').all(|level| !level.is_empty() && level.chars().all(legal));
        if root.len() > ROOT_BYTES_MAX || !levels_are_legal {
            return Err(BadRoot(root.chars().take(80).collect()));
        }
        Ok(Self { root: root.to_owned(), site, node })
    }

    /// The first level of all topics.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The node.
    pub fn node(&self) -> &Name {
        &self.node
    }

    /// The site.
    pub fn site(&self) -> &Name {
        &self.site
    }

    /// The same site's topics of another node.
    #[must_use]
    pub fn of_node(&self, node: Name) -> Self {
        Self { root: self.root.clone(), site: self.site.clone(), node }
    }

    /// Source attribute of the node's messages: `{root}/v1/{site}/{node}`.
    pub fn source(&self) -> String {
        self.base()
    }

    // ---- up: written by the node ----

    /// Birth, mode and death; retained.
    pub fn state(&self) -> String {
        self.up("state")
    }

    /// Inventory; retained.
    pub fn info(&self) -> String {
        self.up("info")
    }

    /// Status of a job.
    pub fn job(&self, id: &JobId) -> String {
        self.up(&format!("job/{id}"))
    }

    /// Result of a job.
    pub fn result(&self, id: &JobId) -> String {
        self.up(&format!("job/{id}/result"))
    }

    /// Yields, resumes, alarms.
    pub fn event(&self) -> String {
        self.up("event")
    }

    /// Load samples; QoS 0.
    pub fn load(&self) -> String {
        self.up("load")
    }

    /// Counters; QoS 0.
    pub fn metrics(&self) -> String {
        self.up("metrics")
    }

    /// Free core time of the next hours; retained, expires by itself.
    pub fn outlook(&self) -> String {
        self.up("outlook")
    }

    // ---- down: written by a controller ----

    /// Submits a job.
    pub fn submit(&self, id: &JobId) -> String {
        self.down(&format!("job/{id}"))
    }

    /// Takes a job back.
    pub fn cancel(&self, id: &JobId) -> String {
        self.down(&format!("job/{id}/cancel"))
    }

    /// Says that the controller has the result.
    pub fn ack(&self, id: &JobId) -> String {
        self.down(&format!("job/{id}/ack"))
    }

    /// Sends a command.
    pub fn command(&self, name: &str) -> String {
        self.down(&format!("cmd/{name}"))
    }

    /// Reports the load of the node's cells.
    pub fn load_plan(&self) -> String {
        self.down("load")
    }

    /// Holds every node of the site; retained, expires by itself.
    pub fn fleet_hold(&self) -> String {
        format!("{}/{VERSION}/{}/fleet/down/hold", self.root, self.site)
    }

    /// Where a controller gets this node's replies to its commands; `controller` is its client id. Below the node's own
    /// `up/`, so that a node can neither answer in the name of another nor hear what another answers.
    pub fn reply(&self, controller: &str) -> String {
        self.up(&format!("reply/{controller}"))
    }

    // ---- subscriptions ----

    /// Everything sent to this node.
    pub fn down_filter(&self) -> String {
        self.down("#")
    }

    /// Everything sent to all nodes of the site.
    pub fn fleet_filter(&self) -> String {
        format!("{}/{VERSION}/{}/fleet/down/#", self.root, self.site)
    }

    /// Everything this node sends.
    pub fn up_filter(&self) -> String {
        self.up("#")
    }

    /// Everything the nodes of this site send.
    pub fn site_filter(&self) -> String {
        format!("{}/{VERSION}/{}/+/up/#", self.root, self.site)
    }

    /// What an agent subscribes to: its orders, the fleet's, and its own state, to notice a stale Will.
    pub fn node_subscriptions(&self) -> Vec<(String, Qos)> {
        [self.down_filter(), self.fleet_filter(), self.state()].map(|filter| (filter, Qos::AtLeastOnce)).into()
    }

    // ---- parsing ----

    /// What a message on `topic` asks of this node; `None` when the topic is none of the protocol's.
    pub fn parse_down(&self, topic: &str) -> Option<Down> {
        if topic == self.state() {
            return Some(Down::OwnState);
        }
        if topic == self.fleet_hold() {
            return Some(Down::FleetHold);
        }
        let rest = topic.strip_prefix(&self.base())?.strip_prefix("/down/")?;
        if rest == "load" {
            return Some(Down::Load);
        }
        let mut levels = rest.split('/');
        match (levels.next()?, levels.next()?, levels.next(), levels.next()) {
            ("job", id, None, None) => Some(Down::Submit(id.parse().ok()?)),
            ("job", id, Some("cancel"), None) => Some(Down::Cancel(id.parse().ok()?)),
            ("job", id, Some("ack"), None) => Some(Down::Ack(id.parse().ok()?)),
            ("cmd", name, None, None) => Some(Down::Command(name.to_owned())),
            _ => None,
        }
    }

    /// Why the job id in a submit, cancel or ack topic of this node is not allowed; `None` when that is not what is wrong.
    pub fn bad_job_id(&self, topic: &str) -> Option<BadName> {
        let rest = topic.strip_prefix(&self.base())?.strip_prefix("/down/job/")?;
        JobId::from_str(rest.split('/').next()?).err()
    }

    /// Which node of this site said what; `None` when the topic is none of the protocol's.
    pub fn parse_up(&self, topic: &str) -> Option<(Name, Up)> {
        let rest = topic.strip_prefix(&format!("{}/{VERSION}/{}/", self.root, self.site))?;
        let (node, rest) = rest.split_once("/up/")?;
        let node = node.parse().ok()?;
        let mut levels = rest.split('/');
        let up = match (levels.next()?, levels.next(), levels.next(), levels.next()) {
            ("state", None, None, None) => Up::State,
            ("info", None, None, None) => Up::Info,
            ("event", None, None, None) => Up::Event,
            ("load", None, None, None) => Up::Load,
            ("metrics", None, None, None) => Up::Metrics,
            ("outlook", None, None, None) => Up::Outlook,
            ("job", Some(id), None, None) => Up::Job(id.parse().ok()?),
            ("job", Some(id), Some("result"), None) => Up::Result(id.parse().ok()?),
            _ => return None,
        };
        Some((node, up))
    }

    /// Whether a reply may be published to this Response Topic: below `{root}/v1/`, not too long, no wildcard, no
    /// empty level, no control character; nothing that a node listens to, and nothing that it says by itself.
    pub fn may_reply_to(&self, response_topic: &str) -> bool {
        let legal = |c: char| !c.is_control() && !matches!(c, '+' | '#' | '$' | '%');
        response_topic.len() <= RESPONSE_TOPIC_BYTES_MAX
            && response_topic.strip_prefix(&format!("{}/{VERSION}/", self.root)).is_some_and(|rest| {
                rest.split('/').all(|level| !level.is_empty())
                    && rest.chars().all(legal)
                    && rest.split('/').nth(2) != Some("down")
            })
            && self.parse_up(response_topic).is_none()
    }

    fn base(&self) -> String {
        format!("{}/{VERSION}/{}/{}", self.root, self.site, self.node)
    }

    fn up(&self, rest: &str) -> String {
        format!("{}/up/{rest}", self.base())
    }

    fn down(&self, rest: &str) -> String {
        format!("{}/down/{rest}", self.base())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topics() -> Topics {
        Topics::new("neap", "lab".parse().unwrap(), "node-1".parse().unwrap()).unwrap()
    }

    fn id(text: &str) -> JobId {
        text.parse().unwrap()
    }

    #[test]
    fn topics_read_as_the_protocol_writes_them() {
        let topics = topics();
        assert_eq!(topics.state(), "neap/v1/lab/node-1/up/state");
        assert_eq!(topics.result(&id("a.b")), "neap/v1/lab/node-1/up/job/a.b/result");
        assert_eq!(topics.submit(&id("a")), "neap/v1/lab/node-1/down/job/a");
        assert_eq!(topics.fleet_hold(), "neap/v1/lab/fleet/down/hold");
        assert_eq!(topics.reply("ctl-a"), "neap/v1/lab/node-1/up/reply/ctl-a");
        assert_eq!(topics.down_filter(), "neap/v1/lab/node-1/down/#");
        assert_eq!(topics.site_filter(), "neap/v1/lab/+/up/#");
    }

    #[test]
    fn what_is_built_is_parsed_back() {
        let topics = topics();
        let job = id("0190-x_Y.z");
        for (topic, down) in [
            (topics.submit(&job), Down::Submit(job.clone())),
            (topics.cancel(&job), Down::Cancel(job.clone())),
            (topics.ack(&job), Down::Ack(job.clone())),
            (topics.command("ping"), Down::Command("ping".to_owned())),
            (topics.load_plan(), Down::Load),
            (topics.fleet_hold(), Down::FleetHold),
            (topics.state(), Down::OwnState),
        ] {
            assert_eq!(topics.parse_down(&topic), Some(down), "{topic}");
        }
        let node = topics.node().clone();
        assert_eq!(topics.parse_up(&topics.job(&job)), Some((node.clone(), Up::Job(job.clone()))));
        assert_eq!(topics.parse_up(&topics.result(&job)), Some((node.clone(), Up::Result(job))));
        assert_eq!(topics.parse_up(&topics.load()), Some((node.clone(), Up::Load)));
        assert_eq!(topics.parse_up(&topics.outlook()), Some((node, Up::Outlook)));
    }

    #[test]
    fn foreign_and_crooked_topics_are_nothing() {
        let topics = topics();
        for topic in [
            "",
            "neap/v1/lab/node-2/down/job/a",
            "neap/v1/lab/node-1/down/job/a/b",
            "neap/v1/lab/node-1/down/job/a/cancel/x",
            "neap/v1/lab/node-1/down/job/",
            "neap/v1/lab/node-1/down/job/+",
            "neap/v1/lab/node-1/down",
            "neap/v1/lab/node-1/down/load/1",
            "neap/v1/lab/node-1/down/loads",
            "neap/v1/lab/node-1/up/job/a",
            "neap/v1/lab/fleet/down/other",
            "Neap/v1/lab/node-1/down/job/a",
        ] {
            assert_eq!(topics.parse_down(topic), None, "{topic}");
        }
    }

    #[test]
    fn a_bad_job_id_is_named() {
        let error = topics().bad_job_id("neap/v1/lab/node-1/down/job/a b/cancel").unwrap();
        assert!(error.to_string().contains("\"a b\""), "{error}");
        assert_eq!(topics().bad_job_id("neap/v1/lab/node-1/down/job/ok"), None);
    }

    #[test]
    fn replies_go_below_the_root_only() {
        let topics = topics();
        assert!(topics.may_reply_to(&topics.reply("neap-0190")), "what our own controllers ask for");
        assert!(topics.may_reply_to("neap/v1/lab/ctl/reply/7"));
        assert!(topics.may_reply_to("neap/v1/lab/node-1/up/reply/7"), "the node's ACL allows it");
        for bad in [
            "neap/v1/lab/node-1/down/cmd/ping",
            "neap/v1/lab/fleet/down/hold",
            "neap/v1/lab/node-1/up/state",
            "neap/v1/lab/node-2/up/job/a/result",
        ] {
            assert!(!topics.may_reply_to(bad), "{bad}");
        }
        for bad in ["other/v1/x", "neap/v2/x", "neap/v1/", "neap/v1/a/#", "neap/v1/a//b", "neap/v1/a\u{1}", "$SYS/x"] {
            assert!(!topics.may_reply_to(bad), "{bad}");
        }
        assert!(!topics.may_reply_to(&format!("neap/v1/{}", "x".repeat(600))));
    }

    #[test]
    fn roots_with_wildcards_are_refused() {
        for root in ["", "/", "a//b", "a/", "#", "a/+", "a b", "$SYS"] {
            assert!(Topics::new(root, "s".parse().unwrap(), "n".parse().unwrap()).is_err(), "{root}");
        }
        assert!(Topics::new("a/b.c", "s".parse().unwrap(), "n".parse().unwrap()).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(topic in "\\PC{0,80}") {
            let topics = topics();
            let _ = topics.parse_down(&topic);
            let _ = topics.parse_up(&topic);
            let _ = topics.may_reply_to(&topic);
            let _ = topics.bad_job_id(&topic);
        }
    }
}
