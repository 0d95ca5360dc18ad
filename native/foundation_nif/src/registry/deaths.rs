//! Deaths are told by edge: however many there are, one message is under way at a time, and who
//! gets it takes the counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term, atoms};

use super::instance::NAMES;
use crate::term::word_term;

atoms! { foundation_registry, deaths }

static WATCHER: Mutex<Option<LocalPid>> = Mutex::new(None);
/// Whether a message has been sent since the counts were last taken.
static TOLD: AtomicBool = AtomicBool::new(false);

fn watcher() -> Option<LocalPid> {
    *WATCHER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a process the one that is told, and tells it of what it may have missed.
pub fn watch(env: Env, pid: LocalPid) {
    *WATCHER.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
    TOLD.store(false, Ordering::SeqCst);
    announce(Some(env));
}

/// Tells of a death, unless that has been done and not been heeded yet. `env` is the environment
/// of the current call or callback; `None` on a thread that is not the VM's.
pub fn announce(env: Option<Env>) {
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
        // Nobody is there: the next one to watch is told.
        TOLD.store(false, Ordering::SeqCst);
    }
}

/// Takes the counts of all registries that have any: name, processes, entries.
pub fn take(env: Env<'_>) -> Term<'_> {
    // Before the counts: a death that comes after it sends another message.
    TOLD.store(false, Ordering::SeqCst);
    NAMES
        .all()
        .into_iter()
        .filter_map(|(name, registry)| {
            let processes = registry.dead_processes.swap(0, Ordering::Relaxed);
            let entries = registry.take_cleaned();
            (processes + entries > 0).then(|| (word_term(env, name), processes, entries))
        })
        .collect::<Vec<_>>()
        .encode(env)
}
