//! Does the program behave as a good citizen of the command line? Runs the real binary.

#[path = "support/files.rs"]
mod files;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use files::copy;
use neap::load::shm::Shm;
use neap::load::{Metric, Observed, Source as _};
use neap::sys::clock;
use neap::units::{SourceId, Utilization};

fn neap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_neap")).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn shipped(path: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

fn file(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, content).expect("a file can be written");
    path.display().to_string()
}

// ---- help ----

/// Subcommands as the help lists them, below a prefix of words.
fn subcommands(prefix: &[&str]) -> Vec<String> {
    let help = stdout(&neap(&[prefix, &["--help"]].concat()));
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn the_help_of_every_command_shows_examples_that_begin_with_its_name() {
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    commands.extend(subcommands(&[]).into_iter().map(|name| vec![name]));
    for group in ["models", "bench", "order"] {
        commands.extend(subcommands(&[group]).into_iter().map(|name| vec![group.to_owned(), name]));
    }
    assert!(commands.len() >= 13, "only {commands:?}");
    for command in commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let output = neap(&[&words[..], &["--help"]].concat());
        assert_eq!(code(&output), Some(0), "{command:?}");
        let help = stdout(&output);
        let (_, examples) = help.split_once("Examples:").unwrap_or_else(|| panic!("{command:?} has no examples"));
        assert!(examples.contains(&["neap", &words.join(" ")].join(" ")), "{command:?}: {examples}");
    }
}

#[test]
fn the_worker_is_nobodys_business() {
    assert!(!stdout(&neap(&["--help"])).contains("worker  "));
}

#[test]
fn the_version_is_that_of_the_crate() {
    assert_eq!(stdout(&neap(&["--version"])), concat!("neap ", env!("CARGO_PKG_VERSION"), "\n"));
}

// ---- wrong usage ----

