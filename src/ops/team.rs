//! Threads that stay awake for a series of short parallel operations.
//!
//! A token of a small model takes some hundred parallel operations of 0.1 ms. Threads that go to sleep between them have to be
//! woken each time, which takes as long as the operation. Within [`with`] the pool's other threads wait for the next operation in
//! a loop instead, and [`run`] hands it to them through two counters.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Low bits of the state: how many threads have entered the operation. Above them: whether it is open, and its number.
const ENTERED: usize = 0xffff;
const OPEN: usize = 0x1_0000;
const NEXT: usize = 0x2_0000;

/// How long a thread waits without giving its processor to others.
const AWAKE: Duration = Duration::from_micros(500);

/// An operation, on the stack of the thread that runs it.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    count: usize,
    next: AtomicUsize,
    left: AtomicUsize,
}

impl Job<'_> {
    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return;
            }
            (self.task)(index);
        }
    }
}

#[derive(Default)]
struct Team {
    state: AtomicUsize,
    job: AtomicPtr<()>,
    dissolved: AtomicBool,
}

thread_local! {
    static TEAM: Cell<Option<*const Team>> = const { Cell::new(None) };
}

/// Runs `work` with the pool's other threads awake for [`run`]. Inside another one nothing changes, and neither does it on a thread
/// outside the pool: what that shares out by rayon itself (candle's products, gemm's) would wait for ever for a thread of the pool.
pub(crate) fn with<T>(work: impl FnOnce() -> T) -> T {
    let outside = rayon::current_thread_index().is_none();
    if outside || rayon::current_num_threads() == 1 || TEAM.with(Cell::get).is_some() || super::parallel::inside() {
        return work();
    }
    let team = Team::default();
    rayon::in_place_scope(|scope| {
        scope.spawn_broadcast(|_, _| team.serve());
        // Also after a panic: the others would wait for ever.
        let _end = Dissolve(&team);
        TEAM.with(|place| place.set(Some(&raw const team)));
        work()
    })
}

struct Dissolve<'a>(&'a Team);

impl Drop for Dissolve<'_> {
    fn drop(&mut self) {
        TEAM.with(|place| place.set(None));
        self.0.dissolved.store(true, Ordering::Release);
    }
}

/// Runs `task` on `0..count`, shared with the team; `false` where there is none.
pub(super) fn run(count: usize, task: &(dyn Fn(usize) + Sync)) -> bool {
    let Some(team) = TEAM.with(Cell::get) else { return false };
    // SAFETY: the place is cleared before the team is gone.
    unsafe { &*team }.run(count, task);
    true
}

/// Leaves an operation, also by a panic, so that its owner does not wait for ever.
struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Closes an operation, also after a panic of its own thread: its memory must outlive whoever entered.
struct Close<'a, 'b>(&'a Team, &'a Job<'b>);

impl Drop for Close<'_, '_> {
    fn drop(&mut self) {
        let entered = self.0.state.fetch_and(!OPEN, Ordering::AcqRel) & ENTERED;
        while self.1.left.load(Ordering::Acquire) < entered {
            std::hint::spin_loop();
        }
    }
}

impl Team {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let job = Job { task, count, next: AtomicUsize::new(0), left: AtomicUsize::new(0) };
        self.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        let before = self.state.load(Ordering::Relaxed);
        self.state.store(((before & !(ENTERED | OPEN)).wrapping_add(NEXT)) | OPEN, Ordering::Release);
        let _end = Close(self, &job);
        super::parallel::within(|| job.work());
    }

    /// What the other threads do until the end.
    fn serve(&self) {
        if TEAM.with(|place| place.get().is_some_and(|team| std::ptr::eq(team, self))) {
            // The owner itself, which comes here when it waits for the others at the end.
            return;
        }
        let mut done = 0;
        let mut idle_since = Instant::now();
        let mut rounds = 0u32;
        while !self.dissolved.load(Ordering::Acquire) {
            let state = self.state.load(Ordering::Acquire);
            let number = state & !(ENTERED | OPEN);
            let enter = || self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if state & OPEN != 0 && number != done && enter() {
                done = number;
                // SAFETY: the state says that the operation is open, and its owner waits for those who entered.
                let job = unsafe { &*self.job.load(Ordering::Relaxed).cast::<Job<'_>>() };
                let _left = Leave(&job.left);
                super::parallel::within(|| job.work());
                rounds = 0;
                continue;
            }
            rounds += 1;
            std::hint::spin_loop();
            if rounds == 1 {
                idle_since = Instant::now();
            } else if rounds.is_multiple_of(256) && idle_since.elapsed() > AWAKE {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a test on a thread of a pool of its own.
    fn in_pool(threads: usize, test: impl FnOnce() + Send) {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(test);
    }

    #[test]
    fn every_index_is_run_once_in_many_operations() {
        let check = || {
            assert!(!run(3, &|_| ()));
            with(|| {
                for count in (0..2000).map(|i| i % 37) {
                    let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                    let done = run(count, &|index| {
                        seen[index].fetch_add(1, Ordering::Relaxed);
                    });
                    assert_eq!(done, rayon::current_num_threads() > 1);
                    assert!(!done || seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                }
                // Within another, and in an operation, it stays the same team.
                with(|| run(2, &|_| assert!(super::super::parallel::inside())));
            });
            assert!(!run(3, &|_| ()));
        };
        in_pool(1, check);
        in_pool(2, check);
    }

    #[test]
    fn what_rayon_shares_out_within_a_team_is_done() {
        use rayon::prelude::*;
        let sum = || with(|| (0..1000u64).into_par_iter().sum::<u64>());
        assert_eq!(sum(), 499_500);
        in_pool(2, || assert_eq!(sum(), 499_500));
    }

    #[test]
    fn a_panic_comes_back_and_leaves_nobody_waiting() {
        in_pool(2, || {
            for _ in 0..20 {
                let caught = std::panic::catch_unwind(|| {
                    with(|| {
                        if !run(64, &|index| assert_ne!(index, 40, "on purpose")) {
                            panic!("a single thread");
                        }
                    });
                });
                assert!(caught.is_err());
            }
            with(|| run(8, &|_| ()));
        });
    }
}
