//! Hears of the deaths of processes that hold something of an instance: one monitor for each
//! process and instance.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{OnceLock, Weak};

use rustler::{Env, LocalPid, Monitor, Resource, ResourceArc};

use crate::faults;
use crate::measure::Call;
use crate::process;

/// How many resources share the monitors of an instance's processes. Each keeps its monitors in a
/// tree under a lock of its own.
const WATCHES: usize = 32;

/// An instance that processes hold something of.
pub trait Watched: Send + Sync {
    /// Ends what a dead process held.
    fn mark_dead(self: std::sync::Arc<Self>, env: Env, process: u64);
}

/// Holds the monitors of a part of an instance's processes.
struct Watch {
    instance: Weak<dyn Watched>,
    _live: Live,
}

/// How many resources hold monitors for instances.
pub static LIVE: AtomicI64 = AtomicI64::new(0);

/// Counts an object for as long as it is there.
pub struct Live(&'static AtomicI64);

impl Live {
    pub fn new(counter: &'static AtomicI64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Live(counter)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[rustler::resource_impl(name = "Watch")]
impl Resource for Watch {
    const IMPLEMENTS_DOWN: bool = true;

    /// Runs in the exiting process, so the cost of a death is spread over the schedulers.
    fn down<'a>(&'a self, env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        let _measured = Call::begin(c"holder_down".as_ptr());
        faults::reach(c"holder down");
        if let Some(instance) = self.instance.upgrade() {
            instance.mark_dead(env, process::owner_of(pid));
        }
    }
}

/// The monitors of an instance's processes.
pub struct Watches([OnceLock<ResourceArc<Watch>>; WATCHES]);

impl Default for Watches {
    fn default() -> Self {
        Watches([const { OnceLock::new() }; WATCHES])
    }
}

impl Watches {
    /// Arranges that `instance` hears of the death of a process. Returns `false` if the process is
    /// exiting.
    pub fn watch(
        &self,
        env: Env,
        process: u64,
        instance: impl FnOnce() -> Weak<dyn Watched>,
    ) -> bool {
        faults::reach(c"watch a holder");
        let watch = self.0[(process >> 4) as usize % WATCHES].get_or_init(|| {
            ResourceArc::new(Watch {
                instance: instance(),
                _live: Live::new(&LIVE),
            })
        });
        env.monitor(watch, &process::local(process)).is_some()
    }
}
