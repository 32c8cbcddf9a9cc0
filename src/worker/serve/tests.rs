//! What a worker makes of its arguments and of a model's file.

use std::io::Write as _;

use super::*;

fn parse(line: &str) -> Result<Arguments, String> {
    Arguments::parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn arguments_are_read_in_any_order() {
    let parsed = parse("--parent 12 --plan-bytes 1000 --slot 3 --address-bytes 2000").unwrap();
    let jail =
        jail::Settings { parent: 12, core: None, address_bytes: 2000, policy: jail::Policy::default(), manners: true };
    assert_eq!(parsed, Arguments { slot: 3, plan_bytes: 1000, jail, dead_man: None, attempt: None });
    let pinned =
        parse("--core 5 --parent 12 --plan-bytes 1000 --slot 3 --address-bytes 2000 --user 7 --sandbox best-effort")
            .unwrap();
    assert_eq!(pinned.jail.core, Some(5));
    assert_eq!(pinned.jail.policy, jail::Policy { level: Level::BestEffort, user: 7, network: true });
    let guarded =
        parse("--dead-man-ms 500 --parent 12 --plan-bytes 1 --slot 3 --address-bytes 2 --dead-man-fd 9").unwrap();
    assert_eq!(guarded.dead_man, Some((9, Duration::from_millis(500))));
}

#[test]
fn wrong_arguments_are_named() {
    let rest = "--plan-bytes 1 --slot 3 --address-bytes 2";
    assert_eq!(parse(rest).unwrap_err(), "--parent is missing");
    assert_eq!(parse(&format!("{rest} --parent")).unwrap_err(), "--parent needs a value");
    assert_eq!(parse(&format!("{rest} --parent x")).unwrap_err(), "--parent \"x\" is not a number in range");
    assert_eq!(parse(&format!("{rest} --parent 1 --colour red")).unwrap_err(), "--colour is unknown");
    assert_eq!(parse(&format!("{rest} --parent 1 --dead-man-fd 9")).unwrap_err(), "--dead-man-ms is missing");
    assert_eq!(parse(&format!("{rest} --parent 1 --dead-man-ms 9")).unwrap_err(), "--dead-man-fd is missing");
}

#[test]
fn a_file_is_read_whole_wherever_it_stands() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"network").unwrap();
    assert_eq!(read(file).unwrap(), b"network");
}

#[test]
fn a_file_above_the_limit_is_not_read_into_memory() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MODEL_BYTES_MAX + 1).unwrap();
    let fault = read(file).unwrap_err();
    assert_eq!(fault.code, Code::ModelTooLarge);
}

fn server() -> Server {
    Server::new(&parse("--parent 12 --plan-bytes 1000000 --slot 3 --address-bytes 2000").unwrap())
}

/// A model without any network in it, loaded from that file.
fn load(server: &mut Server, digest: u8, file: Option<File>) {
    let digest = Digest([digest; 32]);
    let manifest = format!(
        "name = \"m\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
         digest = \"{digest}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = [1] }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n"
    );
    server.load(Load { digest, manifest, labels: String::new() }, file);
}

fn run(server: &mut Server, digest: u8) -> FromWorker {
    let tensors = vec![Tensor::f32s("x", vec![1], &[1.0]).unwrap()];
    let digest = Digest([digest; 32]);
    server.run(Run { token: 1, item: 0, digest, interpret: false, memory_bytes: 1 << 30, output_bytes: 100, tensors })
}

fn sealed_file() -> File {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(file);
    file.write_all(b"no network").unwrap();
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL).unwrap();
    file
}

#[test]
fn a_model_in_a_file_that_can_still_be_changed_is_refused() {
    let mut server = server();
    load(&mut server, 1, Some(tempfile::tempfile().unwrap()));
    let FromWorker::Failed(Failed { fault, .. }) = run(&mut server, 1) else { panic!("not refused") };
    assert_eq!(fault.code, Code::ModelHashMismatch);
    assert!(fault.message.contains("sealed memory files only"), "{fault}");
}

#[test]
fn a_file_is_given_back_once_it_is_read_and_asked_for_again() {
    let mut server = server();
    load(&mut server, 1, Some(sealed_file()));
    let FromWorker::Failed(Failed { fault, .. }) = run(&mut server, 1) else { panic!("that is no network") };
    assert_eq!(fault.code, Code::ModelParse);
    assert!(matches!(run(&mut server, 1), FromWorker::NeedModel(_)));
}

#[test]
fn only_the_file_that_came_last_is_kept() {
    let mut server = server();
    load(&mut server, 1, Some(sealed_file()));
    load(&mut server, 2, Some(sealed_file()));
    assert!(matches!(run(&mut server, 1), FromWorker::NeedModel(_)));
    assert!(matches!(run(&mut server, 2), FromWorker::Failed(_)));
}
