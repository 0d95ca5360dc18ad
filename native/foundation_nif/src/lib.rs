//! Foundation's NIFs: terms in, terms out, resources, scheduling.

rustler::init!("Elixir.Foundation.Native");
