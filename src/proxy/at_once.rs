//! Callbacks that do not wait.
//!
//! Pingora's callbacks are asynchronous, and each that is called puts a future of its own on the heap, with all
//! that it was given. The callbacks declared here have done their work when they return. The type of their
//! future after a success has no size, so that its box takes no memory.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::task::Poll;

use pingora::Result;

/// Result of a callback, as Pingora wants it.
pub(super) type Done<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// Does the work of a callback now.
pub(super) fn done<'f>(work: impl FnOnce() -> Result<()>) -> Done<'f, Result<()>> {
    match work() {
        Ok(()) => Box::pin(poll_fn(|_cx| Poll::Ready(Ok(())))),
        Err(error) => Box::pin(ready(Err(error))),
    }
}

/// Declares callbacks that do not wait, with the lifetimes that Pingora's declarations have: one for each
/// reference they are given, of which the first is that of `self`.
macro_rules! at_once {
    ($($(#[$note:meta])* fn $name:ident<$own:lifetime $(, $given:lifetime)*>(
        $this:ident $(, $argument:ident: $kind:ty)* $(,)?
    ) -> Result<()> $work:block)*) => {$(
        $(#[$note])*
        fn $name<$own $(, $given)*, 'f>(
            &$own $this $(, $argument: $kind)*
        ) -> $crate::proxy::at_once::Done<'f, Result<()>>
        where
            $own: 'f,
            $($given: 'f,)*
            Self: 'f,
        {
            $crate::proxy::at_once::done(move || $work)
        }
    )*};
}

pub(super) use at_once;

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use pingora::{Error, ErrorType};

    use super::*;

    #[test]
    fn a_callback_has_done_its_work_when_it_returns() {
        let mut calls = 0;
        let fine = done(|| {
            calls += 1;
            Ok(())
        });
        assert_eq!(size_of_val(&*fine), 0);
        assert!(fine.now_or_never().is_some_and(|result| result.is_ok()));
        assert_eq!(calls, 1);
        let failed = done(|| Error::e_explain(ErrorType::InternalError, "a reason")).now_or_never();
        let error = failed.unwrap().unwrap_err();
        assert_eq!(*error.etype(), ErrorType::InternalError);
    }
}
