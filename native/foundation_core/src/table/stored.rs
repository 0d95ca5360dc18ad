//! The value of a slot in a table with duplicate keys. It is either the value of the key's only
//! entry, or a [`Bag`] with all entries of a key that has had several.
//!
//! Most keys of most registries have one entry. In the slot it costs one cache line and no
//! allocation. A bag is four allocations.

use std::mem::MaybeUninit;

use crate::key::{Key, Opaque};

use super::bag::{Bag, Member, NotAdded, boxed};
use super::reclaim::Guard;
use super::value::{Object, Value, ValueView, ValueWord};
use super::{Entry, Table};

/// The owner word of a slot with a bag. No entry has the owner 0.
pub(crate) const NOBODY: u64 = 0;

/// An object of a table with duplicate keys. A bag contains no bags.
#[derive(Debug)]
pub enum Stored<V: Object> {
    /// The value of an entry.
    One(V),
    /// The entries of a key.
    Bag(Bag<Stored<V>>),
}

impl<V: Object> Stored<V> {
    /// Converts a value to the form in which it is stored.
    pub(crate) fn value(value: Value<V>) -> Value<Self> {
        match value {
            Value::Word(word) => Value::Word(word),
            Value::Blob(blob) => Value::Blob(blob),
            Value::Object(object) => Value::Object(Box::new(Stored::One(*object))),
        }
    }

    /// Converts a stored value back. Returns `None` for a bag, which is not an entry's value.
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
    /// Returns the bag, if there is one.
    pub(crate) fn bag(&self) -> Option<&'g Bag<Stored<V>>> {
        match self.0.value {
            ValueView::Object(Stored::Bag(bag)) => Some(bag),
            _ => None,
        }
    }

    /// Returns the entry with this number.
    pub(crate) fn get(&self, number: u64, guard: &'g Guard) -> Option<Member<'g, V>> {
        let mut found = None;
        self.walk(number, guard, |member| {
            found = (member.number == number).then_some(member);
            false
        });
        found
    }

    /// Returns whether the key's first entry is still present and belongs to `owner`.
    pub(crate) fn first_is_of(&self, owner: u64, guard: &'g Guard) -> bool {
        self.get(0, guard).is_some_and(|first| first.owner == owner)
    }

    /// Visits the entries in order, from the number `from` on, until `visit` returns `false`. Then
    /// it returns the number of that entry, to continue from.
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
    /// Replaces the entry of `key` by a bag with that entry and a new one, whose number is 1.
    ///
    /// # Errors
    ///
    /// Returns the new value if the entry is no longer `expected`. Fails when there is no memory.
    /// Then nothing has changed.
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
        // Assert before a bag exists: dropping a half-made bag would free the value in the table.
        assert_ne!(owner, NOBODY, "expected an owner that is not 0");
        let (segment, _state) = self.directory.lock(hash, guard);
        // SAFETY: the segment's lock and the guard are held.
        let found = segment.probe_locked(hash, |words| unsafe { Self::matches(words, key, hash) });
        let is_expected = |owner, value| owner == expected.owner && value == expected.word.0;
        let Some(position) =
            found.filter(|found| is_expected(found.words.owner, found.words.value))
        else {
            return Err(NotAdded::Closed(value));
        };
        // The value keeps its word: readers may have found it in the slot. From here on the bag is
        // responsible for retiring it.
        let first = ValueWord(position.words.value);
        // SAFETY: the value is in the table, and its segment is locked.
        let before = unsafe { first.size::<Stored<V>>() };
        let second = ValueWord::new(value);
        let entries = [(position.words.owner, first), (owner, second)];
        // Allocate the place first: dropping a bag would free the value that is still in the table.
        let bag = boxed(MaybeUninit::<Stored<V>>::uninit())
            .and_then(|place| Bag::with(id, entries).map(|bag| (place, bag)));
        let Ok((mut place, bag)) = bag else {
            // SAFETY: no bag has the value, and no other code has seen it.
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
