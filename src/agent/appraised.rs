//! What does the agent know of its models' costs before their first job? The verdicts of their appraisal.
//!
//! `neap models appraise` makes them, in the state directory; the agent reads them with its models. A model without one
//! still serves, under the limits of each job, and says so in the inventory.

use std::path::Path;
use std::time::Duration;

use crate::config::Settings;
use crate::link::messages::InfoModel;
use crate::model::library::{Entry, Library};
use crate::model::verdict::{Cost, Limits, Terms, files};
use crate::worker::appraisal;

/// What models may take on this node, as an appraisal tries it.
pub(crate) fn limits(settings: &Settings) -> Limits {
    Limits {
        plan_bytes: settings.workers.memory_bytes,
        item_bytes: settings.jobs.limits_max.memory_bytes,
        ..Limits::default()
    }
}

/// The library with its verdicts. Says which models are refused, and which are not appraised.
pub(super) fn with_verdicts(library: Library, state_dir: &Path, limits: Limits) -> Library {
    let terms: Terms = appraisal::terms(limits);
    let folder = files::folder_in(state_dir);
    let library = library.with_verdicts(&folder, &terms);
    let mut unknown = Vec::new();
    for entry in library.entries() {
        let model = entry.manifest.name.as_str();
        match (library.verdict(entry), library.refusal(entry)) {
            (_, Some(fault)) => tracing::error!(model, "jobs for it are refused: {fault}"),
            (Some(_), None) => {}
            (None, None) => unknown.push(model),
        }
    }
    if !unknown.is_empty() {
        tracing::info!(models = unknown.join(", "), "not appraised: their costs are unknown; run neap models appraise");
    }
    library
}

/// What the inventory says of a model's costs. `worst_node_max`: the longest single operator that is not remarked on.
pub(super) fn tell(library: &Library, entry: &Entry, worst_node_max: Option<Duration>, info: InfoModel) -> InfoModel {
    if let Some(fault) = library.refusal(entry) {
        return InfoModel { appraised: true, refused: Some(fault.to_string()), ..info };
    }
    let Some(cost) = library.cost(entry) else { return InfoModel { appraised: false, ..info } };
    InfoModel {
        appraised: true,
        load_ms: Some(u64::try_from(cost.load.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)),
        run_us_p50: Some(micros(cost.run_p50)),
        worst_node_us: Some(micros(cost.worst_node.time)),
        memory_bytes: Some(cost.plan_bytes),
        remarks: remarks(cost, worst_node_max),
        ..info
    }
}

fn remarks(cost: &Cost, worst_node_max: Option<Duration>) -> Vec<String> {
    let mut remarks: Vec<String> = cost.slow_node(worst_node_max).into_iter().collect();
    let goldens = &cost.goldens;
    if !goldens.all_passed() {
        let first = goldens.mismatch.as_deref().unwrap_or("no reason is known");
        remarks.push(format!("only {} of {} golden cases agree: {first}", goldens.passed, goldens.of));
    }
    remarks
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Code, Fault};
    use crate::model::verdict::{Goldens, Outcome, Verdict, WorstNode, manifest_digest};
    use crate::units::{Name, WallTime};

    const MS: Duration = Duration::from_millis(1);

    /// The library of the sources, with that verdict about its model for anomalies.
    fn library(outcome: Outcome) -> (Library, std::sync::Arc<Entry>) {
        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let library = Library::open(&models).unwrap();
        let name: Name = "kpi-anomaly".parse().unwrap();
        let entry = library.find(&name, None, None).unwrap();
        let terms = appraisal::terms(Limits::default());
        let (digest, manifest) = (entry.manifest.digest, manifest_digest(&entry));
        let verdict = Verdict { digest, manifest, terms, at: WallTime::from_millis(0), outcome };
        files::write(&files::folder_in(folder.path()), &verdict).unwrap();
        (with_verdicts(library, folder.path(), Limits::default()), entry)
    }

    fn cost() -> Cost {
        Cost {
            load: Duration::from_micros(3_272),
            preflight: MS,
            run_p50: 28 * MS,
            run_max: 96 * MS,
            worst_node: WorstNode { name: "score".into(), op: "Reduce".into(), time: 8 * MS },
            nodes: 17,
            plan_bytes: 92_000,
            rss_bytes: 33_000_000,
            goldens: Goldens { passed: 2, of: 2, mismatch: None },
        }
    }

    #[test]
    fn the_inventory_shows_what_an_appraised_model_costs_and_that_the_others_are_not() {
        let (library, entry) = library(Outcome::Accepted(cost()));
        let told = tell(&library, &entry, None, InfoModel::default());
        assert_eq!((told.appraised, told.load_ms, told.run_us_p50), (true, Some(4), Some(28_000)));
        assert_eq!((told.worst_node_us, told.memory_bytes, told.remarks.len()), (Some(8_000), Some(92_000), 0));
        let other = library.entries().find(|other| other.manifest.name != entry.manifest.name).unwrap();
        let told = tell(&library, other, None, InfoModel::default());
        assert_eq!((told.appraised, told.load_ms), (false, None));
    }

    #[test]
    fn a_slow_operator_and_a_golden_case_that_does_not_agree_are_remarked_on() {
        let goldens = Goldens { passed: 1, of: 2, mismatch: Some("b.json: off".into()) };
        let (library, entry) = library(Outcome::Accepted(Cost { goldens, ..cost() }));
        let told = tell(&library, &entry, Some(7 * MS), InfoModel::default());
        let text = told.remarks.join("\n");
        assert!(text.contains("models.worst_node_ms_max = 7") && text.contains("1 of 2"), "{text}");
        assert_eq!(tell(&library, &entry, Some(8 * MS), InfoModel::default()).remarks.len(), 1);
    }

    #[test]
    fn a_refused_model_is_not_found_any_more_and_says_why() {
        let (library, entry) = library(Outcome::Refused(Fault::new(Code::ModelShape, "it does not fit")));
        let fault = library.find(&entry.manifest.name, None, None).unwrap_err();
        assert_eq!(fault.code, Code::ModelShape);
        assert!(fault.message.contains("refused when it was appraised: it does not fit"), "{fault}");
        let told = tell(&library, &entry, None, InfoModel::default());
        assert!(told.appraised && told.refused.is_some_and(|why| why.starts_with("model.shape: ")));
    }
}
