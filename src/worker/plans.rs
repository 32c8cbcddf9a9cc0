//! Which loaded networks are worth their memory? A cache of plans by model and shapes, under a budget in bytes.
//!
//! What a plan costs is measured on the heap while it is made. The plan unused for longest goes first.

use std::fmt;

use super::engine::{Engine, Pinned, Plan, Survey};
use super::guard;
use crate::fault::{Code, Fault};
use crate::model::Port;
use crate::tensor::Tensor;
use crate::units::Digest;

/// Most plans kept at once, whatever they cost.
pub const PLANS_MAX: usize = 32;
/// Bytes of plan expected for each byte of the ONNX file: weights may be stored as bytes but computed as floats, and are
/// packed for the kernels besides.
pub const PLAN_BYTES_PER_FILE_BYTE: u64 = 5;

/// Which plan: a model, pinned to what a request brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Digest of the ONNX file.
    pub digest: Digest,
    /// Inputs of the network, in the manifest's order.
    pub inputs: Vec<Pinned>,
    /// Outputs of the network, as the manifest declares them.
    pub outputs: Vec<Port>,
}

/// The plans that are loaded.
pub struct Plans {
    engine: Box<dyn Engine>,
    budget_bytes: u64,
    /// Heap in use, as the allocator counts it.
    used: fn() -> u64,
    /// In order of use: the last one used is the last.
    held: Vec<Held>,
}

struct Held {
    key: Key,
    plan: Box<dyn Plan>,
    bytes: u64,
}

impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plans").field("budget_bytes", &self.budget_bytes).field("held", &self.held.len()).finish()
    }
}

impl Plans {
    /// No plans yet; all together may take `budget_bytes` of what `used` counts.
    pub fn new(engine: Box<dyn Engine>, budget_bytes: u64, used: fn() -> u64) -> Self {
        Self { engine, budget_bytes, used, held: Vec::new() }
    }

    /// What all plans together may take.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// What all plans together take.
    pub fn bytes(&self) -> u64 {
        self.held.iter().map(|held| held.bytes).sum()
    }

    /// Whether the plan is loaded. It counts as used.
    pub fn touch(&mut self, key: &Key) -> bool {
        let Some(at) = self.held.iter().position(|held| held.key == *key) else { return false };
        let held = self.held.remove(at);
        self.held.push(held);
        true
    }

    /// Drops old plans until one for a file of that length is likely to fit.
    pub fn make_room(&mut self, file_bytes: u64) {
        let expected = file_bytes.saturating_mul(PLAN_BYTES_PER_FILE_BYTE);
        while !self.held.is_empty()
            && (self.held.len() >= PLANS_MAX || self.bytes().saturating_add(expected) > self.budget_bytes)
        {
            self.held.remove(0);
        }
    }

    /// Loads a plan. Others give way, so that all stay within the budget.
    ///
    /// # Errors
    /// What the engine says; `worker.memory` when this plan alone is above the budget.
    pub fn load(&mut self, key: Key, onnx: Vec<u8>) -> Result<(), Fault> {
        let before = (self.used)().saturating_sub(onnx.len() as u64);
        let engine = &self.engine;
        let (inputs, outputs) = (&key.inputs, &key.outputs);
        let plan =
            guard::catch(Code::ModelParse, "the engine cannot load the model", || engine.load(onnx, inputs, outputs))?;
        let bytes = (self.used)().saturating_sub(before);
        if bytes > self.budget_bytes {
            let text = format!(
                "the loaded model takes {bytes} bytes, the node's workers keep at most {}; use a smaller model or shape, \
                 or raise the memory for models",
                self.budget_bytes
            );
            return Err(Fault::new(Code::WorkerMemory, text));
        }
        self.held.push(Held { key, plan, bytes });
        while self.bytes() > self.budget_bytes {
            self.held.remove(0);
        }
        Ok(())
    }

