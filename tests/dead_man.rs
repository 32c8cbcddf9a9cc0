//! Who stops the workers when the agent cannot? Themselves, while the agent stands still, and when it is gone without
//! the kernel having told them. Judged by the kernel's account of their CPU time and by their state.

mod common;
#[allow(dead_code, reason = "the tests of one worker use the rest")]
#[path = "support/onnx.rs"]
mod onnx;

use std::fs::{self, File};
use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use common::emulation::{is_emulated, sandbox_level};
use common::node::{Node, Setup, cpu, state};
use common::wait_for;
use neap::sys::dead_man::{self, Beat};
use neap::sys::{clock, process, signal};
use neap::tensor::Tensor;
use neap::units::Digest;
use neap::worker::protocol::{Frames, FromWorker, Load, Run, ToWorker};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use self::onnx::{FLOAT, Graph, INT64, ints, node, tensor, value};

const DEAD_MAN: Duration = Duration::from_millis(300);

// ---- a model whose one item takes seconds ----

/// `y = max(p · p · p · …)` where every element of the large matrix `p` is `x`.
fn slow_model(products: usize) -> Vec<u8> {
    let name = |at: usize| format!("p{at}");
    let mut nodes = vec![node("Expand", &["x", "shape"], &["p0"])];
    nodes.extend((0..products).map(|at| node("MatMul", &["p0", &name(at)], &[&name(at + 1)])));
    nodes.push(node("ReduceMax", &[&name(products)], &["y"]));
    let constants = vec![tensor("shape", INT64, &[2], &ints(&[1200, 1200]))];
    let (inputs, outputs) = (vec![value("x", FLOAT, &[1])], vec![value("y", FLOAT, &[1, 1])]);
    Graph { nodes, constants, inputs, outputs }.file()
}

fn manifest(file: &[u8]) -> (Digest, String) {
    let digest = Digest(Sha256::digest(file).into());
    let text = format!(
        "name = \"slow\"\nversion = 1\nsummary = \"A model made by a test.\"\nlicence = \"Apache-2.0\"\n\
         source = \"made by a test\"\nfile = \"model.onnx\"\ndigest = \"{digest}\"\n\
         inputs = [{{ name = \"x\", datatype = \"FP32\", shape = [1] }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1, 1] }}]\n"
    );
    (digest, text)
}

fn install(folder: &Path, file: &[u8]) {
    let folder = folder.join("slow");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join("model.onnx"), file).expect("a file can be written");
    fs::write(folder.join("model.toml"), manifest(file).1).expect("a file can be written");
}

// ---- what the kernel says ----

/// Waits until a worker that has work for seconds sleeps: computing, it would never. Then watches that it uses next to
/// no CPU time; gives what it used until it slept.
fn assert_parks(pid: i32, context: impl Fn() -> String) -> Duration {
    let used = || cpu(pid).unwrap_or_else(|| panic!("the worker is gone\n{}", context()));
    let begin = used();
    let mut asleep = 0;
    let sleeps = || {
        asleep += usize::from(state(pid) == Some('S'));
        (asleep >= 20).then_some(())
    };
    wait_for("a worker that stops itself", &context, sleeps);
    let parked = used();
    std::thread::sleep(Duration::from_millis(1500));
    let more = used() - parked;
    // It looks at the beat a hundred times a second.
    assert!(more < Duration::from_millis(300), "a parked worker used {more:?} of CPU in 1.5 s");
    parked - begin
}

// ---- the whole agent stands ----

#[test]
fn a_worker_stops_itself_while_the_whole_agent_stands_still_and_its_job_ends_well() {
    let models = tempfile::tempdir().expect("a temporary folder can be made");
    install(models.path(), &slow_model(60));
    let setup = Setup::new().with("models", "dir", models.path().display().to_string()).with(
        "sentinel",
        "dead_man_ms",
        i64::try_from(DEAD_MAN.as_millis()).unwrap_or(300),
    );
    let node = Node::start(&setup);
    let controller = node.controller();
    node.feeder.low();
    controller.wait_for_mode("trough");
    let input = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0.001]}]});
    controller.submit("slow", &json!({"model": "slow", "input": input}));
    controller.wait_for_state("slow", "IN_PROGRESS");
    let pid = node.wait_for_workers(1)[0];
    let before = cpu(pid).expect("the worker lives");
    let at_work = || (cpu(pid)? > before + Duration::from_millis(50)).then_some(());
    wait_for("a worker at work", || node.log(), at_work);

    signal::stop_process(node.agent_pid()).expect("a child can be stopped");
    let used = assert_parks(pid, || node.log());
    // The limit, the time between two looks, and much for a machine whose clocks lag.
    let most = DEAD_MAN + dead_man::EVERY + Duration::from_secs(1);
    assert!(used <= most, "it used {used:?} of CPU after its agent stood still, at most {most:?} are allowed");
    eprintln!("CPU time of the worker from SIGSTOP of the agent to its own stop: {used:?}");
    signal::continue_process(node.agent_pid()).expect("a child can be continued");

    let last = controller.wait_for_state("slow", "SUCCEEDED");
    assert_eq!(last["attempt"], json!(1), "{last}");
    assert_eq!(controller.results("slow").0, 1, "one result");
    let told = || controller.events("alarm").into_iter().find(|alarm| alarm["code"] == "sentinel.silent");
    let alarm = wait_for("an alarm", || node.log(), told);
    assert!(alarm["message"].as_str().is_some_and(|text| text.contains("300 ms")), "{alarm}");
}

