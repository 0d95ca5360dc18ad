//! Values: one word of the slot, which is the value itself or a pointer to it.

use super::blob::Blob;
use super::reclaim::Guard;

/// An object that a table stores for its user, besides byte strings and words.
pub trait Object: Send + Sync + 'static {
    /// Returns the bytes of memory that it uses, itself included.
    fn size(&self) -> usize;
}

/// A value to put into a table.
#[derive(Debug)]
pub enum Value<V> {
    /// An odd word, stored in the slot.
    Word(u64),
    /// A byte string, stored outside the slot.
    Blob(Blob),
    /// An object, stored outside the slot.
    Object(Box<V>),
}

/// A value as a reader sees it during its guard.
#[derive(Debug)]
pub enum ValueView<'g, V> {
    /// An odd word.
    Word(u64),
    /// A byte string.
    Bytes(&'g [u8]),
    /// An object.
    Object(&'g V),
}

impl<V> Clone for ValueView<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for ValueView<'_, V> {}

const POINTER_TAG: usize = 3;
const OBJECT: usize = 2;

/// The word of a value in a slot: odd for a word, else a pointer, whose second bit marks an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueWord(pub(super) u64);

impl ValueWord {
    pub(super) fn new<V: Object>(value: Value<V>) -> Self {
        const { assert!(align_of::<V>() > POINTER_TAG) };
        match value {
            Value::Word(word) => {
                assert!(word & 1 == 1, "expected an odd word, got: {word:#x}");
                ValueWord(word)
            }
            Value::Blob(blob) => ValueWord(blob.into_raw().expose_provenance() as u64),
            Value::Object(object) => {
                ValueWord((Box::into_raw(object).expose_provenance() | OBJECT) as u64)
            }
        }
    }

    fn pointer(self) -> *mut () {
        std::ptr::with_exposed_provenance_mut(self.0 as usize & !POINTER_TAG)
    }

    fn is_object(self) -> bool {
        self.0 as usize & POINTER_TAG == OBJECT
    }

    /// # Safety
    ///
    /// The word came from [`ValueWord::new`] of a `Value<V>`, and the memory behind it is not freed
    /// during `'g`.
    #[inline]
    pub(super) unsafe fn view<'g, V>(self) -> ValueView<'g, V> {
        if self.0 & 1 == 1 {
            ValueView::Word(self.0)
        } else if self.is_object() {
            // SAFETY: the pointer is that of a `Box<V>` that the caller keeps alive.
            ValueView::Object(unsafe { &*self.pointer().cast::<V>() })
        } else {
            // SAFETY: the pointer is that of a blob that the caller keeps alive.
            ValueView::Bytes(unsafe { Blob::bytes_of(self.pointer()) })
        }
    }

    /// Takes the value back.
    ///
    /// # Safety
    ///
    /// As [`ValueWord::view`]. No other code can reach the value, and it is taken only once.
    pub(super) unsafe fn take<V>(self) -> Value<V> {
        if self.0 & 1 == 1 {
            Value::Word(self.0)
        } else if self.is_object() {
            // SAFETY: the pointer came from `Box::into_raw`, and the caller is its only user.
            Value::Object(unsafe { Box::from_raw(self.pointer().cast()) })
        } else {
            // SAFETY: as above, for a blob.
            Value::Blob(unsafe { Blob::from_raw(self.pointer()) })
        }
    }

    /// Returns the bytes of memory that the value uses outside its slot.
    ///
    /// # Safety
    ///
    /// As [`ValueWord::view`].
    pub(super) unsafe fn size<V: Object>(self) -> usize {
        // SAFETY: the caller promises it.
        match unsafe { self.view::<V>() } {
            ValueView::Word(_) => 0,
            ValueView::Bytes(bytes) => Blob::size_of(bytes),
            ValueView::Object(object) => object.size(),
        }
    }

    /// Frees the value once no reader can see it.
    ///
    /// # Safety
    ///
    /// As [`ValueWord::take`], except that readers that started earlier may still see the value.
    pub(super) unsafe fn retire<V: Object>(self, guard: &Guard) {
        if self.0 & 1 == 1 {
            return;
        }
        // SAFETY: the value is alive until it is retired, and the caller promises to retire it
        // once.
        unsafe {
            let size = self.size::<V>();
            if self.is_object() {
                guard.retire(self.pointer().cast::<V>(), size);
            } else {
                guard.retire_with(self.pointer(), Blob::free, size);
            }
        }
    }
}

impl<V: Object> Value<V> {
    /// Returns the bytes of memory that the value uses outside its slot.
    pub fn size(&self) -> usize {
        match self {
            Value::Word(_) => 0,
            Value::Blob(blob) => Blob::size_of(blob.bytes()),
            Value::Object(object) => object.size(),
        }
    }
}

impl<V> Value<V> {
    /// Makes the value for `bytes`, or returns `None` when there is no memory for them.
    pub fn bytes(bytes: &[u8]) -> Option<Self> {
        Blob::new(bytes).map(Value::Blob)
    }

    /// Like [`Value::bytes`], for the words of two slices, one after the other.
    pub fn words(first: &[u64], second: &[u64]) -> Option<Self> {
        Blob::words(first, second).map(Value::Blob)
    }
}
