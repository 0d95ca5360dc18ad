//! Allocations that can fail. The standard library's usual ones abort the process instead.

use crate::table::OutOfMemory;

pub(crate) use crate::table::boxed;

/// Makes room for `more` items.
pub(crate) fn reserve<T>(list: &mut Vec<T>, more: usize) -> Result<(), OutOfMemory> {
    list.try_reserve(more).map_err(|_| OutOfMemory)
}

/// Makes room for `more` items, and no more than that.
pub(crate) fn reserve_exact<T>(list: &mut Vec<T>, more: usize) -> Result<(), OutOfMemory> {
    list.try_reserve_exact(more).map_err(|_| OutOfMemory)
}

/// Makes an empty list with room for `room` items.
pub(crate) fn with_room<T>(room: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut list = Vec::new();
    reserve_exact(&mut list, room)?;
    Ok(list)
}

/// Gives memory back, except the room for `room` items. Keeps all of it when there is no memory for
/// a smaller copy.
pub(crate) fn shrink<T>(list: &mut Vec<T>, room: usize) {
    if let Ok(mut smaller) = with_room(room.max(list.len())) {
        smaller.append(list);
        *list = smaller;
    }
}
