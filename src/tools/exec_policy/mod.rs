//! Which commands may run, and when somebody is asked first (TOOL-50, TOOL-51). Pure: nothing here looks at the disk
//! but [`document`], which is how the operator's word is kept.
//!
//! [`document`] is what the operator says and what was granted for good. [`reader`] splits a command line into its
//! programs, strictly: what it does not understand is no match of any list.
//!
//! **Invariant:** a word of a rule that nobody knows is read as the strictest. **Invariant:** a grant is of exactly what
//! was approved.

pub mod document;
pub mod reader;

use serde::{Deserialize, Serialize};

macro_rules! ordered_words {
    ( $(#[$meta:meta])* $name:ident, strictest $strictest:ident { $( $(#[$vmeta:meta])* $variant:ident = $word:literal ),* $(,)? } ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $( $(#[$vmeta])* $variant ),* }

        impl $name {
            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word ),* }
            }

            /// The value of a word, in whatever case.
            pub fn parse(word: &str) -> Option<$name> {
                let word = word.trim().to_ascii_lowercase();
                match word.as_str() { $( $word => Some($name::$variant), )* _ => None }
            }

            /// The same; a word that nobody knows is the strictest.
            pub fn or_strictest(word: &str) -> $name {
                $name::parse(word).unwrap_or($name::$strictest)
            }
        }
    };
}

ordered_words! {
    /// Which commands run; the stricter one is the lesser.
    Security, strictest Deny {
        /// None.
        Deny = "deny",
        /// Those on the list.
        Allowlist = "allowlist",
        /// All.
        Full = "full",
    }
}

ordered_words! {
    /// When somebody is asked; the stricter one is the greater.
    Ask, strictest Always {
        /// Never.
        Off = "off",
        /// For what is not on the list.
        OnMiss = "on-miss",
        /// For everything.
        Always = "always",
    }
}