#[test]
fn wrong_usage_exits_64_and_names_what_is_wrong() {
    let cases: [(&[&str], &str); 11] = [
        (&[], "Usage"),
        (&["--bogus"], "--bogus"),
        (&["submitt"], "submit"),
        (&["run", "--confg", "x"], "--config"),
        (&["feed", "--prb", "140"], "0..=100"),
        (&["feed", "--prb", "-1"], "0..=100"),
        (&["feed"], "--prb PERCENT"),
        (&["feed", "--prb", "1", "--for", "1.5h"], "500ms or 30s"),
        (&["jobs", "--node", "north"], "SITE/NAME"),
        (&["jobs"], "--node SITE/NAME"),
        (&["submit", "--node", "a/b", "--model", "m"], "--input"),
    ];
    for (arguments, words) in cases {
        let output = neap(arguments);
        assert_eq!(code(&output), Some(64), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

#[test]
fn clear_text_to_another_machine_is_refused_before_anything_is_sent() {
    let output = neap(&["jobs", "--node", "a/b", "--broker", "broker.example"]);
    assert_eq!(code(&output), Some(64));
    assert!(stderr(&output).contains("clear text"), "{}", stderr(&output));
}

// ---- configuration ----

#[test]
fn a_bad_configuration_exits_78_with_file_line_and_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[node]\nsite = \"north\"\nname = \"n\"\n[mqtt]\nhost = \"127.0.0.1\"\n[governor]\nbusy_above = 140\n";
    let path = file(folder.path(), "bad.toml", text);
    for arguments in [&["check", &path][..], &["run", "--config", &path], &["run", "--check", "--config", &path]] {
        let output = neap(arguments);
        assert_eq!(code(&output), Some(78), "{arguments:?}");
        let expected = format!("config.invalid: {path}:7:14: governor.busy_above = 140: must be 1 to 100 (percent)");
        assert!(stderr(&output).contains(&expected), "{arguments:?}: {}", stderr(&output));
    }
    let output = neap(&["check", "--json", &path]);
    assert_eq!(code(&output), Some(78));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((&report["valid"], &report["problems"][0]["line"]), (&false.into(), &7.into()));
}

#[test]
fn the_shipped_configurations_are_right_and_what_is_missing_here_is_only_noted() {
    let (node, lab) = (shipped("config/neap.toml"), shipped("config/lab.toml"));
    let output = neap(&["check", &node, &lab]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).matches(": right").count(), 2, "{}", stdout(&output));
    assert_eq!(code(&neap(&["run", "--check", "--config", &node])), Some(0));
}

#[test]
fn a_missing_configuration_is_named() {
    let output = neap(&["check", "/nowhere/neap.toml"]);
    assert_eq!(code(&output), Some(78));
    assert!(stderr(&output).contains("/nowhere/neap.toml"), "{}", stderr(&output));
}

// ---- citizens' duties ----

#[test]
fn a_pipe_gets_no_colours_with_and_without_no_color() {
    for no_color in [None, Some("1")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
        command.args(["check", &shipped("config/neap.toml")]).env_remove("NO_COLOR");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let output = command.output().expect("the binary runs");
        assert!(!stdout(&output).contains('\x1b') && !stderr(&output).contains('\x1b'), "NO_COLOR {no_color:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for arguments in [&["--help"][..], &["check", &shipped("config/neap.toml")]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_neap"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((code(&output), stderr(&output).contains("panic")), (Some(0), false), "{}", stderr(&output));
    }
}

// ---- feed ----

fn listener(folder: &Path) -> (UnixDatagram, String) {
    let path = folder.join("load.sock");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    (socket, path.display().to_string())
}

fn datagram(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("a datagram");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn feed_pushes_one_line_under_its_3gpp_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, path) = listener(folder.path());
    assert_eq!(code(&neap(&["feed", "--socket", &path, "--prb", "80", "--cell", "2", "--late", "3"])), Some(0));
    let line: serde_json::Value = serde_json::from_str(&datagram(&socket)).expect("JSON");
    assert_eq!((&line["cell"], &line["RRU.PrbTotDl"], &line["late"]), (&2.into(), &80.into(), &3.into()));
    assert!(line["mono_ns"].is_u64());
}

#[test]
fn feed_writes_the_page_of_a_shm_source_and_keeps_its_count_of_late_slots() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("load.shm");
    let text = path.display().to_string();
    let missing = neap(&["feed", "--shm", &text, "--prb", "80"]);
    assert_eq!((code(&missing), stderr(&missing).contains("the agent makes it")), (Some(69), true));

    let freshness = Duration::from_secs(2);
    let mut page = Shm::open(SourceId(0), &path, 0o600, freshness, clock::now()).expect("a page");
    let mut read = || {
        let mut heard = None;
        page.read(clock::now(), &mut |observation| heard = observation.ok());
        heard.map(|reading| (reading.cell.0, reading.observed))
    };
    let level = |percent, late| {
        let level = Utilization::from_percent(percent).expect("a percentage");
        Some((2, Observed::Level { metric: Metric::PrbTotDl, level, late: Some(late) }))
    };
    let feed = |more: &[&str]| code(&neap(&[&["feed", "--shm", &text, "--cell", "2"], more].concat()));
    assert_eq!(feed(&["--prb", "80", "--late", "3"]), Some(0));
    assert_eq!(read(), level(80, 3));
    assert_eq!(feed(&["--prb", "5"]), Some(0));
    assert_eq!(read(), level(5, 3));
    assert_eq!(feed(&["--gone"]), Some(0));
    assert_eq!(read(), Some((2, Observed::Gone)));
    assert_eq!(feed(&["--late", "4"]), Some(64), "a page carries a level with every count");
    assert_eq!(read(), None);
}

#[test]
fn feed_repeats_for_as_long_as_it_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, path) = listener(folder.path());
    // The kernel keeps few datagrams for a reader that does not read: read while it feeds.
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut child = Command::new(env!("CARGO_BIN_EXE_neap"))
        .args(["feed", "--socket", &path, "--prb", "5", "--every", "20ms", "--for", "1s"])
        .spawn()
        .expect("the binary runs");
    let mut count = 0;
    let ended = loop {
        match socket.recv(&mut [0; 4096]) {
            Ok(_) => count += 1,
            Err(_) => {
                if let Some(status) = child.try_wait().expect("a child") {
                    break status;
                }
            }
        }
    };
    assert_eq!(ended.code(), Some(0));
    assert!((2..=50).contains(&count), "{count} datagrams");
}

