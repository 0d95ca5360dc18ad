//! What a table with duplicate keys keeps of a key: its one entry, in the slot as in a table whose
//! keys are unique, or a [`Bag`] of entries from the second on.
//!
//! Most keys of most registries have one entry. In the slot it costs one cache line, and nothing
//! beside it; a bag is four allocations.

use std::mem::MaybeUninit;

use crate::key::{Key, Opaque};

use super::bag::{Bag, Member, NotAdded, boxed};
use super::reclaim::Guard;
use super::value::{Object, Value, ValueView, ValueWord};
use super::{Entry, Table};

/// The owner of a slot that holds a bag, which belongs to nobody. No entry's owner is 0.
pub(crate) const NOBODY: u64 = 0;

/// An object of a table with duplicate keys. Inside a bag there are no bags.
#[derive(Debug)]
pub enum Stored<V: Object> {
    /// The value of an entry.
    One(V),
    /// The entries of a key.
    Bag(Bag<Stored<V>>),
}

impl<V: Object> Stored<V> {
    /// A value as it is stored.
    pub(crate) fn value(value: Value<V>) -> Value<Self> {
        match value {
            Value::Word(word) => Value::Word(word),
            Value::Blob(blob) => Value::Blob(blob),
            Value::Object(object) => Value::Object(Box::new(Stored::One(*object))),
        }
    }

    /// A stored value as it was given. `None` for a bag, which is no entry's value.
    fn view<'g>(view: ValueView<'g, Self>) -> Option<ValueView<'g, V>> {
        match view {
            ValueView::Word(word) => Some(ValueView::Word(word)),
            ValueView::Bytes(bytes) => Some(ValueView::Bytes(bytes)),
            ValueView::Object(Stored::One(object)) => Some(ValueView::Object(object)),
            ValueView::Object(Stored::Bag(_)) => None,
        }
    }
}

impl<V: Object> Object for Stored<V> {
    fn size(&self) -> usize {
        match self {
            Stored::One(object) => object.size() + size_of::<Self>() - size_of::<V>(),
            Stored::Bag(bag) => bag.size() + size_of::<Self>() - size_of::<Bag<Self>>(),
        }
    }
}

/// The entries of one key.
#[derive(Clone, Copy, Debug)]
pub struct Members<'g, V: Object>(pub(crate) Entry<'g, Stored<V>>);

impl<'g, V: Object> Members<'g, V> {
    /// The bag, where there is one.
    pub(crate) fn bag(&self) -> Option<&'g Bag<Stored<V>>> {
        match self.0.value {
            ValueView::Object(Stored::Bag(bag)) => Some(bag),
            _ => None,
        }
    }

    /// The entry with this number.
    pub(crate) fn get(&self, number: u64, guard: &'g Guard) -> Option<Member<'g, V>> {
        let mut found = None;
        self.walk(number, guard, |member| {
            found = (member.number == number).then_some(member);
            false
        });
        found
    }

    /// Whether the first entry ever is there and `owner`'s.
    pub(crate) fn first_is_of(&self, owner: u64, guard: &'g Guard) -> bool {
        self.get(0, guard).is_some_and(|first| first.owner == owner)
    }

    /// Visits the entries from the one numbered `from` on, in their order, until `visit` refuses
    /// one by returning `false`: then it returns the number of that one, to go on from.
    pub fn walk(
        &self,
        from: u64,
        guard: &'g Guard,
        mut visit: impl FnMut(Member<'g, V>) -> bool,
    ) -> Option<u64> {
        let mut show = |owner, number, value| match Stored::view(value) {
            Some(value) => visit(Member {
                owner,
                number,
                value,
            }),
            None => true,
        };
        if let Some(bag) = self.bag() {
            return bag.walk(from, guard, |member| {
                show(member.owner, member.number, member.value)
            });
        }
        (from == 0 && !show(self.0.owner, 0, self.0.value)).then_some(0)
    }
}

impl<F: Opaque, V: Object> Table<F, Stored<V>> {
    /// Makes a bag of the entry of `key`, with another one in it that it numbers 1.
    ///
    /// # Errors
    ///
    /// With the value of that one if the entry is not exactly `expected` any more; or when there is
    /// no memory. Nothing has changed then.
    #[expect(
        clippy::too_many_arguments,
        reason = "a key, two entries, and a bag's id"
    )]
    pub(crate) fn gather(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        expected: &Entry<'_, Stored<V>>,
        id: u64,
        owner: u64,
        value: Value<Stored<V>>,
        guard: &Guard,
    ) -> Result<(), NotAdded<Stored<V>>> {
        // A bag that panicked half made would free the value that is still in the table.
        assert_ne!(owner, NOBODY, "expected an owner that is not 0");
        let (segment, _state) = self.directory.lock(hash, guard);
        // SAFETY: the segment's lock is held, and the guard.
        let found = segment.probe_locked(hash, |words| unsafe { Self::matches(words, key, hash) });
        let is_expected = |owner, value| owner == expected.owner && value == expected.word.0;
        let Some(position) =
            found.filter(|found| is_expected(found.words.owner, found.words.value))
        else {
            return Err(NotAdded::Closed(value));
        };
        // The value moves as it is: readers may have found it in the slot, and from here on the bag
        // retires it.
        let first = ValueWord(position.words.value);
        // SAFETY: the value is in the table, under the lock.
        let before = unsafe { first.size::<Stored<V>>() };
        let second = ValueWord::new(value);
        let entries = [(position.words.owner, first), (owner, second)];
        // The place first: a bag that is dropped frees the value that is still in the table.
        let bag = boxed(MaybeUninit::<Stored<V>>::uninit())
            .and_then(|place| Bag::with(id, entries).map(|bag| (place, bag)));
        let Ok((mut place, bag)) = bag else {
            // SAFETY: no bag has the value, which nobody else has seen.
            drop(unsafe { second.take::<Stored<V>>() });
            return Err(NotAdded::OutOfMemory);
        };
        place.write(Stored::Bag(bag));
        // SAFETY: the place has just been written.
        let bag = unsafe { Box::from_raw(Box::into_raw(place).cast::<Stored<V>>()) };
        let grown = bag.size() as i64 - before as i64;
        position.replace(NOBODY, ValueWord::new(Value::Object(bag)).0);
        self.heap.add(hash, grown);
        Ok(())
    }
}
