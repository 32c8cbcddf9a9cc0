//! Why did a worker end, and when may the next one start? Pure.

use std::time::Duration;

use super::serve::{EXIT_JAIL, EXIT_PROTOCOL, EXIT_SANDBOX, EXIT_USAGE};
use crate::fault::{Code, Fault};
use crate::sys::alloc::EXIT_MEMORY;
use crate::sys::process::Exit;

/// Exit code of a Rust process that ends by a panic.
const EXIT_PANIC: i32 = 101;

/// What the agent knows about the end before it looks at the exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The agent killed it, for this reason.
    Killed(Code),
    /// It sent something that makes no sense, and was killed for it.
    Nonsense(String),
    /// It went by itself.
    Gone,
}

/// What belongs to the sentence: the circumstances of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances<'a> {
    /// Whether it had said hello.
    pub greeted: bool,
    /// Memory limit of the item it worked on, in bytes; `None` when it was idle.
    pub memory_bytes: Option<u64>,
    /// What its plans may take, in bytes.
    pub plan_bytes: u64,
    /// The last line it wrote to stderr; empty when there was none.
    pub last_words: &'a str,
    /// Whether its cgroup has counted a kill for memory meanwhile.
    pub out_of_memory: bool,
}

impl Circumstances<'_> {
    /// Those of work that no process was at.
    pub const IDLE: Self =
        Self { greeted: true, memory_bytes: None, plan_bytes: 0, last_words: "", out_of_memory: false };
}

/// The fault that ends the item a worker was working on when it ended.
pub fn fault(cause: &Cause, exit: Exit, circumstances: Circumstances<'_>) -> Fault {
    match cause {
        Cause::Killed(code) => Fault::new(*code, killed(*code)),
        Cause::Nonsense(why) => {
            Fault::new(Code::WorkerProtocol, format!("the worker's answer made no sense and it was killed: {why}"))
        }
        Cause::Gone => gone(exit, circumstances),
    }
}

/// Sentences for what the agent kills workers for; every other code names its own reason.
fn killed(code: Code) -> String {
    if code == Code::WorkerTimeout {
        "the worker was killed because the job ran longer than limits.wall_ms; raise it, or send fewer items".to_owned()
    } else if code == Code::JobCanceled {
        "the worker was killed because the job was taken back".to_owned()
    } else if code == Code::WorkerEvicted {
        "the worker was killed because it stood stopped for longer than workers.evict_after_s".to_owned()
    } else {
        format!("the worker was killed by the agent ({code})")
    }
}

fn gone(exit: Exit, circumstances: Circumstances<'_>) -> Fault {
    let Circumstances { greeted, memory_bytes, plan_bytes, last_words, out_of_memory } = circumstances;
    let words = if last_words.is_empty() { String::new() } else { format!("; its last words: {last_words}") };
    let (code, text) = match exit {
        Exit::Code(EXIT_MEMORY) => {
            let text = match memory_bytes {
                Some(limit) => format!(
                    "the job needed more than limits.memory_bytes = {limit} beyond the loaded model, or loading needed \
                     more than that and the {plan_bytes} bytes for models together; raise the limit or use a smaller \
                     model or input"
                ),
                None => format!("an idle worker was above its {plan_bytes} bytes for models{words}"),
            };
            (Code::WorkerMemory, text)
        }
        Exit::Signal(libc::SIGKILL) if out_of_memory => {
            let text = "the kernel killed the worker because the memory of its cgroup, or of the whole node, ran out; \
                        use a smaller model or input, or raise workers.memory_mib";
            (Code::WorkerMemory, text.to_owned())
        }
        Exit::Code(code) if code == i32::from(EXIT_USAGE) || code == i32::from(EXIT_JAIL) => {
            (Code::WorkerStart, format!("the worker could not start (exit code {code}){words}"))
        }
        Exit::Code(code) if code == i32::from(EXIT_PROTOCOL) => {
            (Code::WorkerProtocol, format!("the worker did not understand the agent{words}"))
        }
        // Later it is a model's doing, whatever it exits with: its job must not go unpunished.
        Exit::Code(code) if !greeted && code == i32::from(EXIT_SANDBOX) => {
            let why = if last_words.is_empty() { "the sandbox cannot be had" } else { last_words };
            (Code::SandboxUnavailable, format!("the worker serves nobody: {why}"))
        }
        Exit::Signal(libc::SIGSYS) => {
            let text = "the worker was killed by its sandbox for a forbidden system call; do not use this model until \
                        you know why: it has probably taken the engine over";
            (Code::WorkerSandboxViolation, format!("{text}{words}"))
        }
        Exit::Code(_) | Exit::Signal(_) if !greeted => {
            (Code::WorkerStart, format!("the worker ended before it was ready ({}){words}", describe(exit)))
        }
        Exit::Code(_) | Exit::Signal(_) => {
            (Code::WorkerCrashed, format!("the worker ended ({}){words}", describe(exit)))
        }
    };
    Fault::new(code, text)
}

fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(EXIT_PANIC) => "panic, exit code 101".to_owned(),
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => match name(signal) {
            Some(name) => format!("signal {signal}, {name}"),
            None => format!("signal {signal}"),
        },
    }
}

/// What a signal means for a worker.
fn name(signal: i32) -> Option<&'static str> {
    match signal {
        libc::SIGKILL => Some("SIGKILL: by an operator, or by the kernel because memory ran out"),
        libc::SIGSEGV => Some("SIGSEGV: the engine or its stack overran"),
        libc::SIGABRT => Some("SIGABRT: the engine gave up"),
        libc::SIGBUS => Some("SIGBUS"),
        libc::SIGILL => Some("SIGILL: an instruction this processor does not have"),
        libc::SIGFPE => Some("SIGFPE"),
        libc::SIGSYS => Some("SIGSYS: a forbidden system call"),
        libc::SIGXFSZ => Some("SIGXFSZ: it tried to write a file"),
        libc::SIGTERM => Some("SIGTERM"),
        _ => None,
    }
}

/// How long to wait before a worker is started again: twice as long each time, until one has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits `first` after the first end, never longer than `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first.min(max) }
    }

    /// The worker ended by itself: how long to wait now.
    pub fn failed(&mut self) -> Duration {
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.max);
        wait
    }

    /// The worker answered: the next end is a first one again.
    pub fn answered(&mut self) {
        self.next = self.first.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_WORK: Circumstances<'_> = Circumstances {
        greeted: true,
        memory_bytes: Some(1000),
        plan_bytes: 2000,
        last_words: "",
        out_of_memory: false,
    };

    #[test]
    fn the_exit_decides_the_code_when_a_worker_goes_by_itself() {
        let code = |exit| fault(&Cause::Gone, exit, AT_WORK).code;
        assert_eq!(code(Exit::Code(EXIT_MEMORY)), Code::WorkerMemory);
        assert_eq!(code(Exit::Code(71)), Code::WorkerStart);
        assert_eq!(code(Exit::Code(76)), Code::WorkerProtocol);
        assert_eq!(code(Exit::Code(101)), Code::WorkerCrashed);
        assert_eq!(code(Exit::Code(0)), Code::WorkerCrashed);
        assert_eq!(code(Exit::Signal(11)), Code::WorkerCrashed);
        assert_eq!(code(Exit::Signal(31)), Code::WorkerSandboxViolation);
        assert_eq!(code(Exit::Code(78)), Code::WorkerCrashed, "it was in its sandbox: the model made it say so");
    }

    #[test]
    fn a_memory_fault_names_both_limits() {
        let text = fault(&Cause::Gone, Exit::Code(EXIT_MEMORY), AT_WORK).message;
        assert!(text.contains("limits.memory_bytes = 1000") && text.contains("2000 bytes for models"), "{text}");
    }

    #[test]
    fn a_crash_names_the_signal_and_the_last_words() {
        let circumstances = Circumstances { last_words: "stack overflow", ..AT_WORK };
        let text = fault(&Cause::Gone, Exit::Signal(9), circumstances).message;
        assert!(text.contains("signal 9") && text.contains("last words: stack overflow"), "{text}");
    }

    #[test]
    fn a_kill_that_the_cgroup_counted_is_a_matter_of_memory_and_another_is_not() {
        let counted = Circumstances { out_of_memory: true, ..AT_WORK };
        let fault_of = |exit, circumstances| fault(&Cause::Gone, exit, circumstances);
        let memory = fault_of(Exit::Signal(9), counted);
        assert_eq!(memory.code, Code::WorkerMemory);
        assert!(memory.message.contains("workers.memory_mib"), "{memory}");
        assert_eq!(fault_of(Exit::Signal(9), AT_WORK).code, Code::WorkerCrashed);
        assert_eq!(fault_of(Exit::Signal(11), counted).code, Code::WorkerCrashed);
    }

    #[test]
    fn an_end_before_the_greeting_is_a_failed_start() {
        let circumstances = Circumstances { greeted: false, ..AT_WORK };
        assert_eq!(fault(&Cause::Gone, Exit::Signal(9), circumstances).code, Code::WorkerStart);
        assert_eq!(fault(&Cause::Gone, Exit::Code(127), circumstances).code, Code::WorkerStart);
        assert_eq!(fault(&Cause::Gone, Exit::Code(78), circumstances).code, Code::SandboxUnavailable);
    }

    #[test]
    fn the_agents_reason_outweighs_the_exit() {
        let fault_of = |cause| fault(&cause, Exit::Signal(9), AT_WORK).code;
        assert_eq!(fault_of(Cause::Killed(Code::WorkerTimeout)), Code::WorkerTimeout);
        assert_eq!(fault_of(Cause::Killed(Code::JobCanceled)), Code::JobCanceled);
        assert_eq!(fault_of(Cause::Nonsense("x".into())), Code::WorkerProtocol);
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_starts_over_after_an_answer() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<_> = (0..4).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        backoff.answered();
        assert_eq!(backoff.failed().as_millis(), 100);
    }
}
