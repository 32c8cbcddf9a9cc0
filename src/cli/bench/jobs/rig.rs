//! What is there to be measured? A Mosquitto, the real agent, and the file system that its state is on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use toml::{Table, Value};

use super::wait_for;
use crate::cli::bench::latency::Latencies;
use crate::cli::failure::{Class, Failure};
use crate::cli::stage::node::{self, Agent, Changes, Ended, Folder};
use crate::config::Settings;
use crate::link::topics::Topics;
use crate::sys::signal::Interrupt;
use crate::sys::{clock, process};
use crate::units::{Digest, JOBS_MAX};

/// What every job of the bench asks for: as little as a job can.
pub(super) const SUBMIT: &str =
    r#"{"model":"bench","input":{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1.0]}]}}"#;
/// A model that is never run: no worker ever starts.
const MODEL: &[u8] = b"not a network";
/// The broker has to listen, and the agent to be ready, within this.
const READY_MAX: Duration = Duration::from_secs(20);
/// How often one looks.
const LOOK: Duration = Duration::from_millis(2);
/// Another process may take the port between our look and the broker's start.
const PORTS_MAX: u32 = 5;
/// Room for all jobs, in MiB.
const SPOOL_MIB: i64 = 4096;
/// What a bare sync follows on.
const SYNC_BYTES: usize = 4096;

/// Everything that runs. Ends when dropped, and leaves nothing.
#[derive(Debug)]
pub(super) struct Rig {
    settings: Settings,
    agent: Option<Agent>,
    starts: u32,
    notify: UnixDatagram,
    broker: Broker,
    folder: Folder,
}

/// A Mosquitto; killed when dropped.
#[derive(Debug)]
struct Broker {
    child: Child,
    address: SocketAddr,
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::io(what, &error)
}

impl Rig {
    /// Starts the broker and writes all that the agent needs, below this folder.
    pub(super) fn build(parent: &Path) -> Result<Self, Failure> {
        let folder = Folder::below(parent, "bench").map_err(|error| {
            Failure::io(&format!("cannot make a folder in {}; name another with --dir", parent.display()), &error)
        })?;
        let broker = Broker::start(folder.path())?;
        let settings = configure(folder.path(), broker.address)?;
        let path = folder.join("notify.sock");
        let notify = UnixDatagram::bind(&path).map_err(failed("cannot listen for the agent's READY"))?;
        notify.set_read_timeout(Some(LOOK)).map_err(failed("cannot listen for the agent's READY"))?;
        Ok(Self { settings, agent: None, starts: 0, notify, broker, folder })
    }

    /// Names of the node.
    pub(super) fn topics(&self) -> Topics {
        self.settings.node.topics.clone()
    }

    /// Where the broker listens.
    pub(super) fn broker(&self) -> SocketAddr {
        self.broker.address
    }

    /// Which file system the state is on.
    pub(super) fn filesystem(&self) -> String {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = fs::canonicalize(self.folder.path()).unwrap_or_else(|_| self.folder.path().to_owned());
        filesystem_of(&mounts, &folder).unwrap_or_else(|| "an unknown file system".to_owned())
    }

    /// Starts the agent; how long it took until READY.
    pub(super) fn start_agent(&mut self, interrupt: &Interrupt) -> Result<Duration, Failure> {
        self.starts += 1;
        let log = self.folder.join(&format!("agent-{}.log", self.starts));
        let socket = self.folder.join("notify.sock");
        let began = clock::now();
        let mut agent = Agent::start_with(&self.folder.join("node.toml"), log, &[("NOTIFY_SOCKET", &socket)])
            .map_err(failed("cannot start the agent"))?;
        let look = || {
            let mut datagram = [0; 4096];
            if let Ok(length) = self.notify.recv(&mut datagram)
                && datagram[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
            {
                return Ok(Some(clock::now()));
            }
            match agent.ended() {
                None => Ok(None),
                Some(status) => {
                    let text = format!("the agent ended with {status}; the end of its log:\n{}", agent.log_tail());
                    Err(Failure::new(Class::Software, text))
                }
            }
        };
        let ready = wait_for("the agent's start", READY_MAX, interrupt, look)?;
        self.agent = Some(agent);
        Ok(ready.since(began))
    }

    /// Ends the agent in good order.
    pub(super) fn stop_agent(&mut self) -> Result<(), Failure> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        match agent.stop() {
            Ended::Well(_) => Ok(()),
            Ended::Badly(_) | Ended::Killed => {
                let text = format!("the agent did not end well; the end of its log:\n{}", agent.log_tail());
                Err(Failure::new(Class::Software, text))
            }
        }
    }

    /// Appends to a file beside the state and syncs it, so many times.
    pub(super) fn time_syncs(&self, count: u32, times: &mut Latencies) -> Result<(), Failure> {
        let what = "cannot write beside the agent's state";
        let path = self.folder.join("sync");
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed(what))?;
        for _ in 0..count {
            let began = clock::now();
            file.write_all(&[1; SYNC_BYTES]).and_then(|()| file.sync_data()).map_err(failed(what))?;
            times.record(clock::now().since(began));
        }
        Ok(())
    }
}

