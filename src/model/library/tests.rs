use std::os::unix::fs::symlink;

use super::*;

const BYTES: &[u8] = b"not really a network";

fn manifest(name: &str, version: u32, bytes: &[u8]) -> String {
    let digest = Digest(Sha256::digest(bytes).into());
    format!(
        "name = \"{name}\"\nversion = {version}\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"1/model.onnx\"\n\
         digest = \"{digest}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = [2] }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [2] }}]\n"
    )
}

fn install(root: &Path, folder: &str, text: &str) -> PathBuf {
    let folder = root.join(folder);
    fs::create_dir_all(folder.join("1")).unwrap();
    fs::write(folder.join("model.toml"), text).unwrap();
    fs::write(folder.join("1/model.onnx"), BYTES).unwrap();
    folder
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn problem(root: &Path) -> String {
    let library = Library::open(root).unwrap();
    assert_eq!((library.entries().count(), library.problems().len()), (0, 1), "{:?}", library.problems());
    library.problems()[0].message.clone()
}

#[test]
fn the_highest_version_serves_unless_one_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "a", &manifest("a", 1, BYTES));
    install(root.path(), "a-2", &manifest("a", 2, BYTES));
    install(root.path(), "b", &manifest("b", 7, BYTES));
    let library = Library::open(root.path()).unwrap();
    assert_eq!(library.problems(), []);
    let version = |asked| library.find(&name("a"), asked, None).map(|entry| entry.manifest.version);
    assert_eq!((version(None), version(Some(1))), (Ok(2), Ok(1)));
    assert_eq!(
        version(Some(3)).unwrap_err().to_string(),
        "model.unknown: model a version 3 is not installed; installed: 2, 1"
    );
    let unknown = library.find(&name("c"), None, None).unwrap_err();
    assert_eq!(unknown.to_string(), "model.unknown: model c is not installed; installed: a, b");
}

#[test]
fn a_digest_that_is_not_here_is_refused_with_the_one_that_is() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "a", &manifest("a", 1, BYTES));
    let library = Library::open(root.path()).unwrap();
    let here = library.find(&name("a"), None, None).unwrap().manifest.digest;
    assert!(library.find(&name("a"), Some(1), Some(&here)).is_ok());
    let fault = library.find(&name("a"), None, Some(&Digest([7; 32]))).unwrap_err();
    assert_eq!(fault.code, Code::ModelHashMismatch);
    assert!(fault.message.contains(&here.to_string()) && fault.message.contains("0707"), "{fault}");
}

#[test]
fn a_changed_file_does_not_verify() {
    let root = tempfile::tempdir().unwrap();
    let folder = install(root.path(), "a", &manifest("a", 1, BYTES));
    let entry = Library::open(root.path()).unwrap().find(&name("a"), None, None).unwrap();
    assert_eq!(entry.verify(), Ok(()));
    fs::write(folder.join("1/model.onnx"), b"something else").unwrap();
    assert_eq!(entry.verify().unwrap_err().code, Code::ModelHashMismatch);
    fs::remove_file(folder.join("1/model.onnx")).unwrap();
    assert_eq!(entry.verify().unwrap_err().code, Code::ModelParse);
}

#[test]
fn a_file_above_the_limit_is_too_large_before_it_is_read() {
    let root = tempfile::tempdir().unwrap();
    let folder = install(root.path(), "a", &manifest("a", 1, BYTES));
    let entry = Library::open(root.path()).unwrap().find(&name("a"), None, None).unwrap();
    File::create(folder.join("1/model.onnx")).unwrap().set_len(MODEL_BYTES_MAX + 1).unwrap();
    assert_eq!(entry.verify().unwrap_err().code, Code::ModelTooLarge);
    assert!(problem(root.path()).contains(&format!("is larger than {MODEL_BYTES_MAX} bytes")));
}

