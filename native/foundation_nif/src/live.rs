//! Counts the live objects of each kind that the library makes, for tests that look for leaks.

use std::sync::atomic::Ordering;

use foundation_core::table::reclaim;
use rustler::{Env, Term, atoms};

use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::registry::instance::{LIVE, LIVE_WATCHES};
use crate::resilience::instance as resilience;
use crate::term::{LIVE_BINARIES, LIVE_TERMS};
use crate::{cache, concurrent_table, event_log, process, telemetry, watch};

nifs! { live_counts / 0 }

atoms! {
    caches, registries, instances, tables, terms, binaries, retired, watches, remotes, event_logs, spans,
}

/// Runs on a dirty scheduler, because it first frees everything that can be freed.
fn live_counts<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    if !may_take_long() {
        return Err(Failure::TakesLong);
    }
    reclaim::flush();
    let counts = [
        (registries(), LIVE.load(Ordering::Relaxed) as i64),
        (tables(), concurrent_table::LIVE.load(Ordering::Relaxed)),
        (terms(), LIVE_TERMS.load(Ordering::Relaxed)),
        (binaries(), LIVE_BINARIES.load(Ordering::Relaxed)),
        (retired(), reclaim::outstanding() as i64),
        (instances(), resilience::LIVE.load(Ordering::Relaxed)),
        (caches(), cache::LIVE.load(Ordering::Relaxed)),
        (
            watches(),
            LIVE_WATCHES.load(Ordering::Relaxed) + watch::LIVE.load(Ordering::Relaxed),
        ),
        (remotes(), process::remote_count() as i64),
        (event_logs(), event_log::LIVE.load(Ordering::Relaxed)),
        (spans(), telemetry::processes_with_spans() as i64),
    ];
    let map = counts
        .into_iter()
        .try_fold(Term::map_new(env), |map, (name, count)| {
            map.map_put(name, count)
        });
    map.map_err(|_| Failure::BadArgument)
}
