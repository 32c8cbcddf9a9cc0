//! A real Mosquitto on a free loopback port, for one test.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use super::pki::Identity;

/// What the broker is to do besides accepting everybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Lines of an ACL file; everything is allowed without one.
    pub acl: Option<&'a str>,
    /// Largest packet that the broker takes and announces.
    pub packet_bytes_max: Option<u32>,
    /// Whether it also listens on a Unix socket, [`Mosquitto::socket`].
    pub socket: bool,
    /// A second listener, with TLS, on [`Mosquitto::tls_port`].
    pub tls: Option<Tls<'a>>,
    /// Further lines of its configuration.
    pub more: &'a str,
}

/// What the listener with TLS shows and wants.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// Authority of the clients.
    pub ca: &'a Path,
    /// Certificate and key of the broker.
    pub server: &'a Identity,
    /// Whether a client must show a certificate; its common name is its user name then.
    pub wants_client: bool,
}

/// A running broker; killed when dropped.
pub struct Mosquitto {
    folder: TempDir,
    binary: PathBuf,
    child: Child,
    port: u16,
    tls_port: u16,
}

impl Mosquitto {
    /// Starts one. `None`, with a loud message, when Mosquitto is not installed; with `CI=true` that is a failure.
    pub fn start(options: Options<'_>) -> Option<Self> {
        let Some(binary) = find() else {
            let missing = "Mosquitto is not installed: this test needs it (apt-get install mosquitto)";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            eprintln!("\n!!! SKIPPED: {missing} !!!\n");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        // Another process may take the port between our look and the broker's start: then another port is tried.
        for _ in 0..5 {
            let [port, tls_port] = free_ports();
            configure(folder.path(), [port, tls_port], options);
            if let Some(child) = launch(&binary, folder.path(), port) {
                return Some(Self { folder, binary, child, port, tls_port });
            }
        }
        panic!("Mosquitto does not start:\n{}", log(folder.path()));
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of [`Options::tls`] on 127.0.0.1.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id is an i32")
    }

    /// Path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        log(self.folder.path())
    }

    /// Puts another access list into force.
    pub fn set_acl(&self, acl: &str) {
        fs::write(self.folder.path().join("acl"), acl).expect("the ACL can be written");
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id is not 0"), rustix::process::Signal::HUP)
            .expect("the broker can be told");
    }

    /// Kills it (SIGKILL): its memory is lost.
    pub fn kill(&mut self) {
        self.child.kill().expect("the broker can be killed");
        self.child.wait().expect("the broker can be reaped");
    }

    /// Starts it again on the same port after [`Mosquitto::kill`].
    pub fn restart(&mut self) {
        for _ in 0..20 {
            if let Some(child) = launch(&self.binary, self.folder.path(), self.port) {
                self.child = child;
                return;
            }
            sleep(Duration::from_millis(100));
        }
        panic!("Mosquitto does not start again:\n{}", self.log());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // Killed and reaped already, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join("mosquitto")).find(|file| file.is_file())
}

/// Two ports at once, so that they differ.
fn free_ports() -> [u16; 2] {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port can be bound");
    [bind(), bind()].map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}

fn configure(folder: &Path, [port, tls_port]: [u16; 2], options: Options<'_>) {
    let mut text = format!("listener {port} 127.0.0.1\nset_tcp_nodelay true\n");
    if options.socket {
        writeln!(text, "listener 0 {}", folder.join("socket").display()).expect("a string can be written to");
    }
    if let Some(Tls { ca, server, wants_client }) = options.tls {
        let (ca, cert, key) = (ca.display(), server.cert.display(), server.key.display());
        write!(
            text,
            "listener {tls_port} 127.0.0.1\nset_tcp_nodelay true\ncafile {ca}\ncertfile {cert}\nkeyfile {key}\n\
             require_certificate {wants_client}\nuse_identity_as_username {wants_client}\n"
        )
        .expect("a string can be written to");
    }
    // As root it would otherwise change to a user that cannot read the folder.
    text += "user root\nallow_anonymous true\npersistence false\nlog_type all\nmax_queued_messages 10000\n";
    if let Some(bytes) = options.packet_bytes_max {
        writeln!(text, "max_packet_size {bytes}").expect("a string can be written to");
    }
    if let Some(acl) = options.acl {
        fs::write(folder.join("acl"), acl).expect("the ACL can be written");
        writeln!(text, "acl_file {}", folder.join("acl").display()).expect("a string can be written to");
    }
    fs::write(folder.join("conf"), text + options.more).expect("the configuration can be written");
}

/// The broker once it accepts connections; `None` when it ends instead.
fn launch(binary: &Path, folder: &Path, port: u16) -> Option<Child> {
    let output =
        fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log can be opened");
    let mut child = Command::new(binary)
        .arg("-c")
        .arg(folder.join("conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .expect("Mosquitto can be started");
    for _ in 0..500 {
        if child.try_wait().expect("a child can be asked").is_some() {
            return None;
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Some(child);
        }
        sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}
