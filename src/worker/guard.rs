//! What if somebody else's code panics? Catches it and says what and where, in one quiet line.
//!
//! Only panics: an abort, a stack overflow or an endless loop ends the process, or the agent ends it.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::path::Path;

use crate::fault::{Code, Fault};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps panics inside [`catch`] off stderr; all others are reported as before.
pub fn install() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if INSIDE.get() {
            CAUGHT.set(Some(describe(panic)));
        } else {
            before(panic);
        }
    }));
}

/// Does `work`; a panic becomes a fault of that code, whose sentence begins with `what`.
///
/// The caller throws away whatever `work` may have left half changed.
///
/// # Errors
/// Those of `work`, and the one that a panic becomes.
pub fn catch<T>(code: Code, what: &str, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    INSIDE.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(false);
    outcome.unwrap_or_else(|_| {
        let text = CAUGHT.take().unwrap_or_else(|| "no text".to_owned());
        Err(Fault::new(code, format!("{what}: panic: {text}")))
    })
}

/// Text and place of a panic; of the path only the file's name, because the rest is the build machine's business.
fn describe(panic: &PanicHookInfo<'_>) -> String {
    let text = panic.payload_as_str().unwrap_or("no text");
    let place = panic.location().map(|place| {
        let file = Path::new(place.file()).file_name().unwrap_or_default().to_string_lossy();
        format!(" ({file}:{})", place.line())
    });
    format!("{}{}", &text[..text.floor_char_boundary(256)], place.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_fault_with_its_text_and_file_name() {
        install();
        let divisor = std::hint::black_box(0);
        let fault = catch(Code::ModelRun, "the model failed", || Ok(1 / divisor)).unwrap_err();
        assert_eq!(fault.code, Code::ModelRun);
        assert!(fault.message.contains("the model failed: panic: attempt to divide by zero (guard.rs:"), "{fault}");
    }

    #[test]
    fn faults_and_results_pass_through() {
        assert_eq!(catch(Code::ModelRun, "x", || Ok(3)), Ok(3));
        let fault = Fault::new(Code::ModelParse, "bad");
        assert_eq!(catch::<()>(Code::ModelRun, "x", || Err(fault.clone())), Err(fault));
    }
}
