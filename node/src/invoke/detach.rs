//! A future that its caller drives for as long as it wants to, and that goes on without it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::telemetry::in_this_transaction;

/// Runs `F` where it is awaited, so that no other task need be woken for its outcome. Dropped before its end, it goes on in a
/// task of its own, which `tasks` counts.
pub(super) struct DetachOnDrop<F: Future<Output: Send> + Send + 'static> {
    /// `None` once it has ended.
    future: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F: Future<Output: Send> + Send + 'static> DetachOnDrop<F> {
    pub fn new(future: F, tasks: &TaskTracker) -> Self {
        Self { future: Some(Box::pin(future)), tasks: tasks.clone() }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for DetachOnDrop<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out meanwhile: one that panics has ended.
        let Some(mut future) = self.future.take() else { return Poll::Pending };
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.future = Some(future);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for DetachOnDrop<F> {
    fn drop(&mut self) {
        // Without a runtime everything is over.
        if let Some(future) = self.future.take()
            && let Ok(runtime) = Handle::try_current()
        {
            self.tasks.spawn_on(in_this_transaction(future), &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_its_caller_gives_up_goes_on_and_is_counted() {
        let tasks = TaskTracker::new();
        let (go, gone) = oneshot::channel::<()>();
        let (say, said) = oneshot::channel();
        let mut work = Box::pin(DetachOnDrop::new(
            async move {
                gone.await.expect("told to go on");
                say.send(()).expect("heard");
            },
            &tasks,
        ));
        assert!(futures_util::poll!(&mut work).is_pending());
        assert_eq!(tasks.len(), 0, "its caller drives it");
        drop(work);
        assert_eq!(tasks.len(), 1);
        go.send(()).expect("it waits");
        said.await.expect("it went on to its end");
    }

    #[tokio::test]
    async fn what_has_ended_leaves_nothing_behind() {
        let tasks = TaskTracker::new();
        let mut work = Box::pin(DetachOnDrop::new(async { 7 }, &tasks));
        assert_eq!(work.as_mut().await, 7);
        drop(work);
        assert!(tasks.is_empty());
    }
}
