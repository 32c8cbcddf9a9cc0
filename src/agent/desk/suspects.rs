//! Which models do not even load? They are quarantined, so that they take no more troughs.

use std::collections::{BTreeMap, BTreeSet};

use super::Desk;
use crate::fault::{Code, Fault};
use crate::jobs::job::Limits;
use crate::model::Manifest;
use crate::units::Digest;

/// A model that failed to load this often is refused until its digest changes.
const FAILURES_MAX: u32 = 3;

/// What is known of models, by digest; the library bounds how many there are.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    failures: BTreeMap<Digest, u32>,
    proven: BTreeSet<Digest>,
}

impl Suspects {
    /// Refuses a model that is in quarantine.
    pub(super) fn admit(&self, manifest: &Manifest) -> Result<(), Fault> {
        if self.failures.get(&manifest.digest).is_none_or(|failures| *failures < FAILURES_MAX) {
            return Ok(());
        }
        let text = format!(
            "model {} failed to load {FAILURES_MAX} times; replace its file {} ({}) and reload",
            manifest.name, manifest.file, manifest.digest
        );
        Err(Fault::new(Code::ModelQuarantined, text))
    }

    /// It gave a result: whatever fails from now on is the request's fault.
    pub(super) fn ran(&mut self, digest: Digest) {
        self.failures.remove(&digest);
        self.proven.insert(digest);
    }

    /// It ended an item with that code.
    pub(super) fn failed(&mut self, manifest: &Manifest, code: Code) {
        // A model with open dimensions may refuse a shape and serve another: no stranger shall lock it out for others.
        let shape_is_open = manifest.inputs.iter().any(|port| port.shape.contains(&None));
        let is_the_models = matches!(
            code,
            Code::ModelParse
                | Code::ModelUnsupportedOp
                | Code::ModelExternalData
                | Code::ModelOpset
                | Code::ModelGraph
                | Code::ModelName
                | Code::ModelDatatype
        ) || (matches!(code, Code::ModelShape | Code::ModelAttribute | Code::ModelTooLarge)
            && !shape_is_open);
        if is_the_models {
            self.count(manifest.digest);
        }
    }

    /// It met a limit before it gave its first result. Where the limit was narrower than jobs usually get, or the shape
    /// was the request's choice, the request is to blame.
    fn overran(&mut self, manifest: &Manifest, code: Code, given: &Limits, usual: &Limits) {
        let shape_is_open = manifest.inputs.iter().any(|port| port.shape.contains(&None));
        // Whatever else ends a worker may have come from outside.
        let was_ample = (code == Code::WorkerMemory && given.memory_bytes >= usual.memory_bytes)
            || (code == Code::WorkerTimeout && given.wall >= usual.wall);
        if was_ample && !shape_is_open {
            self.count(manifest.digest);
        }
    }

    fn count(&mut self, digest: Digest) {
        if !self.proven.contains(&digest) {
            *self.failures.entry(digest).or_default() += 1;
        }
    }
}

impl Desk {
    /// The worker of a place was ended, by that code, over what it ran: that counts against its model if it has never
    /// given a result.
    pub(super) fn suspect(&mut self, slot: usize, code: Code) {
        let Some(run) = self.bench.places[slot].run.as_ref().filter(|run| run.bodies.is_empty()) else { return };
        let Some(job) = self.jobs.get_open(&run.job) else { return };
        self.suspects.overran(&run.model.manifest, code, &job.limits, &self.settings.limits.defaults);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::manifest::parse;

    fn model(shape: &str) -> Manifest {
        let digest = "ab".repeat(32);
        let text = format!(
            "name = \"m\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
             digest = \"sha256:{digest}\"\ninputs = [{{ name = \"x\", datatype = \"FP32\", shape = {shape} }}]\n\
             outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n"
        );
        parse(&text).unwrap()
    }

    fn after(shape: &str, codes: &[Code]) -> Result<(), Fault> {
        let (model, mut suspects) = (model(shape), Suspects::default());
        codes.iter().for_each(|code| suspects.failed(&model, *code));
        suspects.admit(&model)
    }

    #[test]
    fn three_failures_to_load_are_the_end_and_two_are_not() {
        assert!(after("[1]", &[Code::ModelParse; 2]).is_ok());
        let fault = after("[1]", &[Code::ModelParse, Code::ModelShape, Code::ModelUnsupportedOp]).unwrap_err();
        assert_eq!(fault.code, Code::ModelQuarantined);
        assert!(fault.message.contains("m.onnx") && fault.message.contains("3 times"), "{fault}");
        assert!(after("[1]", &[Code::ModelRun; 9]).is_ok(), "it loaded");
    }

    #[test]
    fn limits_that_were_ample_count_and_narrow_ones_or_open_shapes_do_not() {
        let usual = Limits { wall: Duration::from_secs(60), memory_bytes: 1000, attempts: 1, output_bytes: 1000 };
        let after = |shape: &str, code: Code, given: &Limits| {
            let (model, mut suspects) = (model(shape), Suspects::default());
            (0..3).for_each(|_| suspects.overran(&model, code, given, &usual));
            suspects.admit(&model).is_err()
        };
        for code in [Code::WorkerMemory, Code::WorkerTimeout] {
            assert!(after("[1]", code, &usual));
            assert!(!after("[-1]", code, &usual));
            let narrow = Limits { wall: Duration::from_secs(59), memory_bytes: 999, ..usual };
            assert!(!after("[1]", code, &narrow));
        }
        assert!(!after("[1]", Code::WorkerCrashed, &usual), "an operator may have killed it");
    }

    #[test]
    fn requests_that_do_not_fit_lock_no_model_out() {
        assert!(after("[-1]", &[Code::ModelShape; 9]).is_ok());
        let (model, mut suspects) = (model("[1]"), Suspects::default());
        suspects.ran(model.digest);
        (0..9).for_each(|_| suspects.failed(&model, Code::ModelParse));
        assert!(suspects.admit(&model).is_ok());
    }
}
