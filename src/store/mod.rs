//! (the store's own change replaces this file)

/// A write transaction.
pub mod db {
    /// A connection inside a transaction.
    pub struct Db<'a>(pub std::marker::PhantomData<&'a ()>);
}
/// Reading.
pub mod reader {
    /// A read-only connection, opened on first use.
    pub struct LazyReader;
}