// ---- the agent is gone ----

/// A worker without an agent: this test in its place, which neither dies nor stops anybody. So the request to die with
/// the parent has no effect here, as if the kernel had forgotten it.
struct Orphan {
    child: Child,
    socket: UnixStream,
    frames: Frames,
    silent: Arc<AtomicBool>,
    sentinel: Option<JoinHandle<()>>,
    leave: Arc<AtomicBool>,
}

impl Orphan {
    fn start() -> Self {
        let beat = Beat::new().expect("a page can be made");
        beat.give(clock::now());
        let (socket, theirs) = UnixStream::pair().expect("a pair can be made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        let (parent, fd) = (std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&beat.fd()));
        let line = format!(
            "worker --slot 0 --parent {parent} --plan-bytes 268435456 --address-bytes 4294967296 --dead-man-fd {fd} \
             --dead-man-ms {} --sandbox {}",
            DEAD_MAN.as_millis(),
            sandbox_level()
        );
        // A worker may not write to files, and what it says at its end would go to one if these tests' output does.
        command.args(line.split(' ')).stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        process::pass_on(&mut command, beat.fd());
        let child = command.spawn().expect("a worker can be started");
        drop(command);
        let [silent, leave] = [false; 2].map(|flag| Arc::new(AtomicBool::new(flag)));
        let sentinel = std::thread::spawn({
            let (silent, leave) = (Arc::clone(&silent), Arc::clone(&leave));
            move || {
                while !leave.load(SeqCst) {
                    if !silent.load(SeqCst) {
                        beat.give(clock::now());
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        let mut orphan = Self { child, socket, frames: Frames::default(), silent, sentinel: Some(sentinel), leave };
        assert!(matches!(orphan.receive(), FromWorker::Hello(hello) if hello.notes.is_empty() || is_emulated()));
        orphan
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id is an i32")
    }

    fn receive(&mut self) -> FromWorker {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.frames.next_frame().expect("a frame") {
                return FromWorker::decode(frame).expect("a message");
            }
            let read = self.socket.read(&mut buffer).expect("the socket can be read");
            assert!(read > 0, "the worker is gone");
            self.frames.extend(&buffer[..read]);
        }
    }

    /// Hands over a model and one item of it, and waits until it is being computed.
    fn set_to_work(&mut self, products: usize) {
        let onnx = slow_model(products);
        let (digest, manifest) = manifest(&onnx);
        let memory = memfd_create("model", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let mut file = File::from(memory.expect("memory can be had as a file"));
        file.write_all(&onnx).expect("a file can be written");
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).expect("memory can be sealed");
        let load = Load { digest, manifest, labels: String::new() }.encode().expect("a frame");
        send_with(&self.socket, &load, &file);
        let tensors = vec![Tensor::f32s("x", vec![1], &[0.001]).expect("a tensor")];
        let (memory_bytes, output_bytes) = (256 << 20, 1 << 20);
        let run = Run { token: 1, item: 0, digest, interpret: true, memory_bytes, output_bytes, tensors };
        let before = cpu(self.pid()).expect("the worker lives");
        self.socket.write_all(&ToWorker::Run(run).encode().expect("a frame")).expect("the socket takes it");
        let pid = self.pid();
        let at_work = || (cpu(pid)? > before + Duration::from_millis(50)).then_some(());
        wait_for("a worker at work", String::new, at_work);
    }

    /// The agent's end of the socket closes.
    fn hang_up(&self) {
        self.socket.shutdown(std::net::Shutdown::Both).expect("a socket can be shut down");
    }

    fn exit_code(&mut self) -> i32 {
        let child = &mut self.child;
        let ended = || child.try_wait().expect("a child can be asked");
        let status = wait_for("the end of the worker", String::new, ended);
        status.code().unwrap_or_else(|| panic!("it did not end by itself: {status}"))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.leave.store(true, SeqCst);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.sentinel.take().map(JoinHandle::join);
    }
}

fn send_with(socket: &UnixStream, frame: &[u8], file: &File) {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(socket, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL).expect("the socket takes it");
    assert_eq!(sent, frame.len());
}

#[test]
fn an_idle_worker_ends_when_its_agent_hangs_up() {
    let mut orphan = Orphan::start();
    orphan.hang_up();
    assert_eq!(orphan.exit_code(), 0);
}

#[test]
fn a_worker_in_the_middle_of_an_item_whose_agent_is_gone_stops_itself() {
    let mut orphan = Orphan::start();
    orphan.set_to_work(48);
    orphan.hang_up();
    orphan.silent.store(true, SeqCst);
    assert_parks(orphan.pid(), String::new);
    // Even if somebody gave the beat again, it would not outlive its item: nobody takes the answer.
    orphan.silent.store(false, SeqCst);
    assert_eq!(orphan.exit_code(), i32::from(neap::worker::serve::EXIT_PROTOCOL));
}
