//! A concurrent table: keys with values that have no owner.
//!
//! Each write gives its entry a version that no other write of this VM ever has. An entry with the
//! version that a caller read has not changed since, not even by a removal and a new put. So
//! [`ConcurrentTable::replace`] is a compare-and-swap on the version.

use std::cell::Cell;

use crate::key::{Key, Opaque, Seed};
use crate::primitive::{AtomicBool, AtomicU64, Ordering, fence};
use crate::table::{Entry, Guard, Inserted, Object, OutOfMemory, Table, Value, Visited, pin};

/// Returns a number that no other call has returned.
fn version() -> u64 {
    // Each thread takes a block of numbers at a time, so that writers do not contend for a counter.
    const BLOCK: u64 = 1 << 12;
    static BLOCKS: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    let next = match NEXT.get() {
        next if next % BLOCK != 0 => next,
        _ => BLOCKS.fetch_add(1, Ordering::Relaxed) * BLOCK,
    };
    NEXT.set(next + 1);
    next
}

/// A table from keys to values. The owner word of an entry holds its version.
pub struct ConcurrentTable<F: Opaque, V: Object> {
    table: Table<F, V>,
    ended: AtomicBool,
}

/// The table has ended, so there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

impl<F: Opaque, V: Object> ConcurrentTable<F, V> {
    /// Makes an empty table.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed) -> Result<Self, OutOfMemory> {
        let table = Table::new(seed)?;
        let ended = AtomicBool::new(false);
        Ok(ConcurrentTable { table, ended })
    }

    /// Ends the table: from now on [`ConcurrentTable::during_life`] returns [`Ended`]. The entries
    /// stay until [`ConcurrentTable::clear`].
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Runs `work`, and returns its result if the table has not ended by then.
    ///
    /// # Errors
    ///
    /// When the table ended before or during `work`. What `work` has written then may stay in the
    /// table until that is dropped.
    #[inline(always)]
    pub fn during_life<'t, R>(&'t self, work: impl FnOnce(&'t Self) -> R) -> Result<R, Ended> {
        if self.ended.load(Ordering::Acquire) {
            return Err(Ended);
        }
        let result = work(self);
        // The table may have ended since the first check. Then the thread that clears it may have
        // removed the key just before `work` looked, and the result says that the key is absent.
        // The fence pairs with the one in `clear`: if `work` saw anything that `clear` stored, then
        // the second check sees the end.
        fence(Ordering::Acquire);
        if self.ended.load(Ordering::Relaxed) {
            return Err(Ended);
        }
        Ok(result)
    }

    /// Returns the entry of `key`.
    #[inline(always)]
    pub fn get<'g>(&self, key: &Key<'_, F::Probe>, guard: &'g Guard) -> Option<Entry<'g, V>> {
        self.table.get(key, self.table.hash(key), guard)
    }

    /// Sets `key` to `value`, whether it is present or not.
    ///
    /// # Errors
    ///
    /// When there is no memory for it; then nothing has changed.
    pub fn put(&self, key: &Key<'_, F::Probe>, value: Value<V>) -> Result<(), OutOfMemory> {
        self.insert(key, value, true).map(|_| ())
    }

    /// Sets `key` to `value` if it is absent, and returns whether it did.
    ///
    /// # Errors
    ///
    /// When there is no memory for it; then nothing has changed.
    pub fn put_new(&self, key: &Key<'_, F::Probe>, value: Value<V>) -> Result<bool, OutOfMemory> {
        self.insert(key, value, false)
    }

    fn insert(
        &self,
        key: &Key<'_, F::Probe>,
        value: Value<V>,
        overwrite: bool,
    ) -> Result<bool, OutOfMemory> {
        let (guard, hash) = (pin(), self.table.hash(key));
        let make = || value;
        let inserted = self
            .table
            .insert(key, hash, version(), make, |_| overwrite, &guard)?;
        Ok(!matches!(inserted, Inserted::Taken(_)))
    }

    /// Gives `key` another value if its entry still has this version, and returns whether it did.
    pub fn replace(&self, key: &Key<'_, F::Probe>, expected: u64, value: Value<V>) -> bool {
        let (guard, hash) = (pin(), self.table.hash(key));
        let is_expected = |entry: &Entry<'_, V>| entry.owner == expected;
        self.table
            .replace_if(key, hash, is_expected, version(), value, &guard)
    }

    /// Removes `key`, and returns whether it was present.
    pub fn remove(&self, key: &Key<'_, F::Probe>) -> bool {
        let (guard, hash) = (pin(), self.table.hash(key));
        self.table.remove(key, hash, |_| true, &guard)
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Returns the bytes of memory that the table uses.
    pub fn memory(&self) -> usize {
        self.table.memory()
    }

    /// Visits entries; see [`Table::walk`].
    pub fn walk<'g>(
        &self,
        from: u64,
        limit: usize,
        guard: &'g Guard,
        visit: impl FnMut(Visited<'g, F, V>),
    ) -> Option<u64> {
        self.table.walk(from, limit, guard, visit)
    }

    /// Removes about `limit` entries, from the hash `from` on. Returns the hash at which to
    /// continue, or `None` at the end. An entry that is inserted behind that point meanwhile
    /// stays. Call it after the end of the table, or when no other thread uses the table.
    pub fn clear(&self, from: u64, limit: usize) -> Option<u64> {
        // Every removal below comes after the end, for a reader too: see `during_life`.
        fence(Ordering::Release);
        let guard = pin();
        let mut hashes = Vec::with_capacity(limit);
        let next = self
            .table
            .walk(from, limit, &guard, |visited| hashes.push(visited.hash));
        for hash in hashes {
            self.table.remove_by_hash(hash, |_| true, &guard);
        }
        next
    }
}

#[cfg(test)]
mod tests;