#[test]
fn feed_gives_up_on_a_receiver_that_does_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_socket, path) = listener(folder.path());
    let fed = neap(&["feed", "--socket", &path, "--prb", "5", "--every", "1ms", "--for", "60s"]);
    assert_eq!(code(&fed), Some(75));
    assert!(stderr(&fed).contains("stopped reading"), "{}", stderr(&fed));
}

#[test]
fn feed_passes_lines_of_standard_input_on_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, path) = listener(folder.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_neap"))
        .args(["feed", "--socket", &path, "--stdin"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"{\"cell\":1,\"RRU.PrbTotDl\":6}\n\nnot even JSON\n").expect("it reads");
    drop(stdin);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(datagram(&socket), "{\"cell\":1,\"RRU.PrbTotDl\":6}\n");
    assert_eq!(datagram(&socket), "not even JSON\n");
}

#[test]
fn feed_without_an_agent_exits_69_and_asks_for_it() {
    let output = neap(&["feed", "--socket", "/nowhere/load.sock", "--prb", "5"]);
    assert_eq!(code(&output), Some(69));
    assert!(stderr(&output).contains("is the agent running"), "{}", stderr(&output));
}

/// Starts a feeder whose remarks can be read line by line.
fn feeder(arguments: &[&str]) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neap"));
    command.arg("feed").args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let remarks = BufReader::new(child.stderr.take().expect("a pipe")).lines().map(|line| line.expect("a line"));
    (child, remarks)
}

#[test]
fn a_feeder_outlives_an_agent_that_is_not_there_yet_and_one_that_restarts_and_says_each_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("load.sock").display().to_string();
    let (mut child, mut remarks) = feeder(&["--socket", &path, "--prb", "5", "--every", "200ms"]);
    for _restart in 0..2 {
        let missing = remarks.next().expect("a remark");
        assert!(missing.contains(&path) && missing.contains("is the agent running"), "{missing}");
        let (socket, _) = listener(folder.path());
        assert!(datagram(&socket).contains("RRU.PrbTotDl"));
        assert_eq!(remarks.next().as_deref(), Some("neap: load is taken now"), "nothing was said twice");
        drop(socket);
        // Its socket stays behind, as that of an agent that was killed, and then is in the way of the next.
        fs::remove_file(&path).expect("the socket's file");
    }
    assert_eq!(child.try_wait().expect("a child"), None, "it goes on");
    child.kill().and_then(|()| child.wait()).expect("it ends");
}

#[test]
fn a_feeder_of_a_page_writes_into_that_of_the_agent_that_runs_now() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("load.shm");
    let (mut child, mut remarks) = feeder(&["--shm", &path.display().to_string(), "--prb", "5", "--every", "10ms"]);
    for _restart in 0..2 {
        let missing = remarks.next().expect("a remark");
        assert!(missing.contains("the agent makes it"), "{missing}");
        let mut page = Shm::open(SourceId(0), &path, 0o600, Duration::from_secs(2), clock::now()).expect("a page");
        assert_eq!(remarks.next().as_deref(), Some("neap: load is taken now"));
        let mut heard = None;
        page.read(clock::now(), &mut |observation| heard = observation.ok());
        assert!(heard.is_some(), "a reading");
        fs::remove_file(&path).expect("the page");
    }
    child.kill().and_then(|()| child.wait()).expect("it ends");
}

