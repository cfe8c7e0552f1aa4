//! How specs are completed: what `new` does not ask for has a default and a setter of its name.

/// The setters of a spec's fields.
macro_rules! setters {
    ($spec:ident { $($field:ident: $type:ty),* $(,)? }) => {
        impl $spec {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self#structfield.", stringify!($field), ").")]
                #[must_use]
                pub const fn $field(self, $field: $type) -> Self {
                    Self { $field, ..self }
                }
            )*
        }
    };
}

pub(crate) use setters;