    /// Computes with a loaded plan. One that panics is dropped: nobody knows what it left behind.
    ///
    /// # Errors
    /// `model.run` and what the plan says.
    pub fn run(&mut self, key: &Key, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Fault> {
        self.with(key, |plan| plan.run(inputs))
    }

    /// Computes once with a loaded plan and takes the time of every operator; with it, the bytes that the plan takes.
    ///
    /// # Errors
    /// As [`Plans::run`].
    pub fn survey(&mut self, key: &Key, inputs: Vec<Tensor>) -> Result<(Survey, u64), Fault> {
        let survey = self.with(key, |plan| plan.survey(inputs))?;
        let bytes = self.held.iter().find(|held| held.key == *key).map_or(0, |held| held.bytes);
        Ok((survey, bytes))
    }

    fn with<T>(&mut self, key: &Key, work: impl FnOnce(&dyn Plan) -> Result<T, Fault>) -> Result<T, Fault> {
        let Some(at) = self.held.iter().position(|held| held.key == *key) else {
            return Err(Fault::new(Code::ModelRun, "the model was dropped before it ran; send the job again"));
        };
        let plan = &self.held[at].plan;
        let mut returned = false;
        let outcome = guard::catch(Code::ModelRun, "the model failed while it ran", || {
            let outcome = work(plan.as_ref());
            returned = true;
            outcome
        });
        if !returned {
            self.held.remove(at);
        }
        outcome
    }

    /// Drops every plan of that model.
    pub fn forget(&mut self, digest: Digest) {
        self.held.retain(|held| held.key.digest != digest);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static USED: Cell<u64> = const { Cell::new(0) };
    }

    /// Takes a thousand bytes for each byte of the file, until dropped; the file's first byte says what it does.
    struct Fake;
    struct FakePlan {
        bytes: u64,
        acts: u8,
    }

    impl Drop for FakePlan {
        fn drop(&mut self) {
            USED.set(USED.get() - self.bytes);
        }
    }

    impl Engine for Fake {
        fn load(&self, onnx: Vec<u8>, _: &[Pinned], _: &[Port]) -> Result<Box<dyn Plan>, Fault> {
            assert!(onnx[0] != b'l', "panics at load");
            let bytes = onnx.len() as u64 * 1000;
            // What `before` is measured against counts the file itself.
            USED.set(USED.get() + bytes - onnx.len() as u64);
            Ok(Box::new(FakePlan { bytes: bytes - onnx.len() as u64, acts: onnx[0] }))
        }
    }

    impl Plan for FakePlan {
        fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Fault> {
            assert!(self.acts != b'r', "panics at run");
            Ok(inputs)
        }

        fn survey(&self, _: Vec<Tensor>) -> Result<Survey, Fault> {
            Ok(Survey::default())
        }
    }

    fn key(model: u8, length: usize) -> Key {
        let inputs = vec![Pinned { name: "x".into(), datatype: crate::tensor::DataType::Fp32, shape: vec![length] }];
        Key { digest: Digest([model; 32]), inputs, outputs: vec![] }
    }

    fn plans(budget_bytes: u64) -> Plans {
        guard::install();
        USED.set(1 << 20);
        Plans::new(Box::new(Fake), budget_bytes, || USED.get())
    }

    #[test]
    fn a_plan_is_known_by_model_and_shape() {
        let mut plans = plans(10_000);
        plans.load(key(1, 4), vec![0]).unwrap();
        assert!(plans.touch(&key(1, 4)));
        assert!(!plans.touch(&key(1, 5)));
        assert!(!plans.touch(&key(2, 4)));
    }

    #[test]
    fn the_plan_unused_for_longest_gives_way() {
        let mut plans = plans(2_500);
        plans.load(key(1, 1), vec![0]).unwrap();
        plans.load(key(2, 1), vec![0]).unwrap();
        assert!(plans.touch(&key(1, 1)));
        plans.load(key(3, 1), vec![0]).unwrap();
        assert!(plans.touch(&key(1, 1)) && plans.touch(&key(3, 1)) && !plans.touch(&key(2, 1)));
        assert!(plans.bytes() <= 2_500);
    }

    #[test]
    fn room_is_made_before_a_large_file_is_loaded() {
        let mut plans = plans(10_000);
        plans.load(key(1, 1), vec![0; 3]).unwrap();
        plans.load(key(2, 1), vec![0; 3]).unwrap();
        plans.make_room(1_000);
        assert!(!plans.touch(&key(1, 1)) && plans.touch(&key(2, 1)));
    }

    #[test]
    fn a_plan_above_the_whole_budget_is_a_fault_and_leaves_the_others() {
        let mut plans = plans(2_500);
        plans.load(key(1, 1), vec![0]).unwrap();
        let fault = plans.load(key(2, 1), vec![0; 3]).unwrap_err();
        assert_eq!(fault.code, Code::WorkerMemory);
        assert!(fault.message.contains("at most 2500"), "{fault}");
        assert!(plans.touch(&key(1, 1)));
    }

    #[test]
    fn the_number_of_plans_is_limited_whatever_they_cost() {
        let mut plans = plans(u64::MAX);
        for length in 0..PLANS_MAX + 5 {
            plans.make_room(1);
            plans.load(key(1, length), vec![0]).unwrap();
        }
        assert_eq!(plans.held.len(), PLANS_MAX);
    }

    #[test]
    fn a_panic_at_load_or_run_is_a_fault_and_the_plan_is_dropped() {
        let mut plans = plans(10_000);
        let fault = plans.load(key(1, 1), b"l".to_vec()).unwrap_err();
        assert_eq!(fault.code, Code::ModelParse);
        assert!(fault.message.contains("panics at load"), "{fault}");
        plans.load(key(2, 1), b"r".to_vec()).unwrap();
        let fault = plans.run(&key(2, 1), vec![]).unwrap_err();
        assert_eq!(fault.code, Code::ModelRun);
        assert!(!plans.touch(&key(2, 1)));
    }

    #[test]
    fn a_forgotten_model_leaves_with_all_its_shapes() {
        let mut plans = plans(10_000);
        plans.load(key(1, 1), vec![0]).unwrap();
        plans.load(key(1, 2), vec![0]).unwrap();
        plans.load(key(2, 1), vec![0]).unwrap();
        plans.forget(Digest([1; 32]));
        assert!(!plans.touch(&key(1, 1)) && !plans.touch(&key(1, 2)) && plans.touch(&key(2, 1)));
    }
}
