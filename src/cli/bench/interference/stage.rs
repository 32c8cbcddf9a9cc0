//! How is one method played? The RAN emulator and the workers on the same cores, for one span of load.
//!
//! The RAN is the same for every method: the same threads, memory, calibration and curve, and its load is always told,
//! to the sentinel or to a socket that nobody reads.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::crew::{Class, Crew, Model, Plan};
use super::super::latency::Latencies;
use super::judge::{Method, Sample};
use crate::cli::failure::{Class as FailureClass, Failure};
use crate::governor::{Policy, guard};
use crate::load::fusion::{Fusion, Trust};
use crate::load::push::Push;
use crate::sentinel::{self, Parts, Report, Sentinel, YieldClass};
use crate::sim::ran::curve::Curve;
use crate::sim::ran::radio::{self, Target};
use crate::sim::ran::{Play, Ran};
use crate::sys::clock;
use crate::sys::signal::{self, Seen};
use crate::units::{CellId, SourceId, Utilization};
use crate::worker::gate::Gate;

/// The load is told again after this.
const REPEAT: Duration = Duration::from_millis(20);
/// Age at which it is not believed any more.
const FRESHNESS: Duration = Duration::from_millis(100);
/// Load in percent at which workers stop, and below which they may start. The curve jumps from below 25 to 50 or more.
const BUSY_ABOVE: u8 = 40;
const IDLE_BELOW: u8 = 30;
/// Quiet for so long is a trough: twenty slots of a millisecond.
const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_MAX: Duration = Duration::from_millis(100);
const FLAP_WINDOW: Duration = Duration::from_millis(50);
/// As in the agent's defaults.
const SIGNAL_AGAIN: Duration = Duration::from_millis(50);
/// A worker must not be killed because the machine stalls: its end would end the bench.
const CONFIRM_KILL: Duration = Duration::from_secs(60);
/// Longest wait for the workers to stand still between two methods.
const STILL_MAX: Duration = Duration::from_secs(30);
/// Time between two looks at what the sentinel reports.
const LOOK: Duration = Duration::from_millis(100);

/// What is played.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// The load.
    pub(super) curve: Curve,
    /// How long.
    pub(super) lasting: Duration,
    /// Whether missed deadlines are told to the sentinel.
    pub(super) tells_late: bool,
    /// SCHED_FIFO priority of the sentinel.
    pub(super) sentinel_priority: Option<u8>,
}

/// The RAN, and the workers beside it.
#[derive(Debug)]
pub(super) struct Stage {
    /// `None` only while it plays.
    ran: Option<Ran>,
    /// As Neap's workers are; stopped between two methods.
    idle: Crew,
    /// The same inference as an ordinary process; stopped between two methods.
    nice0: Crew,
    /// Takes the load where no sentinel does; never read, so it fills and drops.
    sink: UdpSocket,
    /// What the sentinel did in all rounds.
    pub(super) yields: Yields,
}

/// What the sentinel did.
#[derive(Clone, Debug, Default)]
pub(super) struct Yields {
    /// How it was scheduled.
    pub(super) class: Option<YieldClass>,
    /// Load's stamp to confirmed stop.
    pub(super) latencies: Latencies,
    /// Reports that were lost.
    pub(super) lost: u64,
}

impl Stage {
    /// Takes the RAN and starts the workers on its cores; they stand still until they are wanted.
    ///
    /// # Errors
    /// When a worker cannot be started, or there is no socket.
    pub(super) fn new(ran: Ran, model: &Model) -> Result<Self, Failure> {
        let cores = &ran.settings().cores.clone();
        let crew = |class| {
            let crew = Crew::start(&Plan { model, class, cores, stamps: false })?;
            stand_still(&crew)?;
            Ok::<_, Failure>(crew)
        };
        // One after the other: the ordinary one would keep the other from its first inference.
        let (idle, nice0) = (crew(Class::Idle)?, crew(Class::Nice0)?);
        let sink = UdpSocket::bind("127.0.0.1:0").map_err(|error| Failure::io("cannot make a UDP socket", &error))?;
        Ok(Self { ran: Some(ran), idle, nice0, sink, yields: Yields::default() })
    }

    /// Plays a scene with one method; the slot times are added to `times`.
    ///
    /// # Errors
    /// When a worker has ended, or does not stand still afterwards.
    pub(super) fn play(&mut self, method: Method, scene: &Scene, times: &mut Latencies) -> Result<Sample, Failure> {
        let before = self.inferences(method);
        let sample = match method {
            Method::None => self.run(scene, self.sink_address()?, None)?,
            Method::SchedIdle | Method::Nice0 => {
                let crew = if method == Method::Nice0 { &self.nice0 } else { &self.idle };
                go_on(crew)?;
                let played = self.run(scene, self.sink_address()?, None);
                // Whatever came of it: no worker may go on beside the next method.
                stand_still(if method == Method::Nice0 { &self.nice0 } else { &self.idle })?;
                played?
            }
            Method::Neap => {
                let watched = Watched::start(&self.idle, scene.sentinel_priority)?;
                self.yields.class = Some(watched.sentinel.class());
                let played = self.run(scene, watched.address, Some(&watched.sentinel));
                self.yields.lost += watched.sentinel.overflowed();
                watched.stop();
                stand_still(&self.idle)?;
                played?
            }
        };
        self.idle.check()?;
        self.nice0.check()?;
        sample.account.time_counts().into_iter().for_each(|(us, count)| {
            (0..count).for_each(|_| times.record(Duration::from_secs_f64(us / 1e6)));
        });
        let time = sample.account.time();
        Ok(Sample {
            slots: sample.account.slots,
            missed: sample.account.missed,
            p99_us: time.p99_us,
            p999_us: time.p999_us,
            inferences: self.inferences(method).saturating_sub(before),
        })
    }

