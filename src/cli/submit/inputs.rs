//! What is in the files? Media and requests from disk, checked before anything is sent.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::failure::{Class, Failure};
use crate::cli::session::Session;
use crate::jobs::job::ModelRef;
use crate::link::messages::{self, Body, Draft, Info, Request};
use crate::tensor::Tensor;
use crate::units::{ITEMS_MAX, MANIFEST_BYTES_MAX, PACKET_BYTES_MAX};

/// How long to wait for the node's inventory, which the broker keeps.
const INFO_WAIT: Duration = Duration::from_secs(2);
/// Longest request in a .json file, in bytes: text is longer than the tensors it becomes.
const REQUEST_BYTES_MAX: u64 = 8 * PACKET_BYTES_MAX as u64;

/// One input file.
#[derive(Debug)]
pub(super) enum Input {
    /// An encoded medium, and the tensor that usually takes such a file.
    Medium(Vec<u8>, &'static str),
    /// A request of its own.
    Request(Request),
}

impl Input {
    /// The request for this input; a medium goes into `tensor`, or where such files usually go.
    pub(super) fn request(&self, tensor: Option<&str>) -> Request {
        match self {
            Self::Medium(content, usual) => Request::new(vec![Tensor::bytes(tensor.unwrap_or(usual), content)]),
            Self::Request(request) => request.clone(),
        }
    }
}

/// Reads all input files.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Input>, Failure> {
    if paths.len() > ITEMS_MAX {
        let text = format!("{} inputs are too many: at most {ITEMS_MAX} items in one job; submit several", paths.len());
        return Err(Failure::new(Class::Data, text));
    }
    let mut total = 0;
    let mut inputs = Vec::with_capacity(paths.len());
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("").to_ascii_lowercase();
        let is_request = extension == "json";
        let content = content(path, if is_request { REQUEST_BYTES_MAX } else { PACKET_BYTES_MAX as u64 })?;
        total += if is_request { 0 } else { content.len() };
        if total > PACKET_BYTES_MAX {
            let text = format!(
                "the inputs are more than {PACKET_BYTES_MAX} bytes together, the limit of one message: submit several jobs"
            );
            return Err(Failure::new(Class::Data, text));
        }
        inputs.push(if is_request {
            let request = messages::parse_request(&content);
            Input::Request(request.map_err(|fault| Failure::new(Class::Data, format!("{}: {fault}", path.display())))?)
        } else {
            Input::Medium(content, usual_tensor(&extension))
        });
    }
    Ok(inputs)
}

/// Reads a whole job from a file or, for `-`, from standard input, and checks what can be checked without the node.
pub(super) fn whole_job(path: &Path) -> Result<Vec<u8>, Failure> {
    let body = if path == Path::new("-") {
        limited(&mut io::stdin().lock(), MANIFEST_BYTES_MAX as u64, "standard input")?
    } else {
        content(path, MANIFEST_BYTES_MAX as u64)?
    };
    let checked =
        Draft::parse(&Body { bytes: &body, content_type: Some(messages::JSON), header_bytes: None }, PACKET_BYTES_MAX);
    checked.map_err(|fault| Failure::new(Class::Data, format!("{}: {fault}", path.display())))?;
    Ok(body)
}

/// The tensor that takes a medium, as the node's inventory says; nothing when no file needs it or the node does not say.
pub(super) async fn accepted_tensor(session: &mut Session, wanted: &ModelRef, inputs: &[Input]) -> Option<String> {
    if !inputs.iter().any(|input| matches!(input, Input::Medium(..))) {
        return None;
    }
    let topic = session.topics.info();
    let message = session.find(INFO_WAIT, |message| message.topic == topic).await.ok()??;
    let info = Info::parse(&message.body).ok()?;
    let fits = |version: u32| wanted.version.is_none_or(|wanted| wanted == version);
    let models = info.models.into_iter().filter(|model| model.name == wanted.name.as_str() && fits(model.version));
    models.max_by_key(|model| model.version)?.accepts
}

/// What tensors of that kind are called in the models that come with the program.
fn usual_tensor(extension: &str) -> &'static str {
    match extension {
        "jpg" | "jpeg" | "png" => "image",
        "wav" => "audio",
        _ => "content",
    }
}

fn content(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let what = format!("cannot read {}", path.display());
    let mut file = File::open(path).map_err(|error| Failure::io(&what, &error))?;
    limited(&mut file, bytes_max, &path.display().to_string())
}

fn limited(from: &mut impl Read, bytes_max: u64, what: &str) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = from.take(bytes_max + 1).read_to_end(&mut content);
    read.map_err(|error| Failure::io(&format!("cannot read {what}"), &error))?;
    if content.len() as u64 > bytes_max {
        let text =
            format!("{what} is longer than {bytes_max} bytes, the limit; give media and large tensors with --input");
        return Err(Failure::new(Class::Data, text));
    }
    if content.is_empty() {
        return Err(Failure::new(Class::Data, format!("{what} is empty")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn a_picture_goes_where_the_model_takes_it_or_where_pictures_usually_go() {
        let (_folder, path) = file("a.JPG", b"jpeg");
        let inputs = read(&[path]).unwrap();
        let name = |tensor| inputs[0].request(tensor).inputs[0].name.clone();
        assert_eq!((name(None).as_str(), name(Some("frame")).as_str()), ("image", "frame"));
        assert!(inputs[0].request(None).interpret);
    }

    #[test]
    fn a_json_file_is_a_request_of_its_own_however_long() {
        let numbers = vec!["0.5"; 10_000].join(",");
        let text = format!(r#"{{"inputs":[{{"name":"x","shape":[1,10000],"datatype":"FP32","data":[{numbers}]}}]}}"#);
        let (_folder, path) = file("x.json", text.as_bytes());
        let inputs = read(&[path]).unwrap();
        let request = inputs[0].request(Some("ignored"));
        assert_eq!((request.inputs[0].name.as_str(), request.inputs[0].data.len()), ("x", 40_000));
        assert!(!request.interpret);
    }

    #[test]
    fn a_bad_request_is_refused_with_its_file_and_code() {
        let (_folder, path) = file("x.json", br#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1]}]}"#);
        let failure = read(&[path]).unwrap_err();
        assert_eq!(failure.class, Class::Data);
        assert!(failure.text.contains("x.json: input."), "{}", failure.text);
    }

    #[test]
    fn what_one_message_cannot_carry_is_refused_before_it_is_sent() {
        let (_folder, path) = file("a.wav", &vec![0; PACKET_BYTES_MAX / 2 + 1]);
        assert!(read(std::slice::from_ref(&path)).is_ok());
        let failure = read(&[path.clone(), path]).unwrap_err();
        assert!(failure.text.contains("submit several jobs"), "{}", failure.text);
    }

    #[test]
    fn a_job_file_with_a_typo_is_refused_with_the_fields_name() {
        let (_folder, path) = file("job.json", br#"{"model":"m","piority":9,"input":{"inputs":[]}}"#);
        let failure = whole_job(&path).unwrap_err();
        assert!(failure.text.contains("piority"), "{}", failure.text);
    }
}