#[test]
fn one_bad_model_does_not_hide_the_others() {
    let root = tempfile::tempdir().unwrap();
    install(root.path(), "good", &manifest("good", 1, BYTES));
    install(root.path(), "bad", "nonsense = 1\n");
    install(root.path(), "twin", &manifest("good", 1, BYTES));
    fs::create_dir(root.path().join("not-a-model")).unwrap();
    install(root.path(), ".hidden", "nonsense");
    fs::write(root.path().join("README.md"), "x").unwrap();
    let library = Library::open(root.path()).unwrap();
    assert_eq!(library.entries().count(), 1);
    let problems: Vec<String> = library.problems().iter().map(|problem| problem.message.clone()).collect();
    assert!(problems[0].starts_with("1:1: nonsense: unknown field `nonsense`"), "{problems:?}");
    assert!(problems[1].starts_with("good version 1 is already in"), "{problems:?}");
    assert_eq!(problems.len(), 2);
}

#[test]
fn a_link_out_of_the_folder_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), BYTES).unwrap();
    let folder = install(root.path(), "a", &manifest("a", 1, BYTES));
    fs::remove_file(folder.join("1/model.onnx")).unwrap();
    symlink(outside.path().join("secret"), folder.join("1/model.onnx")).unwrap();
    assert!(problem(root.path()).contains("outside the model's folder"));
    fs::remove_dir_all(&folder).unwrap();
    install(outside.path(), "elsewhere", &manifest("a", 1, BYTES));
    symlink(outside.path().join("elsewhere"), root.path().join("a")).unwrap();
    assert!(problem(root.path()).contains("outside the folder of models"));
}

#[test]
fn a_pipe_or_a_folder_is_not_a_model_and_does_not_hang() {
    let root = tempfile::tempdir().unwrap();
    let folder = install(root.path(), "a", &manifest("a", 1, BYTES));
    fs::remove_file(folder.join("1/model.onnx")).unwrap();
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("1/model.onnx"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    );
    made.unwrap();
    assert!(problem(root.path()).contains("is not a regular file"));
    fs::remove_file(folder.join("1/model.onnx")).unwrap();
    fs::create_dir(folder.join("1/model.onnx")).unwrap();
    assert!(problem(root.path()).contains("is not a regular file"));
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let error = Library::open(Path::new("/nonexistent/models")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/models") && error.contains("name a folder that exists"), "{error}");
}

#[test]
fn golden_cases_are_read_from_files_beside_the_manifest() {
    let root = tempfile::tempdir().unwrap();
    let text = format!(
        "{}\n[[golden]]\ninput = \"in.json\"\noutput = \"out.json\"\ninterpret = false\n",
        manifest("a", 1, BYTES)
    );
    let folder = install(root.path(), "a", &text);
    let entry = Library::open(root.path()).unwrap().find(&name("a"), None, None).unwrap();
    assert!(entry.goldens().unwrap_err().message.contains("golden file \"in.json\""));
    let request = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1.5,2]}]}"#;
    fs::write(folder.join("in.json"), request).unwrap();
    fs::write(folder.join("out.json"), r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[3]}]}"#)
        .unwrap();
    assert!(entry.goldens().unwrap_err().message.contains("1 elements for shape [2], every 1"));
    fs::write(folder.join("out.json"), r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[3,4]}]}"#)
        .unwrap();
    let cases = entry.goldens().unwrap();
    assert_eq!(cases[0].inputs[0].to_f32s(), Some(vec![1.5, 2.0]));
    assert_eq!((cases.len(), cases[0].interpret, cases[0].expected.len()), (1, false, 1));
}

#[test]
fn samples_are_listed_by_name() {
    let root = tempfile::tempdir().unwrap();
    let folder = install(root.path(), "a", &manifest("a", 1, BYTES));
    let entry = Library::open(root.path()).unwrap().find(&name("a"), None, None).unwrap();
    assert_eq!(entry.samples().unwrap(), Vec::<PathBuf>::new());
    fs::create_dir_all(folder.join("samples/deeper")).unwrap();
    fs::write(folder.join("samples/b.jpg"), "").unwrap();
    fs::write(folder.join("samples/a.jpg"), "").unwrap();
    let names: Vec<_> = entry.samples().unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["a.jpg", "b.jpg"]);
}
