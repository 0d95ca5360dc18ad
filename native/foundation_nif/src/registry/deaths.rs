//! Notifies one process of the clean-ups in one registry. The notification is edge-triggered: at
//! most one message is unread, and its receiver takes the count. Clean-ups in other registries send
//! nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustler::{Env, LocalPid, OwnedEnv, atoms};

use super::instance::Registry;

atoms! { foundation_registry, deaths }

/// The name of the watched registry; 0, which is no atom's word, when there is none.
static WATCHED: AtomicU64 = AtomicU64::new(0);
static WATCHER: Mutex<Option<LocalPid>> = Mutex::new(None);
/// Whether a message was sent since the count was last taken.
static TOLD: AtomicBool = AtomicBool::new(false);

fn watcher() -> Option<LocalPid> {
    *WATCHER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes `pid` the process that is notified of clean-ups in the registry `name`. It is notified at
/// once, because its predecessor may have died with a message unread.
pub fn watch(env: Env, name: u64, pid: LocalPid) {
    *WATCHER.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
    WATCHED.store(name, Ordering::SeqCst);
    TOLD.store(false, Ordering::SeqCst);
    tell(Some(env));
}

/// Notifies the watcher that entries of a dead process were removed from `registry`. `env` is the
/// environment of the current call or callback, or `None` on a thread that the VM does not run.
pub fn announce(env: Option<Env>, registry: &Registry) {
    if WATCHED.load(Ordering::SeqCst) == registry.name {
        tell(env);
    }
}

fn tell(env: Option<Env>) {
    if TOLD.swap(true, Ordering::SeqCst) {
        return;
    }
    let sent = watcher().is_some_and(|watcher| match env {
        Some(env) => env
            .send(&watcher, (foundation_registry(), deaths()))
            .is_ok(),
        None => OwnedEnv::new()
            .send_and_clear(&watcher, |_| (foundation_registry(), deaths()))
            .is_ok(),
    });
    if !sent {
        // The watcher is dead. The next one is notified when it begins to watch.
        TOLD.store(false, Ordering::SeqCst);
    }
}

/// Lets the next clean-up send a message. Call it before the count is taken. In the other order, a
/// clean-up in between would send no message, and its count would wait for the next death.
pub fn arm() {
    TOLD.store(false, Ordering::SeqCst);
}
