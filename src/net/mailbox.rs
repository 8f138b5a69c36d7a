//! The way back to the loop from other threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::{Poll, Waker};

use super::tokens;
use crate::agent::run::RunEvent;
use crate::gateway::Report;
use crate::gateway::effect::RunNo;
use crate::gateway::http::{HttpRequest, HttpResponse};
use crate::runtime::metrics;

/// Posts that may wait for the loop; a pool thread waits while there are more, the control port answers 503.
pub const POSTS_MAX: usize = 1024;
/// Posts taken per turn, so that a burst of finished jobs does not hold up the sockets.
pub const POSTS_PER_TURN: usize = 256;

/// What other threads tell the loop.
pub enum Post {
    /// A job is finished.
    Report(Box<Report>),
    /// A run tells what happens in it.
    Told(RunNo, Box<RunEvent>),
    /// The control port was asked something.
    Ask(Box<Question>),
}

/// A request of the control port, and where its answer goes.
pub struct Question {
    /// What was asked.
    pub request: HttpRequest,
    /// Takes the answer; it holds one, so answering never waits.
    pub answer: Sender<HttpResponse>,
}

/// The way back to the loop. Sending and waking are one act, so neither can be forgotten.
#[derive(Clone)]
pub struct LoopSender {
    posts: Sender<Post>,
    waker: Arc<Waker>,
    // True while the loop has been woken and has not looked yet, which saves a system call for each further post.
    woken: Arc<AtomicBool>,
}

impl LoopSender {
    /// Hands a report over; waits while the loop is [`POSTS_MAX`] behind. After the loop has ended nobody is left to
    /// care, and the report is dropped.
    pub fn report(&self, report: Report) {
        if self.posts.send(Post::Report(Box::new(report))).is_ok() {
            self.wake();
        }
    }

    /// Tells what happens in a run; waits while the loop is [`POSTS_MAX`] behind.
    pub fn told(&self, no: RunNo, event: RunEvent) {
        if self.posts.send(Post::Told(no, Box::new(event))).is_ok() {
            self.wake();
        }
    }

    /// Hands a question over.
    ///
    /// # Errors
    /// Gives it back when the loop is [`POSTS_MAX`] behind or has ended.
    pub fn ask(&self, question: Question) -> Result<(), Box<Question>> {
        match self.posts.try_send(Post::Ask(Box::new(question))) {
            Ok(()) => {
                self.wake();
                Ok(())
            }
            Err(TrySendError::Full(Post::Ask(q)) | TrySendError::Disconnected(Post::Ask(q))) => Err(q),
            // What comes back is what was sent.
            Err(_) => Ok(()),
        }
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            log::error!("cannot wake the loop: {error}");
        }
    }
}

/// The loop's end.
pub struct Mailbox {
    posts: Receiver<Post>,
    woken: Arc<AtomicBool>,
    /// The last turn left some.
    leftover: bool,
}

impl Mailbox {
    /// A mailbox that wakes `poll`.
    ///
    /// # Errors
    /// The operating system's refusal of a waker.
    pub fn new(poll: &Poll) -> io::Result<(Mailbox, LoopSender)> {
        let waker = Arc::new(Waker::new(poll.registry(), tokens::WAKER)?);
        let woken = Arc::new(AtomicBool::new(false));
        let (tx, rx) = bounded(POSTS_MAX);
        let mailbox = Mailbox { posts: rx, woken: Arc::clone(&woken), leftover: false };
        Ok((mailbox, LoopSender { posts: tx, waker, woken }))
    }

    /// Whether posts may be there without a further wake.
    pub fn has_leftover(&self) -> bool {
        self.leftover
    }

    /// Begins a turn: says how many posts may be taken now.
    pub fn begin_turn(&mut self) -> usize {
        // Cleared before looking: a post that comes after this wakes again.
        if !self.woken.swap(false, Ordering::AcqRel) && !self.leftover {
            return 0;
        }
        let waiting = self.posts.len();
        metrics::REPORT_DEPTH.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.leftover = waiting > POSTS_PER_TURN;
        waiting.min(POSTS_PER_TURN)
    }

    /// The next post, oldest first.
    pub fn take(&mut self) -> Option<Post> {
        self.posts.try_recv().ok()
    }
}