    fn run(
        &mut self,
        scene: &Scene,
        address: SocketAddr,
        sentinel: Option<&Sentinel>,
    ) -> Result<crate::sim::ran::Outcome, Failure> {
        let lost = || Failure::new(FailureClass::Software, "the RAN emulator did not come back from an earlier round");
        let (target, tells_late) = (Target::Udp(address), scene.tells_late);
        let radio = radio::Settings { target, cell: CellId(1), repeat: REPEAT, tells_late };
        let play = Play { curve: scene.curve.clone(), lasting: scene.lasting, radio: Some(radio) };
        let running = self.ran.take().ok_or_else(lost)?.start(play)?;
        loop {
            let left = running.end().since(clock::now());
            thread::sleep(left.min(LOOK));
            while let Some(report) = sentinel.and_then(|sentinel| sentinel.reports().pop()) {
                self.yields.note(&report);
            }
            if left.is_zero() {
                break;
            }
        }
        let (ran, outcome) = running.finish();
        self.ran = Some(ran);
        Ok(outcome)
    }

    fn inferences(&self, method: Method) -> u64 {
        let crew = match method {
            Method::None => return 0,
            Method::Neap | Method::SchedIdle => &self.idle,
            Method::Nice0 => &self.nice0,
        };
        crew.members.iter().map(|member| member.page.inferences()).sum()
    }

    fn sink_address(&self) -> Result<SocketAddr, Failure> {
        self.sink.local_addr().map_err(|error| Failure::io("cannot tell the address of a socket", &error))
    }
}

impl Yields {
    fn note(&mut self, report: &Report) {
        match report {
            Report::Yield(record) => self.latencies.record(record.total()),
            Report::Mode { .. }
            | Report::Resumed { .. }
            | Report::Load { .. }
            | Report::Guard(_)
            | Report::Killed { .. } => {}
        }
    }
}

/// A sentinel over a crew, as in the agent.
struct Watched {
    sentinel: Sentinel,
    gate: Arc<Gate>,
    slots: usize,
    /// Where its source listens.
    address: SocketAddr,
}

impl Watched {
    /// Puts the crew, which must stand still, into a gate, and starts the sentinel over it.
    fn start(crew: &Crew, priority: Option<u8>) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(FailureClass::Software, error.to_string());
        let source = Push::udp(SourceId(0), ([127, 0, 0, 1], 0).into()).map_err(|error| failed(&error))?;
        let nowhere = || failed(&"the load source of the bench does not tell its port");
        let address = source.udp_address().ok_or_else(nowhere)?;
        let parts = Parts {
            policy: policy(crew.members.len())?,
            guard: guard::Settings::off(),
            sources: vec![Box::new(source)],
            fusion: Fusion::new(&[Trust { freshness: FRESHNESS, required: true, planning: false }]),
            grace: FRESHNESS,
            priority,
            signal_again: SIGNAL_AGAIN,
            confirm_kill: CONFIRM_KILL,
        };
        let gate = Gate::new();
        let sentinel = sentinel::start_with(parts, Arc::clone(&gate)).map_err(|error| failed(&error))?;
        for (slot, member) in crew.members.iter().enumerate() {
            gate.fill(slot, member.pid);
        }
        sentinel.worker_changed();
        Ok(Self { sentinel, gate, slots: crew.members.len(), address })
    }

    /// Stops the workers and ends the sentinel.
    fn stop(self) {
        self.sentinel.stop();
        (0..self.slots).for_each(|slot| self.gate.clear(slot));
    }
}

fn policy(workers: usize) -> Result<Policy, Failure> {
    let wrong = || Failure::new(FailureClass::Software, "a limit of the bench is out of range; report this");
    let percent = |value| Utilization::from_percent(value).ok_or_else(wrong);
    Ok(Policy {
        workers: u8::try_from(workers).map_err(|_| wrong())?,
        busy_above: percent(BUSY_ABOVE)?,
        idle_below: percent(IDLE_BELOW)?,
        settle: SETTLE,
        settle_max: SETTLE_MAX,
        flap_window: FLAP_WINDOW,
        raise_every: Duration::ZERO,
    })
}

fn go_on(crew: &Crew) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io("cannot continue a worker", &error);
    crew.members.iter().try_for_each(|member| signal::continue_process(member.pid)).map_err(failed)
}

/// Stops the workers and waits until the kernel says that they stand.
fn stand_still(crew: &Crew) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io("cannot stop a worker", &error);
    let until = clock::now().after(STILL_MAX);
    for member in &crew.members {
        signal::stop_process(member.pid).map_err(failed)?;
        while signal::poll_stopped(member.pid).map_err(failed)? == Seen::Running {
            if clock::now() >= until {
                let text = format!("the worker on core {} has not stopped within {STILL_MAX:?}", member.core);
                return Err(Failure::new(FailureClass::TemporaryFailure, text));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}
