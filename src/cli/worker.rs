//! A worker process: `neap worker`, started by the agent with a socket as standard input; and the test of its sandbox.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::failure::{Class, Failure};
use super::out::{Out, Tone};
use crate::worker::jail::selftest::{self, Finding};
use crate::worker::jail::{self, achieved::Achieved};
use crate::worker::serve;

/// Arguments of `neap worker`; the worker reads its own itself, so that nothing runs before it has given up its rights.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  neap worker --selftest-sandbox          does the sandbox of this machine hold?
  neap worker --selftest-sandbox --json   one JSON object

Workers that are locked in try everything that is forbidden to them, each thing in a process of its own, before and
after a panic. The exit code is 0 when all was denied, and 77 when anything was allowed.")]
pub(super) struct Args {
    /// Tries everything that is forbidden to a worker, and says what was denied
    #[arg(long)]
    selftest_sandbox: bool,
    /// One JSON object
    #[arg(long, requires = "selftest_sandbox")]
    json: bool,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<std::ffi::OsString>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    if !args.selftest_sandbox {
        return serve::main(args.arguments.clone());
    }
    match test(args.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn test(as_json: bool) -> Result<(), Failure> {
    let out = Out::stdout();
    let exe = Path::new("/proc/self/exe");
    let policy = jail::Policy { level: jail::Level::BestEffort, ..jail::Policy::default() };
    let sandbox = selftest::probe(exe, policy).map_err(|why| Failure::new(Class::Software, why))?;
    let findings =
        selftest::run(exe, policy).map_err(|error| Failure::io("cannot start a worker to try with", &error))?;
    if as_json {
        out.json(&report(&sandbox, &findings))?
    } else {
        tell(&out, &sandbox, &findings)?
    }
    match findings.iter().all(|finding| finding.outcome.is_denied()) {
        true => Ok(()),
        false => Err(Failure::told(Class::NoPermission)),
    }
}

fn tell(out: &Out, sandbox: &Achieved, findings: &[Finding]) -> Result<(), Failure> {
    for item in sandbox.items() {
        out.line(&item.to_string())?;
    }
    for Finding { name, after_panic, outcome } in findings {
        let tone = if outcome.is_denied() { Tone::Good } else { Tone::Bad };
        let when = if *after_panic { " after a panic" } else { "" };
        out.line(&format!("{name}{when}: {}", out.paint(tone, &outcome.to_string())))?;
    }
    let denied = findings.iter().filter(|finding| finding.outcome.is_denied()).count();
    let micros = sandbox.set_up.as_micros();
    out.line(&format!("{denied} of {} attempts were denied; entering the sandbox took {micros} µs", findings.len()))
}

fn report(sandbox: &Achieved, findings: &[Finding]) -> serde_json::Value {
    let items = sandbox.items().into_iter().map(
        |item| json!({"item": item.name, "given": item.given.as_str(), "detail": item.detail, "remedy": item.remedy}),
    );
    let attempts = findings.iter().map(|finding| {
        let Finding { name, after_panic, outcome } = finding;
        let denied = outcome.is_denied();
        json!({"attempt": name, "after_panic": after_panic, "denied": denied, "text": outcome.to_string()})
    });
    json!({
        "strength": sandbox.strength().as_str(),
        "landlock_abi": sandbox.landlock_abi,
        "uid": sandbox.uid,
        "set_up_us": u64::try_from(sandbox.set_up.as_micros()).unwrap_or(u64::MAX),
        "warm_up_us": u64::try_from(sandbox.warm_up.as_micros()).unwrap_or(u64::MAX),
        "items": items.collect::<Vec<_>>(),
        "attempts": attempts.collect::<Vec<_>>(),
    })
}