#[test]
fn what_a_feeder_leaves_behind_is_judged_by_its_last_sample() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("load.sock").display().to_string();
    let (child, remarks) = feeder(&["--socket", &path, "--prb", "5", "--every", "10ms", "--for", "100ms"]);
    let told: Vec<String> = remarks.collect();
    assert_eq!(child.wait_with_output().map(|output| code(&output)).expect("it ends"), Some(69));
    assert_eq!(told.len(), 2, "once as it begins, once as it ends: {told:?}");

    let (mut child, mut remarks) = feeder(&["--socket", &path, "--stdin"]);
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"{\"cell\":1,\"RRU.PrbTotDl\":6}\n").expect("it reads");
    assert!(remarks.next().is_some_and(|line| line.contains("is the agent running")));
    let (socket, _) = listener(folder.path());
    stdin.write_all(b"{\"cell\":1,\"RRU.PrbTotDl\":7}\n").expect("it reads");
    drop(stdin);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(datagram(&socket), "{\"cell\":1,\"RRU.PrbTotDl\":7}\n");
}

// ---- jobs ----

#[test]
fn a_job_file_with_a_typo_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = file(folder.path(), "job.json", r#"{"model":"m","piority":9,"input":{"inputs":[]}}"#);
    let output = neap(&["submit", "--node", "north/cell-17", &path]);
    assert_eq!(code(&output), Some(65));
    assert!(stderr(&output).contains("job.malformed") && stderr(&output).contains("piority"), "{}", stderr(&output));
}

#[test]
fn an_input_that_cannot_be_read_is_named() {
    let output = neap(&["submit", "--node", "north/cell-17", "--model", "m", "--input", "/nowhere/a.jpg"]);
    assert_eq!(code(&output), Some(74));
    assert!(stderr(&output).contains("/nowhere/a.jpg"), "{}", stderr(&output));
}

#[test]
fn a_broker_that_is_not_there_exits_69() {
    // A port that was free a moment ago; nobody listens on it.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let broker = format!("127.0.0.1:{port}");
    for arguments in [&["jobs"][..], &["result", "j1"], &["cancel", "j1"], &["watch", "--for", "5s"]] {
        let output = neap(&[arguments, &["--node", "north/cell-17", "--broker", &broker]].concat());
        assert_eq!(code(&output), Some(69), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(&broker), "{arguments:?}: {}", stderr(&output));
    }
}

// ---- models ----

#[test]
fn models_list_says_that_a_folder_is_not_there() {
    let output = neap(&["models", "list", "--dir", "/nowhere"]);
    assert_eq!(code(&output), Some(74));
    assert!(stderr(&output).contains("/nowhere"), "{}", stderr(&output));
}

#[test]
fn a_folder_without_models_is_not_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    for action in ["list", "verify", "test"] {
        let output = neap(&["models", action, "--dir", &path]);
        assert_eq!(code(&output), Some(65), "{action}");
        assert!(stderr(&output).contains(&path) && stderr(&output).contains("model.toml"), "{}", stderr(&output));
    }
}

#[test]
fn the_shipped_models_are_whole() {
    let folder = shipped("models");
    let output = neap(&["models", "verify", "--json", "--dir", &folder]);
    assert_eq!(code(&output), Some(0), "{}{}", stdout(&output), stderr(&output));
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["right"] == true), "{lines:?}");
    let unknown = neap(&["models", "verify", "--dir", &folder, "no-such-model"]);
    assert_eq!(code(&unknown), Some(65));
    assert!(stderr(&unknown).contains("no-such-model"), "{}", stderr(&unknown));
}

#[test]
fn a_model_file_that_was_changed_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let from = PathBuf::from(shipped("models"));
    let name = fs::read_dir(&from)
        .expect("models/ is there")
        .map(|entry| entry.expect("it can be listed").path())
        .find(|path| path.join("model.toml").is_file())
        .expect("there is a model");
    copy(&name, &folder.path().join(name.file_name().expect("it has a name")));
    let onnx = find_onnx(folder.path()).expect("it has an ONNX file");
    let mut bytes = fs::read(&onnx).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&onnx, bytes).expect("it can be written");
    let output = neap(&["models", "verify", "--dir", &folder.path().display().to_string()]);
    assert_eq!(code(&output), Some(65), "{}", stdout(&output));
    assert!(stdout(&output).contains("model.hash_mismatch"), "{}", stdout(&output));
}

fn find_onnx(folder: &Path) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find_map(|path| match path.is_dir() {
        true => find_onnx(&path),
        false => (path.extension()? == "onnx").then_some(path),
    })
}
