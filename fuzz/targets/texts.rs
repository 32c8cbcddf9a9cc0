//! Names and files: topics, `model.toml`, the configuration.

use std::path::{Component, Path};

use neap::config::{Error, Settings};
use neap::link::topics::{Down, Topics, Up};
use neap::model::manifest::{self, GOLDENS_MAX, PORTS_MAX};
use neap::tensor::{DataType, Tensor};
use neap::units::{ELEMENTS_MAX, Name, RANK_MAX};

use super::{bounded, is_plain, is_plain_fault};

/// Memory for each byte of a TOML file: `[a]` is a table with its span.
const HELD_PER_BYTE: u64 = 512;
/// Longest sentence about a mistake in a file.
const SENTENCE_BYTES_MAX: usize = 2048;
/// Most mistakes that are told at once.
const PROBLEMS_MAX: usize = 100;
/// Longest topic of MQTT, in bytes.
const TOPIC_BYTES_MAX: usize = 65_535;

/// Lines: a root, a site, a node, a topic. What is missing is the usual.
pub fn topics(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let mut next = |usual: &str| lines.next().filter(|line| !line.is_empty()).unwrap_or(usual).to_owned();
    let (root, site, node, topic) = (next("neap"), next("lab"), next("node-1"), next("neap/v1/lab/node-1/up/state"));
    let (site, node) = match (site.parse::<Name>(), node.parse::<Name>()) {
        (Ok(site), Ok(node)) => (site, node),
        (site, node) => {
            let bad = [site.err(), node.err()].into_iter().flatten();
            return bad.for_each(|bad| is_plain(&bad.to_string(), SENTENCE_BYTES_MAX));
        }
    };
    let topics = match Topics::new(&root, site, node.clone()) {
        Ok(topics) => topics,
        Err(bad) => return is_plain(&bad.to_string(), SENTENCE_BYTES_MAX),
    };
    for built in [topics.state(), topics.info(), topics.event(), topics.load(), topics.metrics(), topics.fleet_hold()] {
        is_publishable(&built);
    }
    // A topic has one meaning, and a meaning one topic.
    let down = topics.parse_down(&topic);
    let rebuilt = down.as_ref().map(|down| match down {
        Down::Submit(id) => topics.submit(id),
        Down::Cancel(id) => topics.cancel(id),
        Down::Ack(id) => topics.ack(id),
        Down::Command(name) => topics.command(name),
        Down::Load => topics.load_plan(),
        Down::FleetHold => topics.fleet_hold(),
        Down::OwnState => topics.state(),
    });
    assert!(rebuilt.is_none_or(|rebuilt| rebuilt == topic), "{topic:?} was read as {down:?}");
    let up = topics.parse_up(&topic);
    let rebuilt = up.as_ref().map(|(node, up)| {
        let theirs = topics.of_node(node.clone());
        match up {
            Up::State => theirs.state(),
            Up::Info => theirs.info(),
            Up::Job(id) => theirs.job(id),
            Up::Result(id) => theirs.result(id),
            Up::Event => theirs.event(),
            Up::Load => theirs.load(),
            Up::Metrics => theirs.metrics(),
            Up::Outlook => theirs.outlook(),
        }
    });
    assert!(rebuilt.is_none_or(|rebuilt| rebuilt == topic), "{topic:?} was read as {up:?}");
    if topics.may_reply_to(&topic) {
        is_publishable(&topic);
        assert!(up.is_none() && (down.is_none()), "a reply to {topic:?} would be taken for something else");
    }
    if let Some(bad) = topics.bad_job_id(&topic) {
        is_plain(&bad.to_string(), SENTENCE_BYTES_MAX);
        assert_eq!(down, None);
    }
}

fn is_publishable(topic: &str) {
    assert!(!topic.is_empty() && topic.len() <= TOPIC_BYTES_MAX, "{} bytes", topic.len());
    assert!(!topic.chars().any(|sign| sign.is_control() || matches!(sign, '+' | '#')), "{topic:?}");
}

/// A model's manifest.
pub fn model_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let manifest = match bounded(bytes.len(), HELD_PER_BYTE, || manifest::parse(text)) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1 && error.line <= text.lines().count() + 1, "{error}");
            return is_plain(&error.to_string(), SENTENCE_BYTES_MAX);
        }
    };
    assert!((1..=PORTS_MAX).contains(&manifest.inputs.len()) && (1..=PORTS_MAX).contains(&manifest.outputs.len()));
    assert!(manifest.goldens.len() <= GOLDENS_MAX && manifest.version >= 1);
    for port in manifest.inputs.iter().chain(&manifest.outputs) {
        is_plain(&port.name, 4 * 2000);
        assert!(port.shape.len() <= RANK_MAX && port.datatype != DataType::Bytes);
        let product = port.shape.iter().flatten().try_fold(1_usize, |product, side| product.checked_mul(*side));
        assert!(product.is_some_and(|product| product <= ELEMENTS_MAX), "{:?}", port.shape);
    }
    let files = manifest.goldens.iter().flat_map(|golden| [&golden.input, &golden.output]);
    for file in files.chain(&manifest.labels).chain([&manifest.file]) {
        let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
        assert!(inside && !file.contains('\0'), "{file:?} leaves the model's folder");
    }
    // A medium, and the first port with one element where anything goes.
    let port = &manifest.inputs[0];
    let shape: Vec<usize> = port.shape.iter().map(|side| side.unwrap_or(1)).collect();
    let data = vec![0; shape.iter().product::<usize>() * port.datatype.element_bytes().unwrap_or(1)];
    let raw = Tensor::new(port.name.clone(), port.datatype, shape, data).expect("a port's shape is within the limits");
    for inputs in [vec![Tensor::bytes("image", b"")], vec![raw]] {
        match manifest.check_inputs(&inputs) {
            Ok(_) => {}
            Err(fault) => is_plain_fault(&fault),
        }
    }
}

/// The agent's configuration.
pub fn config_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match bounded(bytes.len(), HELD_PER_BYTE, || Settings::parse("neap.toml", text)) {
        Ok(settings) => {
            assert!(settings.needs_restart(&settings).is_empty(), "settings differ from themselves");
            let again = Settings::parse("neap.toml", text).expect("it was read before");
            assert_eq!(again, settings);
        }
        Err(Error::Invalid { problems }) => {
            assert!((1..=PROBLEMS_MAX).contains(&problems.len()));
            assert!(problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
            problems.iter().for_each(|problem| is_plain(&problem.to_string(), SENTENCE_BYTES_MAX));
        }
        Err(error @ (Error::Unreadable { .. } | Error::TooLarge { .. })) => panic!("{error}"),
    }
}
