//! What does a loaded network cost on this core? Runs it a few times and takes the CPU time of each run and operator.
//!
//! CPU time, because a worker runs only when nobody else wants its core: how long it waits says nothing about the model.

use std::time::Duration;

use super::engine::{Node, Survey};
use super::plans::{Key, Plans};
use super::protocol::appraise::{Appraised, RUNS_MAX};
use crate::fault::Fault;
use crate::sys::clock;
use crate::tensor::Tensor;

/// Runs in which operators are timed one by one; of each operator the shortest time counts, because one run may be
/// disturbed.
const SURVEYS: usize = 3;
/// Runs that are made however long they take.
const RUNS_MIN: usize = 3;

/// Measures a loaded plan: up to `runs` runs, fewer once they have used `cpu`, then the operators.
///
/// # Errors
/// What the plan says.
pub fn measure(
    plans: &mut Plans,
    key: &Key,
    inputs: &[Tensor],
    token: u64,
    (runs, cpu): (usize, Duration),
) -> Result<Appraised, Fault> {
    let mut times = Vec::new();
    let mut used = Duration::ZERO;
    while times.len() < RUNS_MIN || (times.len() < runs.min(RUNS_MAX) && used < cpu) {
        let inputs = inputs.to_vec();
        let before = clock::own_cpu();
        plans.run(key, inputs)?;
        let time = clock::own_cpu().saturating_sub(before);
        used = used.saturating_add(time);
        times.push(time);
    }
    let (mut survey, plan_bytes) = plans.survey(key, inputs.to_vec())?;
    for _ in 1..SURVEYS {
        let (again, _) = plans.survey(key, inputs.to_vec())?;
        shorten(&mut survey, &again);
    }
    let nodes = survey.nodes.len();
    let worst = survey.nodes.into_iter().max_by_key(|node| node.cpu).unwrap_or_default();
    Ok(Appraised {
        token,
        preflight: survey.preflight,
        plan_bytes,
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
        worst_name: worst.name,
        worst_op: worst.op,
        worst: worst.cpu,
        runs: times,
    })
}

/// Keeps the shorter time of each operator. A plan always runs its operators in the same order.
fn shorten(survey: &mut Survey, again: &Survey) {
    let shorter = |(node, again): (&mut Node, &Node)| node.cpu = node.cpu.min(again.cpu);
    survey.nodes.iter_mut().zip(&again.nodes).for_each(shorter);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::fault::Code;
    use crate::model::Port;
    use crate::units::Digest;
    use crate::worker::engine::{Engine, Pinned, Plan};

    const MS: Duration = Duration::from_millis(1);

    /// Two operators; the first is disturbed in the first survey, so the second is the worst. Fails when told to.
    struct Fake {
        fails: bool,
        calls: Rc<Cell<(usize, usize)>>,
    }

    impl Engine for Fake {
        fn load(&self, _: Vec<u8>, _: &[Pinned], _: &[Port]) -> Result<Box<dyn Plan>, Fault> {
            Ok(Box::new(Self { fails: self.fails, calls: Rc::clone(&self.calls) }))
        }
    }

    impl Plan for Fake {
        fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Fault> {
            let (runs, surveys) = self.calls.get();
            self.calls.set((runs + 1, surveys));
            if self.fails { Err(Fault::new(Code::ModelRun, "told to")) } else { Ok(inputs) }
        }

        fn survey(&self, _: Vec<Tensor>) -> Result<Survey, Fault> {
            let (runs, surveys) = self.calls.get();
            self.calls.set((runs, surveys + 1));
            let node = |name: &str, cpu| Node { name: name.into(), op: "Op".into(), cpu };
            let first = if surveys == 0 { 50 * MS } else { MS };
            Ok(Survey { preflight: MS, nodes: vec![node("first", first), node("second", 4 * MS)] })
        }
    }

    fn measured(fails: bool, runs: usize, cpu: Duration) -> (Result<Appraised, Fault>, (usize, usize)) {
        let calls = Rc::new(Cell::new((0, 0)));
        let mut plans = Plans::new(Box::new(Fake { fails, calls: Rc::clone(&calls) }), u64::MAX, || 0);
        let key = Key { digest: Digest([1; 32]), inputs: vec![], outputs: vec![] };
        plans.load(key.clone(), vec![]).unwrap();
        let outcome = measure(&mut plans, &key, &[], 7, (runs, cpu));
        (outcome, calls.get())
    }

    #[test]
    fn the_worst_operator_is_the_one_that_is_slow_every_time() {
        let (outcome, calls) = measured(false, 10, Duration::from_secs(60));
        let appraised = outcome.unwrap();
        assert_eq!((appraised.worst_name.as_str(), appraised.worst, appraised.nodes), ("second", 4 * MS, 2));
        assert_eq!((appraised.runs.len(), calls), (10, (10, SURVEYS)));
        assert_eq!((appraised.token, appraised.preflight), (7, MS));
    }

    #[test]
    fn runs_end_with_their_time_and_never_exceed_what_a_frame_tells() {
        assert_eq!(measured(false, 50, Duration::ZERO).0.unwrap().runs.len(), RUNS_MIN);
        assert_eq!(measured(false, usize::MAX, Duration::MAX).0.unwrap().runs.len(), RUNS_MAX);
    }

    #[test]
    fn a_network_that_fails_has_no_cost() {
        let (outcome, calls) = measured(true, 10, Duration::MAX);
        assert_eq!((outcome.unwrap_err().code, calls), (Code::ModelRun, (1, 0)));
    }
}
