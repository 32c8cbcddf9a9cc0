//! What if the client library panics, or that of TLS? The connection ends, as with any other error of it.
//!
//! The libraries parse what an untrusted broker sends. The agent's panic hook ends the process, which is right for its
//! own code and would let any broker restart any node; so polling the client and carrying its bytes through TLS, and
//! nothing else, are excepted from it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread will be caught here; a panic hook that ends the process must ask.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// Polls `future` to its end. A panic in it becomes an error with the panic's text; whatever it touched must be thrown
/// away then.
pub(super) async fn contained<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let outer = CONTAINED.replace(true);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        CONTAINED.set(outer);
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
                Poll::Ready(Err(text.to_owned()))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_future_and_is_told() {
        let bad = async {
            tokio::task::yield_now().await;
            assert!(panic_is_contained());
            panic!("packet id {}", 65_535);
        };
        assert_eq!(contained(bad).await, Err::<(), _>("packet id 65535".to_owned()));
        assert!(!panic_is_contained());
    }

    #[tokio::test]
    async fn nothing_else_on_the_thread_is_contained_while_the_future_waits() {
        let (ready, wait) = tokio::sync::oneshot::channel();
        let polled = tokio::spawn(async { contained(wait).await });
        tokio::task::yield_now().await;
        assert!(!panic_is_contained(), "it has been polled and waits");
        ready.send(7).unwrap();
        assert_eq!(polled.await.unwrap(), Ok(Ok(7)));
    }
}