impl Broker {
    fn start(folder: &Path) -> Result<Self, Failure> {
        let binary = find("mosquitto").ok_or_else(|| {
            let text = "mosquitto is not on PATH nor in /usr/sbin: this bench measures through a real broker; \
                        install it (Debian, Ubuntu: apt install mosquitto)";
            Failure::new(Class::Unavailable, text)
        })?;
        for _ in 0..PORTS_MAX {
            if let Some(broker) = Self::launch(&binary, folder).map_err(failed("cannot start mosquitto"))? {
                return Ok(broker);
            }
        }
        let log = fs::read_to_string(folder.join("mosquitto.log")).unwrap_or_default();
        Err(Failure::new(Class::Unavailable, format!("mosquitto does not start:\n{}", log.trim_end())))
    }

    /// The broker once it listens; `None` when it ends instead.
    fn launch(binary: &Path, folder: &Path) -> io::Result<Option<Self>> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        // As root it would change to a user that cannot read the folder. By itself it lets 20 messages be on their way
        // to or from a client at once, fewer than the link bears.
        let text = format!(
            "listener {} 127.0.0.1\nset_tcp_nodelay true\nuser root\nallow_anonymous true\npersistence false\n\
             max_inflight_messages 0\nmax_queued_messages 0\n",
            address.port()
        );
        fs::write(folder.join("mosquitto.conf"), text)?;
        let log = File::create(folder.join("mosquitto.log"))?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(folder.join("mosquitto.conf"));
        // Ctrl-C is for the bench, which ends its broker itself.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let mut broker = Self { child: process::tie_to_parent(&mut command).spawn()?, address };
        let until = clock::now().after(READY_MAX);
        while clock::now() < until && broker.child.try_wait()?.is_none() {
            if TcpStream::connect(address).is_ok() {
                return Ok(Some(broker));
            }
            std::thread::sleep(LOOK);
        }
        Ok(None)
    }
}

/// A program on `PATH`, or where services are.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Writes a model that only looks like one, and the node's configuration.
fn configure(folder: &Path, broker: SocketAddr) -> Result<Settings, Failure> {
    use sha2::Digest as _;
    let models = folder.join("models").join("bench");
    let manifest = format!(
        "name = \"bench\"\nversion = 1\nsummary = \"never run\"\nlicence = \"Apache-2.0\"\nsource = \"neap bench\"\n\
         file = \"bench.onnx\"\ndigest = \"{}\"\n\
         inputs = [{{ name = \"x\", datatype = \"FP32\", shape = [1] }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n",
        Digest(sha2::Sha256::digest(MODEL).into())
    );
    fs::create_dir_all(&models)
        .and_then(|()| fs::write(models.join("bench.onnx"), MODEL))
        .and_then(|()| fs::write(models.join("model.toml"), manifest))
        .map_err(failed("cannot write the bench's model"))?;
    let changes = Changes::of_a_bench(folder, broker, folder.join("models"));
    let wrong = |why: String| Failure::new(Class::Software, format!("the bench's configuration is wrong: {why}"));
    let mut text: Table = node::configuration(&changes).and_then(|text| parsed(&text)).map_err(wrong)?;
    if let Some(jobs) = text.get_mut("jobs").and_then(Value::as_table_mut) {
        jobs.insert("open_max".to_owned(), Value::Integer(i64::try_from(JOBS_MAX).unwrap_or(i64::MAX)));
        jobs.insert("spool_mib".to_owned(), Value::Integer(SPOOL_MIB));
    }
    let file = folder.join("node.toml");
    let text = toml::to_string(&text).map_err(|error| wrong(error.to_string()))?;
    fs::write(&file, text).map_err(failed("cannot write the bench's configuration"))?;
    Settings::read(&file).map_err(|error| wrong(error.to_string()))
}

fn parsed(text: &str) -> Result<Table, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// Type and mount point of the file system that a path is on, from `/proc/self/mountinfo`.
fn filesystem_of(mounts: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ");
        let kind = rest.split(' ').next()?;
        path.starts_with(&point).then(|| (point.len(), format!("{kind} at {point}")))
    };
    // Of two on the same point the later one covers the earlier one.
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, told)| told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_is_the_one_a_path_is_on() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      30 22 0:27 / /tmp rw - tmpfs tmpfs rw\n\
                      31 22 0:28 / /var/my\\040state rw - f2fs /dev/mmc rw\n";
        let of = |path: &str| filesystem_of(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/home/x"), "ext4 at /");
        assert_eq!(of("/tmp/neap-bench"), "tmpfs at /tmp");
        assert_eq!(of("/tmporary"), "ext4 at /");
        assert_eq!(of("/var/my state/neap"), "f2fs at /var/my state");
    }

    #[test]
    fn the_agent_accepts_the_configuration_and_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let settings = configure(folder.path(), "127.0.0.1:1883".parse().unwrap()).unwrap();
        assert_eq!((settings.jobs.open_max, settings.policy.workers), (JOBS_MAX, 1));
        let library = crate::model::library::Library::open(&settings.models_dir).unwrap();
        assert_eq!(library.problems(), []);
        let body = crate::link::messages::Body { bytes: SUBMIT.as_bytes(), content_type: None, header_bytes: None };
        let submit = crate::link::messages::Draft::parse(&body, 10_000).unwrap();
        let entry = library.find(&submit.model.name, None, None).unwrap();
        entry.manifest.check_inputs(&submit.items[0].inputs).unwrap();
    }
}
